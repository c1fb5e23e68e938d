"""Arrays that the statistics take: finite numbers, and samples grouped by picture."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from steercache.core.errors import UsageError

Float64Array = npt.NDArray[np.float64]


def finite(values: npt.ArrayLike, what: str) -> Float64Array:
    """Values as float64. NaN loses every comparison, so a statistic of it would look like a result.

    Raises:
        UsageError: NaN or infinity among them.
    """
    array = np.asarray(values, dtype=np.float64)
    bad = int(array.size - np.isfinite(array).sum())
    if bad:
        raise UsageError(
            f"{bad} of {array.size} {what} are not finite numbers", hint="leave failed samples out, and report how many"
        )
    return array


def zero_or_one(values: npt.ArrayLike, what: str) -> npt.NDArray[np.bool_]:
    """Right or wrong as booleans. Raises UsageError for anything else, NaN among it."""
    array = np.asarray(values)
    if array.dtype != np.bool_ and not np.all((array == 0) | (array == 1)):
        raise UsageError(
            f"{what} must be right or wrong (1 or 0)", hint="leave failed samples out, and report how many"
        )
    return array.astype(np.bool_)


def group_index(groups: Sequence[Any] | npt.NDArray[Any], n: int) -> tuple[npt.NDArray[np.intp], int]:
    """Each sample's picture as a number, shape (n,), and how many pictures there are.

    Raises:
        UsageError: not one group per sample, or no sample.
    """
    if len(groups) != n or n == 0:
        raise UsageError(f"{len(groups)} groups for {n} samples", hint="give one picture per sample, and at least one")
    _, index = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    return index.reshape(-1), int(index.max()) + 1


def sum_by_group(values_cn: npt.NDArray[Any], index: npt.NDArray[np.intp], n_groups: int) -> Float64Array:
    """Sums of the last axis by picture, shape (c, g)."""
    order = np.argsort(index, kind="stable")
    starts = np.searchsorted(index[order], np.arange(n_groups))
    sums: Float64Array = np.add.reduceat(np.asarray(values_cn, dtype=np.float64)[..., order], starts, axis=-1)
    return sums
