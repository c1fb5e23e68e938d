"""Tests and intervals of right and wrong answers that share pictures: exactness, coverage, error rates, power."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from steercache.core.errors import UsageError
from steercache.stats.clusters import clustering
from steercache.stats.family import max_t
from steercache.stats.paired import mcnemar_exact, paired_interval, paired_intervals
from steercache.stats.power import mcnemar_power, smallest_effect
from steercache.stats.score_interval import score_bounds
from steercache.stats.signs import sign_flip_p

N_RUNS = 1500


def drawn(
    rng: np.random.Generator,
    n_pictures: int,
    size: int,
    *,
    helped: float,
    hurt: float,
    shared: float,
    n_runs: int = N_RUNS,
) -> np.ndarray:
    """Differences (runs, samples): with probability `shared` all questions about a picture change together."""
    alone = rng.random((n_runs, n_pictures, size))
    together = rng.random((n_runs, n_pictures, 1)) < shared
    u = np.where(together, rng.random((n_runs, n_pictures, 1)), alone).reshape(n_runs, -1)
    return np.where(u < helped, 1.0, np.where(u > 1 - hurt, -1.0, 0.0))


@given(st.lists(st.lists(st.sampled_from([-1, 0, 1]), min_size=1, max_size=4), min_size=1, max_size=10))
def test_the_sign_flip_test_is_exact(pictures: list[list[int]]) -> None:
    delta = [x for picture in pictures for x in picture]
    groups = [i for i, picture in enumerate(pictures) for _ in picture]
    sums = [sum(picture) for picture in pictures]
    flips = [
        sum(s * f for s, f in zip(sums, signs, strict=True)) for signs in itertools.product((1, -1), repeat=len(sums))
    ]
    expected = np.mean([abs(total) >= abs(sum(sums)) for total in flips])
    assert sign_flip_p(delta, groups) == pytest.approx(expected, abs=1e-12)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 20))
def test_with_one_question_a_picture_it_is_mcnemars_exact_test(helped: int, hurt: int, same: int) -> None:
    before = np.array([0] * helped + [1] * hurt + [1] * same + [0], dtype=bool)
    after = np.array([1] * helped + [0] * hurt + [1] * same + [0], dtype=bool)
    delta = after.astype(float) - before
    assert sign_flip_p(delta, np.arange(len(delta))) == pytest.approx(
        mcnemar_exact(before, after).p_unclustered, abs=1e-12
    )


def test_random_flips_approach_the_exact_p() -> None:
    rng = np.random.default_rng(4)
    delta = rng.choice([-1.0, 0.0, 1.0], p=[0.1, 0.7, 0.2], size=120)
    groups = rng.integers(0, 35, size=120)
    drawn_p = max_t(delta[None], groups, two_sided=True, n_flips=40_000).p_alone[0]
    assert sign_flip_p(delta, groups) == pytest.approx(drawn_p, abs=0.008)
    with pytest.raises(UsageError, match="-1, 0 or 1"):
        sign_flip_p([0.5, 1.0], [0, 1])


def test_the_clustered_test_keeps_its_level_where_the_unclustered_one_does_not() -> None:
    delta = drawn(np.random.default_rng(5), 30, 5, helped=0.12, hurt=0.12, shared=0.8, n_runs=1000)
    groups = np.repeat(np.arange(30), 5)
    clustered = np.mean([sign_flip_p(row, groups) <= 0.05 for row in delta])
    alone = np.mean([mcnemar_exact(row < 0, row > 0).p_unclustered <= 0.05 for row in delta])
    assert clustered <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / len(delta))
    assert alone > 0.09


Z = float(stats.norm.ppf(0.975))


def test_the_score_bounds_are_where_the_constrained_likelihood_says() -> None:
    """The variance under the constraint from a numerical search over the likelihood, the bounds from a root finder."""
    for helped, hurt, n in ((5, 0, 150), (12, 4, 80), (1, 1, 60), (0, 7, 40)):

        def statistic(delta: float, b: int = helped, c: int = hurt, n: int = n) -> float:
            def minus_log_likelihood(q: float) -> float:  # q: share hurt, q + delta helped
                terms = [(b, q + delta), (c, q), (n - b - c, 1 - 2 * q - delta)]
                return -sum(k * math.log(max(p, 1e-300)) for k, p in terms if k)

            span = (max(0.0, -delta) + 1e-12, (1 - delta) / 2 - 1e-12)
            q = optimize.minimize_scalar(
                minus_log_likelihood, bounds=span, method="bounded", options={"xatol": 1e-12}
            ).x
            return float((b - c - n * delta) / math.sqrt(n * (2 * q + delta - delta**2)))

        low, high = score_bounds(*(np.array([float(x)]) for x in (helped, hurt, n)), np.array([Z]))
        estimate = (helped - hurt) / n
        assert low[0] == pytest.approx(optimize.brentq(lambda d: statistic(d) - Z, -0.6, estimate), abs=1e-5)
        assert high[0] == pytest.approx(optimize.brentq(lambda d: statistic(d) + Z, estimate, 0.6), abs=1e-5)


SPARSE = [(0.03, 0.0), (0.02, 0.0), (0.05, 0.0), (0.05, 0.05), (0.2, 0.1)]


@pytest.mark.parametrize(("helped", "hurt"), SPARSE, ids=str)
def test_the_interval_covers_with_150_questions_of_as_many_pictures(helped: float, hurt: float) -> None:
    delta = drawn(np.random.default_rng(6), 150, 1, helped=helped, hurt=hurt, shared=0)
    found = paired_intervals(delta, np.arange(150))
    assert np.mean([i.low <= helped - hurt <= i.high for i in found]) >= 0.93


@pytest.mark.parametrize("shared", [0.0, 0.3, 0.8])
@pytest.mark.parametrize(("helped", "hurt"), SPARSE, ids=str)
def test_the_interval_covers_with_five_questions_a_picture(helped: float, hurt: float, shared: float) -> None:
    delta = drawn(np.random.default_rng(7), 60, 5, helped=helped, hurt=hurt, shared=shared)
    found = paired_intervals(delta, np.repeat(np.arange(60), 5))
    assert np.mean([i.low <= helped - hurt <= i.high for i in found]) >= 0.93


def test_an_interval_that_ignores_pictures_covers_too_little() -> None:
    delta = drawn(np.random.default_rng(8), 60, 5, helped=0.2, hurt=0.1, shared=0.8)
    found = paired_intervals(delta, np.arange(300))
    assert np.mean([i.low <= 0.1 <= i.high for i in found]) < 0.85


def test_no_change_seen_is_not_no_change_and_counts_pictures() -> None:
    alone = paired_interval(np.zeros(150), np.arange(150))
    t = stats.t.ppf(0.975, 149)
    assert alone.low == pytest.approx(-alone.high)
    assert alone.high == pytest.approx(t**2 / (150 + t**2), rel=1e-3)
    shared = paired_interval(np.zeros(150), np.repeat(np.arange(30), 5))
    assert shared.high == pytest.approx(paired_interval(np.zeros(30), np.arange(30)).high, rel=1e-6)
    assert not alone.excludes_zero
    one = paired_interval([0.0, 1.0], ["a", "a"])  # a single picture bounds nothing
    assert (one.low, one.high) == (pytest.approx(-1), pytest.approx(1))


def test_the_design_effect_is_one_alone_and_the_size_of_pictures_that_change_together() -> None:
    rng = np.random.default_rng(9)
    picture = rng.choice([-1.0, 0.0, 1.0], p=[0.2, 0.5, 0.3], size=80)
    alone = clustering(picture, np.arange(80))
    assert (alone.design_effect, alone.icc, alone.n_effective) == (1.0, None, 80)
    together = clustering(np.repeat(picture, 4), np.repeat(np.arange(80), 4))
    assert together.design_effect == pytest.approx(4, abs=0.05)
    assert together.icc == pytest.approx(1, abs=0.02)
    mixed = drawn(rng, 2000, 4, helped=0.3, hurt=0.2, shared=0.5, n_runs=1)[0]
    assert clustering(mixed, np.repeat(np.arange(2000), 4)).icc == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("shared", [0.0, 0.4, 0.9])
def test_what_could_be_shown_has_its_power_with_five_questions_a_picture(shared: float) -> None:
    rng, n_pictures, discordant = np.random.default_rng(10), 60, 0.3
    groups = np.repeat(np.arange(n_pictures), 5)
    pilot = drawn(rng, n_pictures, 5, helped=discordant / 2, hurt=discordant / 2, shared=shared, n_runs=60)
    said = [
        smallest_effect(300, discordant=discordant, design_effect=clustering(row, groups).design_effect)
        for row in pilot
    ]
    effect = float(np.mean([e for e in said if e is not None]))
    runs = drawn(
        rng,
        n_pictures,
        5,
        helped=(discordant + effect) / 2,
        hurt=(discordant - effect) / 2,
        shared=shared,
        n_runs=600,
    )
    power = np.mean([sign_flip_p(row, groups) <= 0.05 for row in runs])
    assert 0.72 <= power <= 0.92
    if shared > 0.3:  # an effect that ignores pictures is not found so often
        ignored = smallest_effect(300, discordant=discordant)
        assert ignored is not None
        assert ignored < 0.75 * effect


def test_a_design_effect_counts_as_fewer_samples() -> None:
    assert smallest_effect(300, discordant=0.3, design_effect=3.0) == smallest_effect(100, discordant=0.3)
    assert mcnemar_power(100, 0.1, discordant=0.3) < mcnemar_power(300, 0.1, discordant=0.3)
    with pytest.raises(UsageError, match="design effect"):
        smallest_effect(100, discordant=0.3, design_effect=0.5)
