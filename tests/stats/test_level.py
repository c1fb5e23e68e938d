"""Finding where a curve reaches a level: on curves whose answer is known."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steercache.stats.level import TOLERANCE, Level, falls, level_reached, next_strength

START = (1 / 64, 1 / 16, 1 / 4, 1.0)


def followed(
    curve: Callable[[float], float], wanted: float, *, bound: float = 64.0
) -> tuple[float | None, dict[float, float]]:
    level = Level(wanted=wanted, start=START, bound=bound)
    seen = {s: curve(s) for s in START}
    step = 1
    while (s := next_strength(level, seen, step=step)) is not None:
        assert 0 < s <= bound
        assert s not in seen
        seen[s] = curve(s)
        step += 1
    return level_reached(level, seen), seen


@given(
    wanted=st.floats(1e-4, 4.0),
    power=st.floats(1.0, 2.5),
    scale=st.floats(0.01, 100.0),
    ceiling=st.floats(5.0, 12.0),
)
def test_a_smooth_curve_that_levels_off_is_met_within_the_tolerance_in_few_steps(
    wanted: float, power: float, scale: float, ceiling: float
) -> None:
    found, seen = followed(lambda s: ceiling * -math.expm1(-((scale * s) ** power)), wanted)
    exact = (-math.log1p(-wanted / ceiling)) ** (1 / power) / scale
    if exact > 64:
        assert found is None
        return
    assert found is not None
    assert abs(seen[found] - wanted) <= TOLERANCE * wanted
    assert found == pytest.approx(exact, rel=0.06)
    assert len(seen) <= len(START) + 10


def test_a_level_that_is_not_reached_is_looked_for_up_to_the_bound_and_no_further() -> None:
    found, seen = followed(lambda s: min(s, 3.0), 5.0)
    assert (found, max(seen)) == (None, 64.0)
    assert len(seen) == len(START) + 3


def test_a_jump_over_the_level_ends_and_finds_nothing() -> None:
    found, seen = followed(lambda s: 0.001 * s if s < 0.5 else 5.0, 1.0)
    assert found is None
    assert len(seen) < 30


def test_overflow_counts_as_more_than_any_level() -> None:
    found, _ = followed(lambda s: s if s < 0.9 else math.inf, 0.7)
    assert found == pytest.approx(0.7, rel=TOLERANCE)
    assert followed(lambda s: math.inf, 0.7)[0] is None


def test_the_smallest_strength_counts_where_a_curve_comes_back() -> None:
    curve = lambda s: 4 * s if s < 0.25 else max(1 - (s - 0.25), 0.1) if s < 1 else s  # noqa: E731
    found, seen = followed(curve, 0.5)
    assert found == pytest.approx(0.125, rel=TOLERANCE)
    assert falls(seen) == (0.25, 1.0) or falls({0.25: 1.0, 0.5: 0.75}) == (0.25, 0.5)
    assert falls({0.1: 1.0, 0.2: 0.95, 0.3: 2.0}) is None
