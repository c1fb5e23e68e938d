"""Principal components of pairs' differences: against scikit-learn's PCA in the words of repeng, steering-vectors and RepE."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from steercache.core.errors import UsageError
from steercache.core.selection import Selection
from steercache.fit import diagnose, lat, pca_center, pca_diff
from steercache.fit.pca import first_component
from tests.fit.arrays import ArraySource, selection
from tests.fit.planted import cos, planted


def pairs(n_pairs: int = 31, d: int = 12, *, seed: int = 0) -> tuple[Selection, np.ndarray, np.ndarray]:
    """Pairs of one row each, positive and negative in random order of rows; the rows of both sides, (p, d)."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=d)
    both = rng.normal(size=(n_pairs, 2, d)) + rng.normal(size=(n_pairs, 1, d)) * 3
    both[:, 1] += rng.normal(2.0, 1.5, n_pairs)[:, None] * direction / np.linalg.norm(direction)
    both = both.astype(np.float32)
    order = rng.permutation(2 * n_pairs)
    pair, label = np.divmod(order, 2)
    sel = selection(
        ArraySource(arrays={0: both.reshape(-1, d)[order]}),
        np.arange(2 * n_pairs),
        label,
        pair=pair,
        sample_idx=order,
    )
    return sel, both[:, 1].astype(np.float64), both[:, 0].astype(np.float64)


def signed(direction: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """repeng's sign: flipped where more pairs have the positive text's projection below the negative's."""
    below = np.mean(positive @ direction < negative @ direction)
    return -direction if below > np.mean(positive @ direction > negative @ direction) else direction


@pytest.mark.parametrize(("n_pairs", "d"), [(31, 12), (9, 40)])
def test_pca_diff_is_repengs(n_pairs: int, d: int) -> None:
    sel, positive, negative = pairs(n_pairs, d)
    train = positive - negative
    expected = signed(PCA(n_components=1, whiten=False).fit(train).components_[0], positive, negative)
    np.testing.assert_allclose(pca_diff(sel).at(0), expected, atol=1e-5)


@pytest.mark.parametrize(("n_pairs", "d"), [(31, 12), (9, 40)])
def test_pca_center_is_repengs_and_that_of_steering_vectors(n_pairs: int, d: int) -> None:
    sel, positive, negative = pairs(n_pairs, d)
    center = (positive + negative) / 2
    train = np.concatenate([positive - center, negative - center])
    ours = pca_center(sel).at(0)
    expected = signed(PCA(n_components=1, whiten=False).fit(train).components_[0], positive, negative)
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    deltas = positive - negative  # steering-vectors: both signs of the differences, not centred, the sign of their mean
    vec = np.linalg.svd(np.concatenate([deltas, -deltas]).T, full_matrices=False)[0][:, 0]
    np.testing.assert_allclose(ours, vec * np.sign((deltas @ vec).mean()), atol=1e-5)


def test_lat_is_the_reading_vector_of_pairs_in_the_order_that_the_seed_drew() -> None:
    sel, positive, negative = pairs()
    first = np.random.Generator(np.random.PCG64(3)).integers(0, 2, len(positive)) == 1
    shuffled = np.where(first[:, None, None], np.stack([positive, negative], 1), np.stack([negative, positive], 1))
    hidden = shuffled[:, 0] - shuffled[:, 1]  # RepE: H[::2] - H[1::2], recentred, PCA
    component = PCA(n_components=1, whiten=False).fit(hidden - hidden.mean(axis=0)).components_[0]
    ours = lat(sel, seed=3)
    np.testing.assert_allclose(ours.at(0), signed(component, positive, negative), atol=1e-5)
    assert ours.provenance["seed"] == 3
    assert lat(sel, seed=4).values.tobytes() != ours.values.tobytes()


def test_the_difference_that_all_pairs_share_is_seen_by_pca_center_and_lat_and_not_by_pca_diff() -> None:
    rng = np.random.default_rng(1)
    shared, varied = np.eye(12)[0] * 4, np.eye(12)[1]
    negative = rng.normal(size=(60, 12))
    moved = negative + shared + rng.normal(0, 1, 60)[:, None] * varied + rng.normal(0, 0.05, (60, 12))
    sel = selection(
        ArraySource(arrays={0: np.stack([moved, negative], 1).reshape(-1, 12).astype(np.float32)}),
        np.arange(120),
        np.tile([1, 0], 60),
        pair=np.repeat(np.arange(60), 2),
    )
    assert cos(pca_center(sel).at(0), shared) > 0.95
    assert cos(lat(sel).at(0), shared) > 0.9
    assert abs(cos(pca_diff(sel).at(0), shared)) < 0.2


def test_sentences_with_both_sides_are_pairs_and_the_planted_direction_is_found() -> None:
    sel, direction = planted(strength=6.0)
    for fit in (pca_center, lat):
        vector = fit(sel, layers=[1])
        assert cos(vector.at(1), direction) > 0.8
        assert np.linalg.norm(vector.at(1)) == pytest.approx(1, abs=1e-6)
        d = diagnose(sel, vector, n_draws=3).diagnostics[0]
        assert d["held_out"]
        assert d["auc"] > 0.9
        assert d["wrong_way"] < 0.05


def test_two_rows_with_weights_are_their_weighted_mean() -> None:
    sel, _, _ = pairs(10, 6)
    halves = np.concatenate([sel.gather(0) + 1, sel.gather(0) - 1]).astype(np.float32)
    double = selection(
        ArraySource(arrays={0: halves}),
        np.arange(40),
        np.tile(np.asarray(sel.label), 2),
        pair=np.tile(np.asarray(sel.pair), 2),
    )
    np.testing.assert_allclose(pca_center(double).at(0), pca_center(sel).at(0), atol=1e-5)


def test_what_has_no_component_is_refused() -> None:
    sel, _, _ = pairs(4, 6)
    with pytest.raises(UsageError, match="fewer than two have rows of both"):
        pca_diff(replace(sel, pair=None, sample_idx=np.arange(8)))
    with pytest.raises(UsageError, match="one way of fitting"):
        pca_diff(sel, recipe="paper")
    rows = np.repeat(np.random.default_rng(0).normal(size=(3, 6)), 2, axis=0)
    rows[::2] += np.ones(6)
    same = selection(
        ArraySource(arrays={0: np.round(rows * 8).astype(np.float32) / 8}),
        np.arange(6),
        np.array([1, 0] * 3),
        pair=np.repeat(np.arange(3), 2),
    )
    with pytest.raises(UsageError, match="have no principal component"):
        pca_diff(same)
    np.testing.assert_allclose(pca_center(same).at(0), np.ones(6) / np.sqrt(6), atol=1e-5)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 99))
def test_the_first_component_is_that_of_a_singular_value_decomposition(n: int, d: int, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=(n, d))
    found = first_component(x)
    assert found is not None
    assert abs(found @ np.linalg.svd(x)[2][0]) == pytest.approx(1, abs=1e-6)
