"""Intervals, tests and adjustments against SciPy, statsmodels and simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from steercache.core.errors import UsageError
from steercache.stats.arrays import sum_by_group
from steercache.stats.choice import choose_cell, selection_bias
from steercache.stats.clusters import clustering
from steercache.stats.evidence import read_on, start_lead_bets
from steercache.stats.family import letter_shift, max_t
from steercache.stats.paired import (
    holm,
    mcnemar_exact,
    paired_interval,
    rank_p,
    student_quantile,
)
from steercache.stats.power import mcnemar_power, smallest_effect
from steercache.stats.racing import race
from steercache.stats.signs import sign_flip_p


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 30))
def test_mcnemar_equals_statsmodels_exact(helped: int, hurt: int, same: int) -> None:
    before = np.array([0] * helped + [1] * hurt + [1] * same, dtype=bool)
    after = np.array([1] * helped + [0] * hurt + [1] * same, dtype=bool)
    ours = mcnemar_exact(before, after)
    theirs = mcnemar([[same, hurt], [helped, 0]], exact=True)
    assert (ours.helped, ours.hurt) == (helped, hurt)
    assert ours.p_unclustered == pytest.approx(1.0 if helped + hurt == 0 else theirs.pvalue, abs=1e-12)


def test_mcnemar_of_a_large_table_equals_the_binomial_test() -> None:
    before = np.zeros(20_000, dtype=bool)
    after = np.zeros(20_000, dtype=bool)
    after[:5100] = True
    before[5100:10_000] = True
    assert mcnemar_exact(before, after).p_unclustered == pytest.approx(stats.binomtest(4900, 10_000).pvalue, rel=1e-9)


def test_holm_equals_statsmodels() -> None:
    rng = np.random.default_rng(0)
    tables = [rng.random(112) ** 4, np.full(7, 0.02), np.round(rng.random(40) / 5, 2), rng.random(1)]
    for p_values in tables:  # few: statsmodels collects garbage at every call
        np.testing.assert_allclose(holm(p_values), multipletests(p_values, method="holm")[1], atol=1e-12)


def test_what_is_no_probability_is_refused() -> None:
    for wrong in ([0.5, float("nan")], [1.2], [-0.1]):
        with pytest.raises(UsageError):
            holm(wrong)


@pytest.mark.parametrize("df", [5, 9, 30, 149, 2000])
def test_student_quantiles_equal_scipys(df: int) -> None:
    for p in (0.005, 0.025, 0.05, 0.5, 0.975):
        assert student_quantile(p, df) == pytest.approx(stats.t.ppf(p, df), abs=2e-3 * max(1, 30 / df))


def test_sums_by_picture_equal_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    values, index = rng.normal(size=(3, 50)), rng.permutation(np.arange(50) % 7)
    expected = np.array([[row[index == g].sum() for g in range(7)] for row in values])
    np.testing.assert_allclose(sum_by_group(values, index, 7), expected)


def test_the_interval_of_values_agrees_with_scipys_bootstrap_where_pictures_do_not_repeat() -> None:
    rng = np.random.default_rng(1)
    delta = rng.choice([-1.5, 0.0, 1.5], p=[0.1, 0.65, 0.25], size=400)
    ours = paired_interval(delta, np.arange(400), seed=3)
    theirs = stats.bootstrap((delta,), np.mean, n_resamples=10_000, method="percentile", rng=4).confidence_interval
    assert ours.estimate == pytest.approx(delta.mean())
    assert (ours.low, ours.high) == (pytest.approx(theirs.low, abs=0.006), pytest.approx(theirs.high, abs=0.006))


def test_the_interval_of_values_equals_a_plain_cluster_bootstrap() -> None:
    rng = np.random.default_rng(2)
    groups = rng.integers(0, 60, size=200)
    delta = rng.choice([-1.0, 0.0, 1.0], size=200) + (groups % 2) * 0.3
    ours = paired_interval(delta, groups, seed=5)
    members = [np.flatnonzero(groups == g) for g in np.unique(groups)]
    means = []
    for _ in range(4000):
        rows = np.concatenate([members[k] for k in rng.integers(0, len(members), len(members))])
        means.append(delta[rows].mean())
    low, high = np.quantile(means, [0.025, 0.975])
    assert (ours.low, ours.high) == (pytest.approx(low, abs=0.015), pytest.approx(high, abs=0.015))
    assert ours.high - ours.low > high - low - 0.02


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    delta = np.random.default_rng(0).normal(size=80)
    one, two, other = (paired_interval(delta, np.arange(80), seed=s) for s in (1, 1, 2))
    assert one == two
    assert one != other


def test_values_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(UsageError, match="not finite"):
        paired_interval([0.0, float("nan")], ["a", "b"])
    with pytest.raises(UsageError, match="1 groups for 2"):
        paired_interval([0.0, 1.0], ["a"])
    with pytest.raises(UsageError):
        paired_interval([], [])


@pytest.mark.parametrize(("n", "discordant", "effect"), [(60, 0.3, 0.2), (150, 0.2, 0.1), (40, 0.5, 0.0)])
def test_power_equals_simulation(n: int, discordant: float, effect: float) -> None:
    rng = np.random.default_rng(7)
    runs = rng.multinomial(n, [(discordant + effect) / 2, (discordant - effect) / 2, 1 - discordant], size=4000)
    cache: dict[tuple[int, int], float] = {}
    hits = 0
    for helped, hurt, _ in runs:
        key = (int(min(helped, hurt)), int(helped + hurt))
        if key not in cache:
            cache[key] = stats.binomtest(key[0], key[1]).pvalue if key[1] else 1.0
        hits += cache[key] <= 0.05
    assert mcnemar_power(n, effect, discordant=discordant) == pytest.approx(hits / 4000, abs=0.025)


def test_the_smallest_effect_has_the_power_asked_for_and_shrinks_with_n() -> None:
    effects = [smallest_effect(n, discordant=0.25) for n in (100, 150, 500, 2000)]
    for n, effect in zip((100, 150, 500, 2000), effects, strict=True):
        assert effect is not None
        assert mcnemar_power(n, effect, discordant=0.25) == pytest.approx(0.8, abs=2e-3)
    assert all(a > b for a, b in itertools.pairwise(effects))  # type: ignore[operator]
    assert smallest_effect(150, discordant=0.02) is None


def test_max_t_of_one_cell_is_the_sign_flip_test_of_scipy() -> None:
    rng = np.random.default_rng(8)
    delta = rng.choice([-1.0, 0.0, 1.0], p=[0.15, 0.6, 0.25], size=60)
    ours = max_t(delta, np.arange(60), n_flips=20_000)
    theirs = stats.permutation_test(
        (delta,), np.sum, permutation_type="samples", alternative="greater", n_resamples=20_000, rng=1
    )
    assert ours.p_alone[0] == pytest.approx(theirs.pvalue, abs=0.01)
    assert ours.p_family[0] == ours.p_alone[0]


def test_max_t_is_exact_on_a_small_table() -> None:
    delta = np.array([[1.0, 1.0, 1.0, 0.0], [1.0, -1.0, 1.0, 1.0]])
    signs = np.array([[1 if i >> k & 1 else -1 for k in range(4)] for i in range(16)])
    t = signs @ (delta / np.sqrt((delta**2).sum(axis=1, keepdims=True))).T
    observed = t[-1]
    exact = np.array([np.mean(t.max(axis=1) >= o - 1e-9) for o in observed])
    ours = max_t(delta, list("abcd"), n_flips=20_000, seed=9)
    np.testing.assert_allclose(ours.p_family, exact, atol=0.015)


def test_max_t_keeps_the_family_error_where_single_tests_do_not() -> None:
    rng = np.random.default_rng(10)
    family = alone = 0
    n_runs = 300
    for run in range(n_runs):
        shared = rng.choice([-1.0, 0.0, 1.0], p=[0.15, 0.7, 0.15], size=60)
        own = rng.choice([-1.0, 0.0, 1.0], p=[0.15, 0.7, 0.15], size=(15, 60))
        delta = np.repeat(np.where(rng.random((15, 60)) < 0.5, shared, own), 2, axis=1)
        result = max_t(delta, np.repeat(np.arange(60), 2), n_flips=300, seed=run)
        family += result.p_family.min() <= 0.05
        alone += result.p_alone.min() <= 0.05
    assert family / n_runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / n_runs)
    assert alone / n_runs > 0.2


def test_max_t_finds_a_planted_cell_on_the_side_that_is_asked() -> None:
    rng = np.random.default_rng(11)
    delta = rng.choice([-1.0, 0.0, 1.0], p=[0.1, 0.8, 0.1], size=(30, 200))
    delta[17] = rng.choice([-1.0, 0.0, 1.0], p=[0.05, 0.7, 0.25], size=200)
    result = max_t(delta, np.arange(200), n_flips=2000)
    assert np.flatnonzero(result.p_family <= 0.005).tolist() == [17]
    harm = max_t(-delta, np.arange(200), n_flips=2000, two_sided=True)
    assert np.flatnonzero(harm.p_family <= 0.005).tolist() == [17]
    assert max_t(-delta, np.arange(200), n_flips=2000).p_family[17] > 0.9


def test_a_cell_that_changes_nothing_has_p_one() -> None:
    assert max_t(np.zeros((2, 10)), np.arange(10), n_flips=200).p_family.tolist() == [1.0, 1.0]


def test_letters_are_counted_before_and_after() -> None:
    shift = letter_shift(["A", "B", "A", None], ["A", "A", "A", "A"], ["A", "B", "B", "A"])
    assert shift.letters == ("A", "B", "")
    assert (shift.before, shift.after, shift.right) == ((2, 1, 1), (4, 0, 0), (2, 2, 0))
    assert shift.distance == 0.5
    with pytest.raises(UsageError):
        letter_shift(["A"], [])


def test_the_rank_among_controls_never_claims_more_than_their_number_allows() -> None:
    assert rank_p(1.0, [0.0] * 20) == 1 / 21
    assert rank_p(0.0, [0.0] * 20) == 1.0
    assert rank_p(0.5, [0.1, 0.5, 0.9]) == 3 / 4


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_every_statistic_refuses_what_is_not_finite(bad: float) -> None:
    row, groups = [0.0, 1.0, bad], ["a", "b", "c"]
    one_cell = start_lead_bets(np.zeros((1, 1)), n_samples=9, lead=1)
    refused = [
        lambda: rank_p(bad, [0.0, 1.0]),
        lambda: rank_p(1.0, [0.0, bad]),
        lambda: paired_interval(row, groups),
        lambda: sign_flip_p(row, groups),
        lambda: clustering(row, groups),
        lambda: max_t([row], groups),
        lambda: mcnemar_exact([0, 1, 0], row),
        lambda: mcnemar_exact(row, [0, 1, 0]),
        lambda: holm([0.5, bad]),
        lambda: choose_cell([row], [1.0]),
        lambda: choose_cell([[0, 1, 1], [1, 1, 1]], [1.0, bad]),
        lambda: selection_bias([row], [0, 0, 0], groups, alphas=[1.0]),
        lambda: selection_bias([[0, 1, 1]], row, groups, alphas=[1.0]),
        lambda: start_lead_bets([row], n_samples=9, lead=1),
        lambda: read_on(one_cell, np.array([0]), [row]),
        lambda: race(2, 3, lambda cells, samples: np.array([row, row])[:, samples], first=0),
        lambda: smallest_effect(10, discordant=bad),
        lambda: smallest_effect(10, discordant=0.5, design_effect=bad),
        lambda: mcnemar_power(10, bad, discordant=0.5),
    ]
    for statistic in refused:
        with pytest.raises(UsageError):
            statistic()
