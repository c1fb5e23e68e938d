"""Screening against loops written out, and against what vectors really do to a small model."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from steercache.core.errors import UsageError
from steercache.steering.branch import BranchOptions, branch
from steercache.steering.cells import BranchCell
from steercache.steering.gradient import margin_gradients
from steercache.steering.screen import (
    GradientScreen,
    answer_margins,
    each_layer_shifts,
    margins_after,
    mean_shifts,
    null_ranks,
    predict,
    sample_shifts,
)
from tests.steering.small import WIDTH, directions, padded_batch, small_model

Array = np.ndarray[Any, Any]


def made_up(
    seed: int, *, n: int = 7, k: int = 4, d: int = 6, layers: tuple[int, ...] = (3, 5)
) -> tuple[GradientScreen, Array, Array]:
    """A screen over log probabilities (n, k) with gradients (l, n, k, d) of our own; some options are missing."""
    rng = np.random.default_rng(seed)
    log_p, gradient = rng.normal(size=(n, k)), rng.normal(size=(len(layers), n, k, d))
    n_options = rng.integers(2, k + 1, size=n)
    margins, moved = np.full((n, k), np.nan), np.full((len(layers), n, k, d), np.nan)
    for i, count in enumerate(n_options):
        for j in range(count):
            others = [o for o in range(count) if o != j]
            margins[i, j] = log_p[i, j] - log_p[i, others].mean()
            moved[:, i, j] = gradient[:, i, j] - gradient[:, i, others].mean(axis=1)
        log_p[i, count:] = -np.inf
    moved32 = moved.astype(np.float32)
    screen = GradientScreen(
        layers=layers,
        gradient_of=lambda layer: moved32[layers.index(layer)],
        margins=margins.astype(np.float32),
        right=rng.integers(0, n_options),
    )
    return screen, log_p, gradient


def margins_by_loop(log_p: Array, right: Array) -> list[float]:
    return [row[r] - max(x for j, x in enumerate(row) if j != r) for row, r in zip(log_p, right, strict=True)]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), memory=st.sampled_from([1, 3000, 10**8]), per_layer=st.booleans())
def test_predictions_are_those_of_moving_every_log_probability(seed: int, memory: int, per_layer: bool) -> None:
    screen, log_p, gradient = made_up(seed)
    rng = np.random.default_rng(seed + 1)
    vectors = rng.normal(size=(2, 5, 6) if per_layer else (5, 6)).astype(np.float32)
    alphas = (0.0, 0.3, 2.0)
    found = predict(screen, vectors, alphas, memory_bytes=memory)
    start = np.array(margins_by_loop(log_p, screen.right))
    np.testing.assert_allclose(answer_margins(screen), start, atol=1e-5)
    assert found.base_accuracy == pytest.approx(float((start > 0).mean()))
    for i in range(2):
        for v, vector in enumerate(vectors[i] if per_layer else vectors):
            for a, alpha in enumerate(alphas):
                moved = log_p + alpha * np.nan_to_num(gradient[i] @ vector)
                margin = np.array(margins_by_loop(moved, screen.right))
                assert found.shift[i, v, a] == pytest.approx(float((margin - start).mean()), abs=1e-4)
                assert found.accuracy[i, v, a] == pytest.approx(float((margin > 0).mean()))
                if alpha:
                    assert found.helped[i, v, a] == (margin > start).sum()
                    assert found.hurt[i, v, a] == (margin < start).sum()


def test_mean_shifts_are_the_mean_of_sample_shifts_and_the_slope_of_predict_at_small_alpha() -> None:
    screen, _, _ = made_up(9)
    vectors = np.random.default_rng(5).normal(size=(8, 6)).astype(np.float32)
    means = mean_shifts(screen, vectors)
    for i, layer in enumerate(screen.layers):
        np.testing.assert_allclose(sample_shifts(screen, vectors, layer).mean(axis=0), means[i], atol=1e-5)
    slopes = predict(screen, vectors, [1e-3]).shift[:, :, 0] / 1e-3
    np.testing.assert_allclose(slopes, means, atol=2e-3)


@pytest.mark.parametrize("k", [2, 4])
def test_every_way_of_asking_gives_the_same_numbers(k: int) -> None:
    screen, log_p, gradient = made_up(12, n=30, k=k)
    vectors = np.random.default_rng(2).normal(size=(2, 9, 6)).astype(np.float32)
    for i, (layer, shifts) in enumerate(each_layer_shifts(screen, vectors)):
        np.testing.assert_allclose(shifts, sample_shifts(screen, vectors, layer), atol=1e-5)
        after = margins_after(screen, layer, vectors[i])
        by_hand = [margins_by_loop(log_p + np.nan_to_num(gradient[i] @ v), screen.right) for v in vectors[i]]
        np.testing.assert_allclose(after, by_hand, atol=1e-4)
    own = np.random.default_rng(3).uniform(0.1, 2, size=(2, 9, 3)).astype(np.float32)
    found = predict(screen, vectors, own)
    for v in range(9):
        for a in range(3):
            alone = predict(screen, vectors[:, v : v + 1], [float(own[1, v, a])])
            assert found.shift[1, v, a] == pytest.approx(float(alone.shift[1, 0, 0]), abs=1e-5)
            assert found.accuracy[1, v, a] == alone.accuracy[1, 0, 0]


def test_a_vector_of_the_nulls_own_kind_gets_a_uniform_rank_and_a_planted_one_the_best() -> None:
    screen, _, _ = made_up(6, n=40)
    rng = np.random.default_rng(7)
    vectors, nulls = rng.normal(size=(400, 6)).astype(np.float32), rng.normal(size=(1000, 6)).astype(np.float32)
    ranks = null_ranks(screen, vectors, nulls)
    assert ranks.min() >= 1 / 1001
    assert ranks.max() <= 1
    np.testing.assert_allclose(np.quantile(ranks[0], [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.08)
    best = np.stack([mean_shifts(screen, np.eye(6, dtype=np.float32))[i] for i in range(2)])[:, None]
    np.testing.assert_allclose(null_ranks(screen, best, nulls), 1 / 1001, rtol=1e-5)
    np.testing.assert_allclose(null_ranks(screen, 50 * vectors, nulls), ranks, rtol=1e-3)


def test_wrong_shapes_and_questions_without_a_wrong_answer_are_refused() -> None:
    screen, _, _ = made_up(1)
    ones = np.ones((3, 6), np.float32)
    with pytest.raises(UsageError, match="vectors for 3 layers"):
        mean_shifts(screen, np.ones((3, 2, 6), np.float32))
    with pytest.raises(UsageError, match="no direction"):
        null_ranks(screen, ones * 0, ones)
    fields = {"layers": (0,), "gradient_of": lambda layer: np.zeros((1, 2, 6), np.float32)}
    with pytest.raises(UsageError, match="right option"):
        GradientScreen(**fields, margins=np.array([[0.5, np.nan]], np.float32), right=np.array([1]))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="at least two options"):
        GradientScreen(**fields, margins=np.array([[0.5, np.nan]], np.float32), right=np.array([0]))  # type: ignore[arg-type]


def test_predicted_shifts_rank_cells_as_their_exact_shifts_do() -> None:
    """Random model (far more crooked than a trained one), 3 layers x 12 directions on image tokens, weak strengths."""
    loaded, batch = small_model("idefics3"), padded_batch("idefics3", lengths=(12,) * 8)
    options, right = [[20, 30, 40]] * 8, np.arange(8) % 3
    layers = (0, 1, 2)
    found = margin_gradients(loaded, batch, options, layers=layers, targets={"image": "image"})
    screen = GradientScreen(
        layers=layers,
        gradient_of=lambda layer: found.values[layers.index(layer), :, 0],
        margins=found.margins,
        right=right,
    )
    vectors = directions(12)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    image = batch.input_ids == 90
    norms: dict[int, float] = {}
    for layer in layers:
        hook = loaded.model.model.text_model.layers[layer].register_forward_hook(
            lambda m, a, out, layer=layer: norms.update({layer: float(out[image].norm(dim=-1).median())})
        )
        list(branch(loaded, batch, [BranchCell(key="", layer=0, delta_d=vectors[0])], BranchOptions(max_new_tokens=1)))
        hook.remove()
    for share, at_least in ((0.02, 0.98), (0.1, 0.93)):
        cells = [
            BranchCell(
                key=f"{layer}:{v}", layer=layer, delta_d=np.float32(share * norms[layer]) * vector, target="image"
            )
            for layer in layers
            for v, vector in enumerate(vectors)
        ]
        exact = {}
        for answer in branch(loaded, batch, cells, BranchOptions(max_new_tokens=1)):
            log_p = answer.logits_bv[:, [20, 30, 40]].numpy()
            exact[answer.key] = np.mean(margins_by_loop(log_p, right) - answer_margins(screen))
        predicted = [
            predict(screen, vectors, [share * norms[layer]]).shift[li, :, 0] for li, layer in enumerate(layers)
        ]
        rho = spearmanr(np.concatenate(predicted), [exact[cell.key] for cell in cells]).statistic
        assert rho >= at_least


def test_ten_thousand_vectors_at_sixteen_layers_over_five_hundred_samples_fit_in_memory() -> None:
    rng = np.random.default_rng(0)
    gradient = rng.normal(size=(500, 2, WIDTH)).astype(np.float32)
    margins = rng.normal(size=(500, 1)).astype(np.float32) * np.array([[1, -1]], np.float32)
    screen = GradientScreen(
        layers=tuple(range(16)), gradient_of=lambda layer: gradient, margins=margins, right=np.zeros(500, np.int64)
    )
    assert mean_shifts(screen, rng.normal(size=(10_000, WIDTH)).astype(np.float32)).shape == (16, 10_000)


def test_predicted_ranks_of_what_overflowed_are_refused() -> None:
    screen, _, _ = made_up(3)
    rng = np.random.default_rng(0)
    vectors, nulls = (rng.normal(size=(n, 6)).astype(np.float32) for n in (2, 9))
    overflowed = GradientScreen(
        layers=screen.layers,
        gradient_of=lambda layer: screen.gradient_of(layer) + np.float32(np.inf),
        margins=screen.margins,
        right=screen.right,
    )
    with pytest.raises(UsageError, match="not finite"), np.errstate(invalid="ignore"):
        null_ranks(overflowed, vectors, nulls)
