"""Exact sign-flip test of a paired difference by picture; McNemar's exact test where every picture has one question.

Under the null a picture's summed difference is as likely to have the other sign. Of n pictures with whole-number sums the
distribution of the total over all 2^n flips is a convolution of few short ones, so p is exact and needs no random draws.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from steercache.core.errors import UsageError
from steercache.stats.arrays import Float64Array, finite, group_index, sum_by_group
from steercache.stats.binomial import log_binomial


def sign_flip_p(delta_n: npt.ArrayLike, groups: Sequence[Any] | npt.NDArray[Any]) -> float:
    """Two-sided p of the sum of differences in {-1, 0, 1} (after minus before, right or wrong) by flips of whole pictures.

    Raises:
        UsageError: other values, not one group per sample, or no sample.
    """
    delta = finite(delta_n, "differences")
    if not np.all(np.isin(delta, (-1, 0, 1))):
        raise UsageError("differences of right and wrong answers are -1, 0 or 1", hint="for other values use max_t")
    index, n_groups = group_index(groups, delta.size)
    sums = np.rint(sum_by_group(delta[None], index, n_groups)[0]).astype(np.int64)
    total, reach = flip_distribution(np.abs(sums)), abs(int(sums.sum()))
    half = len(total) // 2
    return min(1.0, float(total[half + reach :].sum() + total[: half - reach + 1].sum())) if reach else 1.0


def flip_distribution(sizes: npt.NDArray[np.int64]) -> Float64Array:
    """Probability of every total from -sum to sum of `sizes` with random signs, shape (2 sum + 1,)."""
    found: Float64Array = np.ones(1)
    for size, count in zip(*np.unique(sizes[sizes > 0], return_counts=True), strict=True):
        own = np.zeros(2 * int(size) * int(count) + 1)
        own[:: 2 * int(size)] = np.exp(log_binomial(int(count)) - int(count) * math.log(2))
        found = np.convolve(found, own)
    return found
