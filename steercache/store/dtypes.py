"""The numpy types that hidden states are stored in."""

from typing import Any

import ml_dtypes
import numpy as np

from steercache.core.layout import DType

_NUMPY: dict[DType, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype("<f2"),
}
_NAN_BITS: dict[DType, int] = {"float32": 0x7FC00000, "bfloat16": 0x7FC0, "float16": 0x7E00}


def numpy_dtype(name: DType) -> np.dtype[Any]:
    """The numpy type of a stored type; bfloat16 is ml_dtypes' own."""
    return _NUMPY[name]


def bits_dtype(name: DType) -> np.dtype[Any]:
    """The unsigned integer of the same size: a bit-exact view of the values."""
    return np.dtype(f"<u{_NUMPY[name].itemsize}")


def nan_bits(name: DType) -> int:
    """The bits of the quiet NaN that is meant by Zarr's fill value "NaN" (Zarr v3 core, fill value list)."""
    return _NAN_BITS[name]
