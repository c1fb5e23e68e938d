"""Selections against plain loops, and on features whose answer is known."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import false_discovery_control, fisher_exact

from steercache.core.errors import UsageError
from steercache.core.features import FeatureActs
from steercache.sae.selection import LabelledActs, firing_rate, paper
from steercache.sae.sparse_probe import SELECTIONS, folds, sparse_probe
from tests.sae.planted import DENSE, PLANTED, dense_acts, labelled


def paper_by_hand(acts: np.ndarray, is_anchor: np.ndarray, sentence: np.ndarray, n_top: int, n_keep: int) -> list[int]:
    """The recipe, said in loops."""
    weight: dict[int, float] = {}
    hits: dict[int, int] = {}
    for s in sorted(set(sentence[is_anchor].tolist())):
        rows = [i for i in range(len(acts)) if is_anchor[i] and sentence[i] == s]
        peak = [max(float(acts[i][f]) for i in rows) for f in range(acts.shape[1])]
        firing = [f for f in range(acts.shape[1]) if peak[f] > 0]
        for r, f in enumerate(sorted(firing, key=lambda f: (-peak[f], f))[:n_top], start=1):
            weight[f] = weight.get(f, 0.0) + 1 - (r - 1) / n_top
            hits[f] = hits.get(f, 0) + 1
    kept = [f for f in weight if hits[f] >= 2]
    return sorted(kept, key=lambda f: (-round(weight[f], 9), f))[:n_keep]


@settings(max_examples=60, deadline=None)
@given(
    arrays(
        np.float32, st.tuples(st.integers(2, 24), st.integers(1, 30)), elements=st.sampled_from([0, 0, 0, 1, 2, 3, 5])
    ),
    st.data(),
)
def test_the_papers_recipe_is_that_of_plain_loops_ties_included(acts: np.ndarray, data: st.DataObject) -> None:
    n = len(acts)
    is_anchor = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    sentence = np.array(data.draw(st.lists(st.integers(0, 5), min_size=n, max_size=n)))
    if not is_anchor.any():
        is_anchor[0] = True
    rows = LabelledActs(acts=FeatureActs.from_dense(acts), is_anchor=is_anchor, sentence=sentence)
    found = paper(rows, n_top=4, n_keep=3)
    assert [c.feature for c in found if c.picked] == paper_by_hand(acts, is_anchor, sentence, 4, 3)
    assert [c.rank for c in found] == list(range(1, len(found) + 1))
    assert all(c.reason for c in found)


def test_the_papers_recipe_has_its_published_numbers() -> None:
    acts, is_anchor, sentence = dense_acts()
    found = paper(labelled())
    assert [c.feature for c in found if c.picked] == paper_by_hand(acts, is_anchor, sentence, 20, 16)
    assert [c.feature for c in found[:2]] == list(DENSE), "it looks at anchors only: what fires everywhere comes first"
    assert set(PLANTED) <= {c.feature for c in found if c.picked}
    top = found[0]
    assert (top.n_sentences, top.picked, top.rate_anchor, top.rate_control) == (20, True, 1.0, 1.0)


def test_firing_rates_are_those_of_plain_loops() -> None:
    acts, is_anchor, _ = dense_acts()
    found = firing_rate(labelled())
    n_anchor, n_control = int(is_anchor.sum()), int((~is_anchor).sum())
    firing = [f for f in range(acts.shape[1]) if any(acts[i][f] > 0 for i in range(len(acts)))]
    p = {}
    for f in firing:
        a = sum(bool(acts[i][f] > 0) for i in range(len(acts)) if is_anchor[i])
        c = sum(bool(acts[i][f] > 0) for i in range(len(acts)) if not is_anchor[i])
        p[f] = (
            fisher_exact([[a, n_anchor - a], [c, n_control - c]], alternative="greater").pvalue,
            a / n_anchor,
            c / n_control,
        )
    q = dict(zip(firing, false_discovery_control([p[f][0] for f in firing]), strict=True))
    for c in found:
        assert c.p == pytest.approx(p[c.feature][0])
        assert c.q == pytest.approx(q[c.feature])
        assert (c.rate_anchor, c.rate_control) == pytest.approx(p[c.feature][1:])
        assert c.score == pytest.approx(p[c.feature][1] - p[c.feature][2])
        assert not c.picked or (c.q is not None and c.q <= 0.05)
    assert {c.feature for c in found} == {f for f in firing if p[f][1] > p[f][2]}


@pytest.mark.parametrize("method", [firing_rate, sparse_probe])
@pytest.mark.parametrize("seed", range(3))
def test_planted_features_are_recovered_and_those_that_fire_everywhere_are_not(method, seed: int) -> None:
    found = method(labelled(seed))
    assert [c.feature for c in found[:3]] == sorted(PLANTED, key=[c.feature for c in found].index)
    picked = {c.feature for c in found if c.picked}
    assert set(PLANTED) <= picked
    assert not picked & set(DENSE)


@pytest.mark.parametrize("method", SELECTIONS)
def test_planted_features_are_not_recovered_where_their_labels_are_permuted(method: str) -> None:
    rows = labelled()
    names = np.random.default_rng(5).permutation(rows.acts.n_features).astype(np.int32)
    assert not set(names[list(PLANTED)].tolist()) & set(PLANTED)
    moved = FeatureActs.from_triples(
        rows.acts.row_of_entry, names[rows.acts.indices], rows.acts.values, n_rows=rows.acts.n_rows, n_features=200
    )
    before = {c.feature for c in SELECTIONS[method](rows) if c.picked}
    after = {c.feature for c in SELECTIONS[method](replace(rows, acts=moved)) if c.picked}
    assert {int(names[f]) for f in PLANTED} <= after, "the same features, under their new names"
    assert set(PLANTED) <= before


def test_no_feature_is_picked_by_the_exact_test_where_anchors_are_drawn_at_random() -> None:
    rows = labelled()
    for seed in range(5):
        label = np.random.default_rng(seed).permutation(rows.is_anchor)
        assert not [c for c in firing_rate(replace(rows, is_anchor=label)) if c.picked]


def test_the_sparse_probe_solves_its_own_problem() -> None:
    """The optimality conditions of L1 logistic regression, from the definition: no smaller loss is near."""
    from steercache.sae.sparse_probe import _scaled, _solve

    rows = labelled()
    columns = np.flatnonzero(rows.sentence_max().firing_counts())
    matrix = _scaled(rows, columns)
    dense = matrix.toarray()
    assert dense.max() == pytest.approx(1.0)
    weights, bias = _solve(matrix, rows.is_anchor, 1.0)
    y = np.where(rows.is_anchor, 1.0, -1.0)
    n, n_anchor = len(y), rows.n_anchor
    each = np.where(rows.is_anchor, n / (2 * n_anchor), n / (2 * (n - n_anchor)))
    slope = -(each * y / (1 + np.exp(y * (dense @ weights + bias)))) @ dense
    active = weights != 0
    np.testing.assert_allclose(slope[active], -np.sign(weights[active]), atol=2e-3)
    assert np.all(np.abs(slope[~active]) <= 1 + 2e-3)


def test_a_sentence_is_in_one_fold() -> None:
    sentence = np.array([9, 9, 4, 4, 7, 100, 7])
    fold = folds(sentence, 3)
    assert fold.tolist() == [2, 2, 0, 0, 1, 0, 1]


def test_what_cannot_be_selected_is_said() -> None:
    acts = FeatureActs.from_dense(np.ones((2, 3), np.float32))
    with pytest.raises(UsageError, match="no row is an anchor"):
        LabelledActs(acts=acts, is_anchor=np.zeros(2, bool), sentence=np.arange(2))
    only = LabelledActs(acts=acts, is_anchor=np.ones(2, bool), sentence=np.arange(2))
    assert len(paper(only)) == 3
    for method in (firing_rate, sparse_probe):
        with pytest.raises(UsageError, match="no row is a control"):
            method(only)


def test_an_sae_that_never_fires_gives_no_candidates() -> None:
    silent = FeatureActs.from_dense(np.zeros((4, 3), np.float32))
    rows = LabelledActs(acts=silent, is_anchor=np.array([1, 0, 1, 0], bool), sentence=np.array([0, 0, 1, 1]))
    assert [SELECTIONS[name](rows) for name in SELECTIONS] == [(), (), ()]


def test_one_sentence_is_too_few() -> None:
    acts = FeatureActs.from_dense(np.array([[1, 0], [0, 1]], np.float32))
    rows = LabelledActs(acts=acts, is_anchor=np.array([1, 0], bool), sentence=np.zeros(2, np.int64))
    (only,) = paper(rows)
    assert (only.picked, only.n_sentences, only.score) == (False, 1, 1.0)
    assert "1 sentence; needs 2" in only.reason
    assert math.isclose(only.rate_anchor, 1.0)
