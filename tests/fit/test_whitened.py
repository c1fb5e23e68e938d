"""Whitened differences of means: against scikit-learn's discriminant analysis and the mass-mean probe in ten lines."""

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from steercache.core.errors import UsageError
from steercache.fit import diagnose, lda, mass_mean, mean_shift
from tests.fit.arrays import ArraySource, selection
from tests.fit.planted import cos, planted


@pytest.mark.parametrize("n_sentences", [60, 3])
def test_lda_is_scikit_learns_with_the_shrinkage_of_ledoit_and_wolf(n_sentences: int) -> None:
    sel, _ = planted(n_sentences)
    x, y = sel.gather(1).astype(np.float64), np.asarray(sel.label)
    centred = np.concatenate([x[y == k] - x[y == k].mean(axis=0) for k in (0, 1)])
    shrinkage = ledoit_wolf_shrinkage(centred, assume_centered=True)
    assert 0 < shrinkage < 1
    expected = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(x, y).coef_[0]
    np.testing.assert_allclose(lda(sel, layers=[1]).at(1), expected / np.linalg.norm(expected), atol=1e-5)


@pytest.mark.parametrize("n_sentences", [60, 3])
def test_the_mass_mean_probe_is_that_of_marks_and_tegmark(n_sentences: int) -> None:
    sel, _ = planted(n_sentences)
    acts, labels = sel.gather(1).astype(np.float64), np.asarray(sel.label)
    pos, neg = acts[labels == 1], acts[labels == 0]
    direction = pos.mean(axis=0) - neg.mean(axis=0)
    centred = np.concatenate([pos - pos.mean(axis=0), neg - neg.mean(axis=0)])
    values, vectors = np.linalg.eigh(centred.T @ centred / len(acts))
    inverse = vectors[:, values > 1e-3] / values[values > 1e-3] @ vectors[:, values > 1e-3].T
    expected = inverse @ direction
    np.testing.assert_allclose(mass_mean(sel, layers=[1]).at(1), expected / np.linalg.norm(expected), atol=1e-5)


def test_whitening_finds_the_planted_direction_under_dimensions_that_vary_more() -> None:
    rng = np.random.default_rng(0)
    noise = np.array([1.0] * 19 + [40.0])
    x = rng.normal(size=(400, 20)) * noise
    label = np.arange(400) % 2
    x[:, 0] += 1.5 * label
    sel = selection(ArraySource(arrays={0: x.astype(np.float32)}), np.arange(400), label, sample_idx=np.arange(400))
    truth = np.eye(20)[0]
    assert abs(cos(mean_shift(sel).at(0), truth)) < 0.7
    assert cos(lda(sel).at(0), truth) > 0.95
    assert cos(mass_mean(sel).at(0), truth) > 0.95


def test_a_row_of_weight_two_is_that_row_twice_and_of_weight_zero_none() -> None:
    sel, _ = planted(20)
    x, label = sel.gather(1), np.asarray(sel.label)
    weight = np.random.default_rng(0).integers(0, 3, len(x)).astype(np.float32)
    weighted = selection(ArraySource(arrays={0: x}), np.arange(len(x)), label, weight=weight)
    again = np.repeat(np.arange(len(x)), weight.astype(int))
    twice = selection(ArraySource(arrays={0: x[again]}), np.arange(len(again)), label[again])
    np.testing.assert_allclose(mass_mean(weighted).at(0), mass_mean(twice).at(0), atol=1e-5)


def test_held_out_scores_are_of_fits_without_the_fold() -> None:
    sel, _ = planted(strength=0.0)
    measured = diagnose(sel, lda(sel), n_draws=2).diagnostics
    assert all(d["held_out"] for d in measured)
    assert all(abs(d["auc"] - 0.5) < 0.15 for d in measured)


def test_rows_that_are_all_the_same_are_refused() -> None:
    sel = selection(ArraySource(arrays={0: np.ones((8, 4), np.float32)}), np.arange(8), np.arange(8) % 2)
    for fit in (lda, mass_mean):
        with pytest.raises(UsageError, match="all rows are the same"):
            fit(sel)
    small, _ = planted(20)
    tiny = selection(ArraySource(arrays={0: small.gather(1) / 500}), small.rows, np.asarray(small.label))
    with pytest.raises(UsageError, match=r"no direction inside the sides has a variance above 0\.001"):
        mass_mean(tiny)
    assert cos(lda(tiny).at(0), lda(small).at(1)) > 0.999
