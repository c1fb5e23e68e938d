"""Bends: the law they are fitted from is found again, and where nothing bends they change nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import linregress, norm

from steercache.core.errors import UsageError
from steercache.steering.margin_curve import bent, fit_margin_curve, likely_right, pilot_places

STEPS = np.array([0.05, 0.1, 0.2, 0.3, 0.5])


def test_the_law_is_found_again_from_two_strengths_and_holds_at_the_others() -> None:
    per_step = np.random.default_rng(0).normal(size=40)
    slope = 1 - 1.2 * STEPS**2 - 0.8 * STEPS**3
    offset = -3 * STEPS**2 + 2 * STEPS**3
    lines = STEPS[:, None] * per_step
    moved = slope[:, None] * lines + offset[:, None]
    bend = fit_margin_curve(STEPS[[4, 2]], lines[[4, 2], :16], moved[[4, 2], :16])
    np.testing.assert_allclose(bent(bend, STEPS, lines), moved, atol=1e-12)
    np.testing.assert_allclose(bend.spread_at(STEPS), 0, atol=1e-12)
    one = fit_margin_curve(STEPS[[4]], lines[[4]], moved[[4]])
    np.testing.assert_allclose(bent(one, STEPS[[4]], lines[[4]]), moved[[4]], atol=1e-12)
    assert one.offset[1] == one.slope[1] == 0


@given(st.integers(0, 2**32 - 1))
def test_where_lines_are_right_nothing_bends(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lines = STEPS[:, None] * rng.normal(size=20)
    bend = fit_margin_curve(STEPS[[2, 4]], lines[[2, 4], :8], lines[[2, 4], :8])
    np.testing.assert_allclose(bent(bend, STEPS, lines), lines, atol=1e-9)


def test_slope_and_offset_are_those_of_a_regression_and_the_spread_is_what_it_leaves() -> None:
    rng = np.random.default_rng(1)
    lines = rng.normal(size=(1, 50))
    moved = 0.4 * lines - 1 + 0.3 * rng.normal(size=lines.shape)
    bend = fit_margin_curve([0.5], lines, moved)
    found = linregress(lines[0], moved[0])
    assert bend.slope_at(0.5) == pytest.approx(found.slope)
    assert bend.offset_at(0.5) == pytest.approx(found.intercept)
    left = moved[0] - found.intercept - found.slope * lines[0]
    assert bend.spread_at([0.0, 0.25, 0.5, 0.9]).tolist() == pytest.approx([0, left.std() / 4, left.std(), left.std()])


def test_a_gradient_never_says_the_contrary_far_out() -> None:
    lines = np.random.default_rng(2).normal(size=(1, 30))
    assert fit_margin_curve([0.5], lines, -lines).slope_at([0.1, 0.5, 2.0]).tolist() == pytest.approx([0.96, 0, 0])
    assert fit_margin_curve([0.5], lines, 3 * lines).slope_at(0.5) == 1
    same = fit_margin_curve([0.5], np.zeros((1, 5)), np.full((1, 5), -2.0))  # lines that say nothing have no slope
    assert bent(same, [0.5], np.zeros((1, 5))).tolist() == [[-2.0] * 5]


def test_the_mean_over_all_questions_takes_their_lines_into_account() -> None:
    """Against the pilot's own mean, on questions whose lines differ: the error shrinks by what lines explain."""
    rng = np.random.default_rng(3)
    errors = []
    for _ in range(200):
        lines = 2 * rng.normal(size=(1, 256))
        moved = 0.5 * lines - 0.5 + 0.3 * rng.normal(size=lines.shape)
        predicted = bent(fit_margin_curve([0.5], lines[:, :16], moved[:, :16]), [0.5], lines)
        errors.append([predicted.mean() - moved.mean(), moved[:, :16].mean() - moved.mean()])
    with_lines, without = np.abs(errors).mean(axis=0)
    assert with_lines < 0.5 * without


def test_expected_right_answers_are_normal_probabilities_and_counts_without_a_spread() -> None:
    margins = np.array([[-1.0, 0.5, 2.0], [-1.0, 0.5, 2.0]])
    found = likely_right(margins, [0.0, 0.7])
    assert found.tolist() == pytest.approx([2 / 3, norm.cdf(margins[1] / 0.7).mean()])


def test_a_pilot_runs_the_largest_strength_within_trust_and_one_well_below() -> None:
    assert pilot_places([0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5], trust=0.5) == (4, 6)
    assert pilot_places([0.505, 0.2, 2.0], trust=0.5) == (1, 0)
    assert pilot_places([0.3], trust=0.5) == (0,)
    assert pilot_places([0.9, 0.0, np.nan], trust=0.5) == ()


@pytest.mark.parametrize("steps", [[], [0.5, 0.5], [0.0, 0.5]])
def test_a_pilot_that_says_nothing_is_refused(steps: list[float]) -> None:
    with pytest.raises(UsageError, match="gives no correction"):
        fit_margin_curve(steps, np.ones((len(steps), 4)), np.ones((len(steps), 4)))
    with pytest.raises(UsageError, match="over 1 questions"):
        fit_margin_curve([0.5], [[1.0]], [[1.0]])
