"""Our codecs for zarr-python, which finds them through the entry-point group `zarr.codecs`."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.common import parse_named_configuration

from steercache.store.codecs import int8_pack, int8_unpack, pcodec_decode, pcodec_encode
from steercache.store.metadata import PCODEC_LEVEL


@dataclass(frozen=True, kw_only=True)
class PcodecCodec(ArrayBytesCodec):
    """`steercache.pcodec`: pcodec over the bits of the values, as unsigned integers in C order."""

    is_fixed_size = False
    level: int = PCODEC_LEVEL

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """The codec that metadata describes. Raises ValueError or TypeError for other configurations."""
        _, settings = parse_named_configuration(data, "steercache.pcodec", require_configuration=False)
        return cls(**(settings or {}))  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, Any]:
        """The codec as metadata."""
        return {"name": "steercache.pcodec", "configuration": {"level": self.level}}

    async def _encode_single(self, chunk_array: Any, chunk_spec: Any) -> Any:
        values = np.ascontiguousarray(chunk_array.as_numpy_array())
        return chunk_spec.prototype.buffer.from_bytes(pcodec_encode(values.view(f"<u{values.dtype.itemsize}")))

    async def _decode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        dtype = chunk_spec.dtype.to_native_dtype()
        out = np.empty(int(np.prod(chunk_spec.shape)), dtype=f"<u{dtype.itemsize}")
        pcodec_decode(chunk_bytes.to_bytes(), out)
        return chunk_spec.prototype.nd_buffer.from_numpy_array(out.view(dtype).reshape(chunk_spec.shape))

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: Any) -> int:
        """Unknown beforehand. Raises NotImplementedError."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Int8Codec(ArrayBytesCodec):
    """`steercache.int8`: a float32 scale per row (last axis), then one signed byte per value (`store/int8.py`)."""

    is_fixed_size = True

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """The codec that metadata describes. Raises ValueError for another name."""
        parse_named_configuration(data, "steercache.int8", require_configuration=False)
        return cls()

    def to_dict(self) -> dict[str, Any]:
        """The codec as metadata."""
        return {"name": "steercache.int8"}

    async def _encode_single(self, chunk_array: Any, chunk_spec: Any) -> Any:
        values = chunk_array.as_numpy_array()
        return chunk_spec.prototype.buffer.from_bytes(int8_pack(values.reshape(-1, values.shape[-1])))

    async def _decode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        shape = chunk_spec.shape
        rows = (int(np.prod(shape[:-1])), int(shape[-1]))
        values = int8_unpack(chunk_bytes.as_numpy_array(), rows, chunk_spec.dtype.to_native_dtype())
        return chunk_spec.prototype.nd_buffer.from_numpy_array(values.reshape(shape))

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: Any) -> int:
        """Bytes of a chunk's scales and codes."""
        n_values = input_byte_length // chunk_spec.dtype.to_native_dtype().itemsize
        return int(n_values + n_values // chunk_spec.shape[-1] * 4)
