"""Directions at attention heads: against the code of inference-time intervention in a few lines of scikit-learn and numpy."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from steercache.core.errors import UsageError
from steercache.core.selection import Selection
from steercache.fit import diagnose, head_probes
from steercache.fit.folds import assign_folds, group_rows
from steercache.fit.sides import split_sides
from tests.fit.arrays import ArraySource, selection

HEADS, WIDTH, N_PAIRS = 4, 6, 30


def answers(planted: dict[tuple[int, int], float], *, seed: int = 0) -> Selection:
    """Pairs of rows over two layers of four heads; `planted` says how far (layer, head) moves for the positive side."""
    rng = np.random.default_rng(seed)
    label = np.tile([1, 0], N_PAIRS)
    arrays = {}
    for layer in (0, 1):
        x = rng.normal(size=(2 * N_PAIRS, HEADS, WIDTH)) * rng.uniform(0.5, 2, WIDTH)
        for (at, head), strength in planted.items():
            if at == layer:
                x[:, head] += strength * label[:, None] * np.eye(WIDTH)[head]
        arrays[layer] = x.reshape(2 * N_PAIRS, -1).astype(np.float32)
    pair = np.repeat(np.arange(N_PAIRS), 2)
    rows = np.arange(2 * N_PAIRS)
    return selection(ArraySource(arrays=arrays), rows, label, pair=pair, sample_idx=rows, site="head_out")


def test_the_vector_is_that_of_honest_llama_at_the_heads_with_the_best_probes() -> None:
    sel = answers({(0, 2): 6.0, (1, 1): 4.0, (1, 3): 1.5})
    label = np.asarray(sel.label)
    fold = assign_folds(group_rows(sel, split_sides(sel)), label == 1)
    accuracy = np.zeros((2, HEADS))
    for layer in (0, 1):
        for head in range(HEADS):
            x = sel.gather(layer).reshape(-1, HEADS, WIDTH)[:, head]
            for f in range(int(fold.max()) + 1):
                model = LogisticRegression(max_iter=1000).fit(x[fold != f], label[fold != f])
                accuracy[layer, head] += model.score(x[fold == f], label[fold == f]) / (fold.max() + 1)
    best = np.argsort(-accuracy, axis=None, kind="stable")[:3]

    vector = head_probes(sel, top=3, n_heads=HEADS)
    heads = vector.provenance["params"]["heads"]
    assert [(layer, head) for layer, head, _ in heads] == [divmod(int(at), HEADS) for at in best]
    np.testing.assert_allclose([one for *_, one in heads], accuracy.flat[best], atol=1e-12)

    for layer in vector.layers:
        expected = np.zeros((HEADS, WIDTH))
        for head in (head for at, head, _ in heads if at == layer):
            x = sel.gather(layer).astype(np.float64).reshape(-1, HEADS, WIDTH)[:, head]
            direction = x[label == 1].mean(axis=0) - x[label == 0].mean(axis=0)
            direction /= np.linalg.norm(direction)
            expected[head] = np.std(x @ direction) * direction
        np.testing.assert_allclose(vector.at(layer), expected.ravel(), atol=1e-6)


def test_only_layers_with_a_head_that_is_kept_are_in_the_vector_and_diagnostics_hold_rows_out() -> None:
    sel = answers({(1, 1): 6.0})
    vector = head_probes(sel, top=1, n_heads=HEADS)
    assert vector.layers == (1,)
    assert [one[:2] for one in vector.provenance["params"]["heads"]] == [[1, 1]]
    measured = diagnose(sel, vector).diagnostics[0]
    assert measured["held_out"]
    assert measured["auc"] > 0.95
    assert measured["wrong_way"] < 0.05
    nothing = answers({}, seed=5)
    in_sample = diagnose(nothing, head_probes(nothing, top=1, n_heads=HEADS)).diagnostics[0]
    assert in_sample["auc"] < 0.85  # the head was chosen on all rows, its direction was not


def test_what_cannot_be_probed_is_refused() -> None:
    sel = answers({})
    with pytest.raises(UsageError, match="these are of resid_post"):
        head_probes(replace(sel, site="resid_post"), n_heads=HEADS)
    with pytest.raises(UsageError, match="is not known"):
        head_probes(sel)
    with pytest.raises(UsageError, match="not the outputs of 5 heads"):
        head_probes(sel, n_heads=5)
    with pytest.raises(UsageError, match="the best 0 heads"):
        head_probes(sel, n_heads=HEADS, top=0)
    with pytest.raises(UsageError, match="no rows can be held out"):
        head_probes(replace(sel, pair=np.zeros(len(sel), np.int64)), n_heads=HEADS)
