"""bfloat16 for zarr-python, which does not have it.

The entry-point group for it is `zarr.data_type`, but zarr-python 3.1 collects that group and never loads it. Buffer classes it
does load, before it reads any metadata: so `CpuBuffer`, zarr's own class under its own name, is an entry point of ours too, and
importing this module registers the type.
"""

import math
import re
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeGuard

import ml_dtypes
import numpy as np
from zarr.core.buffer.cpu import Buffer as CpuBuffer
from zarr.core.dtype import data_type_registry
from zarr.core.dtype.common import HasEndianness, HasItemSize
from zarr.core.dtype.wrapper import ZDType

try:  # where zarr 3.2 and later keep it; they warn at the old place
    from zarr.errors import DataTypeValidationError  # type: ignore[attr-defined,unused-ignore]
except ImportError:
    from zarr.core.dtype.common import DataTypeValidationError

__all__ = ["BFloat16", "CpuBuffer", "DataTypeValidationError"]

_DTYPE: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
_NOT_FINITE = {"NaN": np.nan, "Infinity": np.inf, "-Infinity": -np.inf}


@dataclass(frozen=True, kw_only=True)
class BFloat16(ZDType[Any, Any], HasEndianness, HasItemSize):
    """The Zarr v3 data type `bfloat16` over ml_dtypes' numpy type; Zarr v2 has none."""

    dtype_cls = type(_DTYPE)
    _zarr_v3_name: ClassVar[str] = "bfloat16"

    @property
    def item_size(self) -> int:
        """Bytes of one value."""
        return 2

    @classmethod
    def from_native_dtype(cls, dtype: Any) -> Self:
        """This type, if `dtype` is numpy's bfloat16. Raises DataTypeValidationError otherwise."""
        if dtype != _DTYPE:
            raise DataTypeValidationError(f"{dtype} is not bfloat16")
        return cls()

    def to_native_dtype(self) -> np.dtype[Any]:
        """numpy's bfloat16."""
        return _DTYPE

    @classmethod
    def _check_json_v3(cls, data: Any) -> TypeGuard[str]:
        return bool(data == cls._zarr_v3_name)

    @classmethod
    def _from_json_v2(cls, data: Any) -> Self:
        raise DataTypeValidationError("Zarr v2 has no bfloat16")

    @classmethod
    def _from_json_v3(cls, data: Any) -> Self:
        if not cls._check_json_v3(data):
            raise DataTypeValidationError(f"{data!r} is not bfloat16")
        return cls()

    def to_json(self, zarr_format: Any) -> Any:
        """The type's name in metadata. Raises ValueError for Zarr v2."""
        if zarr_format != 3:
            raise ValueError("Zarr v2 has no bfloat16")
        return self._zarr_v3_name

    def _check_scalar(self, data: object) -> bool:
        return isinstance(data, (int, float, np.number, ml_dtypes.bfloat16))

    def cast_scalar(self, data: object) -> Any:
        """`data` as one bfloat16. Raises TypeError when it is no number."""
        if not self._check_scalar(data):
            raise TypeError(f"{data!r} is no bfloat16")
        return _DTYPE.type(data)

    def default_scalar(self) -> Any:
        """Zero."""
        return _DTYPE.type(0)

    def from_json_scalar(self, data: Any, *, zarr_format: Any) -> Any:
        """A fill value from metadata: a number, "NaN", "Infinity", "-Infinity", or its bits as "0x7fc0" (Zarr v3).

        Raises TypeError otherwise.
        """
        if isinstance(data, (int, float)) and not isinstance(data, bool):
            return _DTYPE.type(data)
        if isinstance(data, str) and data in _NOT_FINITE:
            return _DTYPE.type(_NOT_FINITE[data])
        if isinstance(data, str) and re.fullmatch("0x[0-9a-fA-F]{4}", data):
            return np.uint16(int(data, 16)).view(_DTYPE)
        raise TypeError(f"{data!r} is no float")

    def to_json_scalar(self, data: object, *, zarr_format: Any) -> Any:
        """A fill value for metadata."""
        value = float(self.cast_scalar(data))
        return value if math.isfinite(value) else "NaN" if math.isnan(value) else f"{'-' * (value < 0)}Infinity"


data_type_registry.register("bfloat16", BFloat16)
