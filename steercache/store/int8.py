"""Eight bits a value with one scale per row, and what that costs.

Per row: scale = (largest finite magnitude) / 126, code = round(value / scale). Codes 127, -127 and -128 stand for +inf,
-inf and NaN, so that what is not a number stays what it was. A scale per row and not per channel: a channel with a massive
activation in one row would have no bits left for all its others.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from steercache.core.layout import CodecError, Site

Values = npt.NDArray[Any]
Codes = npt.NDArray[np.int8]
Scales = npt.NDArray[np.float32]

_TOP = 126
_INFINITE, _MINUS_INFINITE, _NAN = 127, -127, -128


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredError:
    """What a lossy codec did to `n_rows` rows: largest absolute error of a value; of |x - y| / |x| and of the cosine, row by
    row, the worst and the sum."""

    n_rows: int = 0
    max_abs: float = 0.0
    max_relative: float = 0.0
    sum_relative: float = 0.0
    min_cosine: float = 1.0
    sum_cosine: float = 0.0

    def __add__(self, other: "MeasuredError") -> "MeasuredError":
        """Of the rows of both."""
        return MeasuredError(
            n_rows=self.n_rows + other.n_rows,
            max_abs=max(self.max_abs, other.max_abs),
            max_relative=max(self.max_relative, other.max_relative),
            sum_relative=self.sum_relative + other.sum_relative,
            min_cosine=min(self.min_cosine, other.min_cosine),
            sum_cosine=self.sum_cosine + other.sum_cosine,
        )

    def of(self, site: Site, layer: int) -> CodecError:
        """As a shard's record keeps it. Of no rows the means are those of no error."""
        return CodecError(
            site=site,
            layer=layer,
            n_rows=self.n_rows,
            mean_relative=self.sum_relative / self.n_rows if self.n_rows else 0.0,
            max_relative=self.max_relative,
            max_abs=self.max_abs,
            mean_cosine=self.sum_cosine / self.n_rows if self.n_rows else 1.0,
            min_cosine=self.min_cosine,
        )


def quantize(values_nd: Values) -> tuple[Scales, Codes]:
    """Codes of shape (n, d) and scales of shape (n,)."""
    x_nd = _widened(values_nd, np.float32)
    finite_nd = np.isfinite(x_nd)
    all_finite = bool(finite_nd.all())
    known_nd = x_nd if all_finite else np.where(finite_nd, x_nd, np.float32(0))
    scale_n = np.abs(known_nd).max(axis=1, initial=0) / np.float32(_TOP)
    with np.errstate(over="ignore"):
        rounded_up = ~np.isfinite(scale_n * np.float32(_TOP))  # the largest float32 must not come back as infinity
    scale_n[rounded_up] = np.nextafter(scale_n[rounded_up], np.float32(0))
    divisor_n = np.where(scale_n > 0, scale_n, np.float32(1))
    codes_nd = np.clip(np.rint(known_nd / divisor_n[:, None]), -_TOP, _TOP).astype(np.int8)
    if not all_finite:
        codes_nd[np.isnan(x_nd)] = _NAN
        codes_nd[x_nd == np.inf] = _INFINITE
        codes_nd[x_nd == -np.inf] = _MINUS_INFINITE
    return scale_n, codes_nd


def dequantize(scale_n: Scales, codes_nd: Codes, dtype: np.dtype[Any]) -> Values:
    """The decoded values, shape (n, d), in `dtype`."""
    values_nd = codes_nd.astype(np.float32)
    values_nd *= scale_n[:, None]
    if codes_nd.size and (codes_nd.max() == _INFINITE or codes_nd.min() <= _MINUS_INFINITE):
        values_nd[codes_nd == _NAN] = np.nan
        values_nd[codes_nd == _INFINITE] = np.inf
        values_nd[codes_nd == _MINUS_INFINITE] = -np.inf
    with np.errstate(over="ignore"):  # only codes that `quantize` did not make
        return values_nd.astype(dtype)


def measure_error(values_nd: Values, read_nd: Values) -> MeasuredError:
    """Compare rows with what is read back, over their finite values, in float64."""
    if not values_nd.size:
        return MeasuredError()
    x_nd, y_nd = _widened(values_nd, np.float64), _widened(read_nd, np.float64)
    finite_nd = np.isfinite(x_nd)
    x_nd, y_nd = np.where(finite_nd, x_nd, 0.0), np.where(finite_nd, y_nd, 0.0)
    error_nd = x_nd - y_nd
    x_norm_n, y_norm_n = np.linalg.norm(x_nd, axis=1), np.linalg.norm(y_nd, axis=1)
    known_n = x_norm_n > 0
    relative_n = np.linalg.norm(error_nd, axis=1)[known_n] / x_norm_n[known_n]
    both_n = x_norm_n * y_norm_n
    cosine_n = np.einsum("nd,nd->n", x_nd, y_nd)[known_n] / np.where(both_n > 0, both_n, 1.0)[known_n]
    return MeasuredError(
        n_rows=int(known_n.sum()),
        max_abs=float(np.abs(error_nd).max()),
        max_relative=float(relative_n.max(initial=0.0)),
        sum_relative=float(relative_n.sum()),
        min_cosine=float(cosine_n.min(initial=1.0)),
        sum_cosine=float(cosine_n.sum()),
    )


def _widened(values_nd: Values, dtype: Any) -> Values:
    with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one, and the processor says so
        return values_nd.astype(dtype)
