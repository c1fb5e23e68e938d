"""Rank correlation."""

import numpy as np
import numpy.typing as npt

from steercache.stats.arrays import Float64Array, finite


def mid_ranks(values: npt.ArrayLike) -> Float64Array:
    """Ranks from 1, ties sharing their mean rank, shape (n,).

    >>> mid_ranks([3, 1, 3]).tolist()
    [2.5, 1.0, 2.5]
    """
    array = finite(values, "values")
    _, index, counts = np.unique(array, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Float64Array = (last - (counts - 1) / 2)[index.reshape(-1)].astype(np.float64)
    return ranks


def spearman(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Spearman's rank correlation of pairs; NaN where one side has no spread. Raises UsageError for values not finite."""
    a, b = mid_ranks(x), mid_ranks(y)
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])
