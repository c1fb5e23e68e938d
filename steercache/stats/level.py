"""Where a curve that starts at (0, 0) reaches a level, by bisection on a logarithmic scale with few evaluations.

Damage grows with the square of a small strength and levels off, so that its logarithm is nearly straight in that of the
strength: a step goes to where the line through the bracket's ends meets the level, and every third one halves the bracket.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

TOLERANCE = 0.02  # of the level
NARROW = 1.001  # a bracket whose ends are so close is a jump
MOST_STEPS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """The level to reach, strengths to try first, ascending, and the largest that may be tried."""

    wanted: float
    start: tuple[float, ...]
    bound: float


def level_reached(level: Level, seen: Mapping[float, float]) -> float | None:
    """The smallest strength whose value is the level, within `TOLERANCE`; None: none of those seen.

    `seen` has values by strength, infinite where nothing could be measured.
    """
    good = (s for s in sorted(seen) if abs(seen[s] - level.wanted) <= TOLERANCE * level.wanted)
    bracket = _bracket(level, seen)
    return next((s for s in good if bracket is None or s <= bracket[1]), None)


def next_strength(level: Level, seen: Mapping[float, float], *, step: int) -> float | None:
    """The strength to evaluate next; None where the level is reached, cannot be, or is jumped over.

    >>> level = Level(wanted=1.0, start=(0.5,), bound=8.0)
    >>> next_strength(level, {}, step=0), next_strength(level, {0.5: 0.25}, step=1)
    (0.5, 2.0)
    >>> next_strength(level, {0.5: 0.25, 2.0: 4.0}, step=2)
    1.0
    """
    if level_reached(level, seen) is not None or step >= MOST_STEPS:
        return None
    unseen = [s for s in level.start if s not in seen and s <= level.bound]
    if unseen:
        return unseen[0]
    bracket = _bracket(level, seen)
    if bracket is None:
        largest = max(seen, default=0.0)
        return None if largest >= level.bound else min(4 * largest, level.bound)
    low, high = bracket
    if low == 0:  # as of a square
        return high * min(max(math.sqrt(level.wanted / seen[high]), 1 / 256), 0.5)
    if high / low < NARROW:
        return None
    middle = math.sqrt(low * high)
    if step % 3 == 0 or not math.isfinite(seen[high]) or seen[low] <= 0:
        return middle
    share = math.log(level.wanted / seen[low]) / math.log(seen[high] / seen[low])
    return float(low * (high / low) ** min(max(share, 0.02), 0.98))


def falls(seen: Mapping[float, float]) -> tuple[float, float] | None:
    """Two neighbouring strengths between which the value falls by more than a tenth; None: it never does."""
    ordered = sorted(seen)
    return next(((a, b) for a, b in pairwise(ordered) if seen[b] < 0.9 * seen[a]), None)


def _bracket(level: Level, seen: Mapping[float, float]) -> tuple[float, float] | None:
    """The neighbours between which the level is first reached; the lower one may be 0."""
    low = 0.0
    for strength in sorted(seen):
        if seen[strength] >= level.wanted:
            return low, strength
        low = strength
    return None
