"""The candidate directions of angular steering and the plane that they make, against the authors' steps in a few lines."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from steercache.core.errors import UsageError
from steercache.fit import diagnose, unit_shift
from steercache.steering.operations.plane import own_plane
from tests.fit.arrays import ArraySource, selection


def test_the_plane_is_that_of_the_authors_candidates() -> None:
    rng = np.random.default_rng(2)
    n, d, layers = 60, 16, range(5)
    label = np.arange(n) % 2
    concept = rng.normal(size=d)
    arrays = {
        layer: ((rng.normal(size=(n, d)) + 3 + np.outer(label, concept + rng.normal(size=d))) * 4.0**layer).astype(
            np.float32
        )
        for layer in layers
    }
    sel = selection(ArraySource(arrays=arrays), np.arange(n), label)
    vector = unit_shift(sel)

    candidates = []
    for layer in layers:
        x = arrays[layer].astype(np.float64)
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        with_it, without = (x[label == k].mean(axis=0) for k in (1, 0))
        candidates.append(with_it / np.linalg.norm(with_it) - without / np.linalg.norm(without))
    np.testing.assert_allclose(vector.values, candidates, atol=1e-6)

    directions = np.stack(candidates) / np.linalg.norm(candidates, axis=1, keepdims=True)
    first = directions[(directions @ directions.T).mean(axis=1).argmax()]
    second = PCA().fit(np.stack(candidates)).components_[0]
    second = second - (second @ first) * first
    second /= np.linalg.norm(second)
    plane = own_plane(vector)
    np.testing.assert_allclose(plane[0], first, atol=1e-5)
    np.testing.assert_allclose(plane[1], second * np.sign(second @ plane[1]), atol=1e-5)
    assert np.mean(candidates, axis=0) @ plane[1] >= 0


def test_a_row_counts_by_its_direction_and_weight_and_none_of_zeros_can() -> None:
    x = np.array([[1, 0, 0], [0, 5, 0], [0, 0, 2], [3, 0, 0]], dtype=np.float32)
    sel = selection(ArraySource(arrays={0: x}), np.arange(4), np.array([1, 1, 0, 0]))
    half = 0.5**0.5
    np.testing.assert_allclose(unit_shift(sel).at(0), [half - half, half, -half], atol=1e-6)
    weight = np.array([1, 0, 1, 0], dtype=np.float32)
    weighted = selection(ArraySource(arrays={0: x}), np.arange(4), np.array([1, 1, 0, 0]), weight=weight)
    np.testing.assert_allclose(unit_shift(weighted).at(0), [1, 0, -1], atol=1e-6)
    zero = selection(ArraySource(arrays={0: x * [[0], [1], [1], [1]]}), np.arange(4), np.array([1, 1, 0, 0]))
    with pytest.raises(UsageError, match="is zero, so it has no direction"):
        unit_shift(zero)
    with pytest.raises(UsageError, match="one way of fitting"):
        unit_shift(sel, recipe="paper")


def test_its_held_out_measures_are_of_its_own_formula() -> None:
    rng = np.random.default_rng(3)
    label = np.arange(80) % 2
    x = rng.normal(size=(80, 12)) + np.outer(label, np.eye(12)[0] * 4)
    sel = selection(ArraySource(arrays={0: x.astype(np.float32)}), np.arange(80), label, sample_idx=np.arange(80))
    measured = diagnose(sel, unit_shift(sel), n_draws=3).diagnostics[0]
    assert measured["auc"] > 0.9
