"""Family-wise tests over a whole grid, and what steering does to the letters that are answered."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from steercache.core.errors import UsageError
from steercache.stats.arrays import Float64Array, finite, group_index, sum_by_group

FLIPS_AT_ONCE: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxT:
    """Per cell, shape (c,): the statistic, its p alone, and its p adjusted for the best of all cells (family-wise)."""

    statistic: Float64Array
    p_alone: Float64Array
    p_family: Float64Array
    n_flips: int


def max_t(
    delta_cn: npt.ArrayLike,
    groups: Sequence[Any] | npt.NDArray[Any],
    *,
    n_flips: int = 10_000,
    two_sided: bool = False,
    seed: int = 0,
) -> MaxT:
    """Westfall and Young's single-step max-T by paired sign flips: is the best cell of a grid better than no steering?

    Under the null a picture's differences are as likely the other way round, in all cells at once, so cells may depend on
    each other in any way. `delta_cn` (c, n) is after minus before of each cell; a cell that changes nothing has p 1.

    Raises:
        UsageError: not a matrix of finite numbers, or not one group per sample.
    """
    delta = np.atleast_2d(finite(delta_cn, "differences"))
    if delta.ndim != 2:
        raise UsageError(f"differences of shape {delta.shape} are no matrix of cells by samples")
    index, n_groups = group_index(groups, delta.shape[1])
    sums = sum_by_group(delta, index, n_groups)
    # the root of the sum of squares does not change under flips, so it studentises every flip alike
    scale = np.sqrt(np.sum(sums**2, axis=1))
    unit = np.divide(sums, scale[:, None], out=np.zeros_like(sums), where=scale[:, None] > 0)
    observed = _side(unit.sum(axis=1), two_sided)
    rng = np.random.default_rng(seed)
    alone, family = np.zeros(len(delta)), np.zeros(len(delta))
    for start in range(0, n_flips, FLIPS_AT_ONCE):
        signs = rng.integers(0, 2, size=(min(FLIPS_AT_ONCE, n_flips - start), n_groups)) * 2.0 - 1.0
        flipped = _side(signs @ unit.T, two_sided)
        reach = observed - 1e-9  # ties count as reached, whatever the rounding
        alone += np.sum(flipped >= reach, axis=0)
        family += np.sum(flipped.max(axis=1)[:, None] >= reach, axis=0)
    return MaxT(
        statistic=observed,
        p_alone=(1 + alone) / (1 + n_flips),
        p_family=(1 + family) / (1 + n_flips),
        n_flips=n_flips,
    )


def _side(statistic: Float64Array, two_sided: bool) -> Float64Array:
    return np.abs(statistic) if two_sided else statistic


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterShift:
    """How often each letter was answered before and after, and how often it was right; "" means unread answers.

    `distance` is the total variation between before and after: the least share of answers that changed their letter.
    """

    letters: tuple[str, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    right: tuple[int, ...]
    distance: float


def letter_shift(
    before: Sequence[str | None], after: Sequence[str | None], right: Sequence[str | None] = ()
) -> LetterShift:
    """Count parsed answers before and after: a gain that comes from answering one letter more often is seen here.

    Raises:
        UsageError: lists of different length, or empty.
    """
    if not before or len(before) != len(after) or (right and len(right) != len(before)):
        raise UsageError(f"{len(before)} answers before, {len(after)} after, {len(right)} right ones")
    counts = [Counter(answer or "" for answer in answers) for answers in (before, after, right)]
    letters = tuple(sorted({letter for count in counts for letter in count}, key=lambda s: (s == "", s)))
    table = [tuple(count[letter] for letter in letters) for count in counts]
    distance = sum(abs(a - b) for a, b in zip(table[0], table[1], strict=True)) / (2 * len(before))
    return LetterShift(letters=letters, before=table[0], after=table[1], right=table[2], distance=distance)
