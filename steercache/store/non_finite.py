"""Counting stored rows with infinities or NaN: where a dtype was too narrow, or the model itself overflowed.

A count looks at bits: a value is not finite where its exponent is all ones. Two maxima per chunk tell whether there is any,
which takes little beside the chunk's checksum.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from steercache.core.layout import DType

Bits = npt.NDArray[Any]
_INFINITY: dict[DType, int] = {"float32": 0x7F800000, "bfloat16": 0x7F80, "float16": 0x7C00}
SITES_WITH_GAPS = frozenset({"connector_out"})  # its rows are NaN where a token is no image token


def count_non_finite(bits_nd: Bits, dtype: DType, *, gaps: bool = False) -> int:
    """Rows (n, d), as unsigned bits of `dtype`, that hold a value which is not finite; with `gaps`, rows of NaN alone do not
    count."""
    infinity, size = _INFINITY[dtype], bits_nd.dtype.itemsize
    if not bits_nd.size or not _any(bits_nd, infinity):
        return 0
    magnitude_nd = bits_nd & np.array((1 << (8 * size - 1)) - 1, bits_nd.dtype)
    bad_n = (magnitude_nd >= infinity).any(axis=1)
    if gaps:
        bad_n &= ~(magnitude_nd > infinity).all(axis=1)
    return int(np.count_nonzero(bad_n))


def _any(bits_nd: Bits, infinity: int) -> bool:
    """Whether some value is not finite: positive ones are largest as signed numbers, negative ones as unsigned."""
    sign = 1 << (8 * bits_nd.dtype.itemsize - 1)
    signed_nd = bits_nd.view(np.dtype(f"<i{bits_nd.dtype.itemsize}"))
    return int(signed_nd.max()) >= infinity or int(bits_nd.max()) >= infinity | sign
