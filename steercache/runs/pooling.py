"""Means over tokens: one row per sample and kind."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from steercache.core.layout import DType
from steercache.store.dtypes import numpy_dtype

Positions = npt.NDArray[np.int64]


def pooled_rows(rows_td: npt.NDArray[Any], pools: Sequence[Positions], *, dtype: DType) -> npt.NDArray[Any]:
    """Mean over each pool's rows of `rows_td` (t, d), shape (n_pools, d) in `dtype`.

    Summed in float64 and rounded to float32, so that neither the order of the sum nor a massive activation shows; a narrower
    dtype rounds once more. An infinity makes the mean infinite, or NaN beside one of the other sign.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        means = [rows_td[positions].astype(np.float64).mean(axis=0).astype(np.float32) for positions in pools]
        return np.stack(means).astype(numpy_dtype(dtype), copy=False)
