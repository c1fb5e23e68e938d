"""Reading safetensors files by their header: sizes are checked before a byte of data is read, and no code is run.

Format: https://huggingface.co/docs/safetensors (8 bytes of length, JSON, tensors one behind the other, little-endian).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from steercache.core.layout import DType

MOST_HEADER_BYTES = 100_000_000  # the limit of the safetensors library
_DTYPES: dict[str, Any] = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": ml_dtypes.bfloat16,
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "U8": "u1",
    "I8": "i1",
    "BOOL": "?",
}
STORED: Mapping[str, DType] = {"float32": "float32", "float16": "float16", "bfloat16": "bfloat16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FileTensor:
    """A tensor of a file: where its bytes lie, and what they are."""

    path: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int

    def read(self) -> npt.NDArray[Any]:
        """All values."""
        count = prod(self.shape)
        values: npt.NDArray[Any] = np.fromfile(self.path, dtype=self.dtype, count=count, offset=self.offset)
        return values.reshape(self.shape)

    def ends(self) -> bytes:
        """Some bytes from the beginning and the end of the data."""
        n_bytes = prod(self.shape) * self.dtype.itemsize
        with self.path.open("rb") as file:
            file.seek(self.offset)
            head = file.read(min(256, n_bytes))
            file.seek(self.offset + max(n_bytes - 256, 0))
            return head + file.read(min(256, n_bytes))


def tensors_of(path: Path) -> dict[str, FileTensor]:
    """The tensors of a safetensors file.

    Raises:
        ValueError: it is none, it is cut, or it holds a type that is not read here. OSError: it cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MOST_HEADER_BYTES):
            raise ValueError("no safetensors file, or one that was cut while it was written")
        raw = file.read(length)
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no safetensors file: {error}") from error
    if not isinstance(header, dict):
        raise ValueError("no safetensors file: its header is no object")
    return {name: _tensor(path, name, header[name], 8 + length, size) for name in header if name != "__metadata__"}


def _tensor(path: Path, name: str, said: Any, start: int, size: int) -> FileTensor:
    try:
        dtype = np.dtype(_DTYPES[said["dtype"]])
        shape = tuple(int(n) for n in said["shape"])
        begin, end = (int(n) for n in said["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"tensor {name!r}: {said!r:.200} is not read here") from error
    if min(shape, default=0) < 0 or begin < 0 or end - begin != prod(shape) * dtype.itemsize or start + end > size:
        raise ValueError(f"tensor {name!r} ends behind the file: it was cut while it was written, or is damaged")
    return FileTensor(path=path, dtype=dtype, shape=shape, offset=start + begin)


def stored_dtype(dtype: np.dtype[Any]) -> DType:
    """The dtype on disk for values of `dtype`. Raises ValueError for one that the cache does not store."""
    try:
        return STORED[dtype.name]
    except KeyError:
        raise ValueError(f"{dtype.name} values; the cache stores {', '.join(STORED)}") from None
