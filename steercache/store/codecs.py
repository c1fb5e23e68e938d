"""What turns a chunk's rows into bytes and back, by codec name. Rows come and go as unsigned integers, bit for bit.

The bytes are those that Zarr's codec chain of the same name would make (`metadata.py`), so that zarr-python reads them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numcodecs.blosc
import numpy as np
import numpy.typing as npt
from pcodec import ChunkConfig, DeltaSpec, ModeSpec, PagingSpec, standalone

from steercache.core.layout import CodecName, DType
from steercache.store.checksum import crc32c
from steercache.store.dtypes import bits_dtype, numpy_dtype
from steercache.store.int8 import dequantize, quantize
from steercache.store.metadata import PCODEC_LEVEL, blosc_settings

Bits = npt.NDArray[Any]

# Blosc's own threads put blocks in the order in which they finish, so that the same rows would give other bytes. We run several
# chunks at once instead. zarr-python sets the same.
numcodecs.blosc.use_threads = False

_SHUFFLES = {"noshuffle": numcodecs.blosc.NOSHUFFLE, "shuffle": numcodecs.blosc.SHUFFLE}
_INT8_HEAD = 4  # bytes of a row's scale

# pcodec is called without numcodecs' class in between: each release of numcodecs can call only one of pcodec 0.3 and 1.x, and
# nothing keeps an installer from leaving the other beside it. 1.0 renamed `DeltaSpec.none`.
_NO_DELTAS: Callable[[], Any] = DeltaSpec.no_op if hasattr(DeltaSpec, "no_op") else DeltaSpec.none
_PCODEC_PAGE = 262_144  # values; numcodecs' default


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkCodec:
    """Encode rows of shape (n, d) to bytes; decode bytes to rows of that shape.

    `decode` raises ValueError or RuntimeError where the bytes are not what `encode` made for that shape.
    """

    encode: Callable[[Bits], bytes]
    decode: Callable[[Any, tuple[int, int]], Bits]


def chunk_codec(name: CodecName, dtype: DType) -> ChunkCodec:
    """The codec `name` for rows stored as `dtype`. Raises KeyError for a name without one."""
    return _MAKERS[name](dtype)


def codec_probe(name: CodecName) -> str:
    """A digest of what the codec makes of fixed rows here: releases of its libraries that write other bytes give another.

    >>> codec_probe("raw")
    'raw'
    """
    if name == "raw":
        return name
    bits = np.arange(64 * 96, dtype=np.uint32).reshape(64, 96) * np.uint32(2654435761)  # Knuth's multiplicative hash
    rows_nd = (bits >> np.uint32(16)).astype(bits_dtype("bfloat16")) & np.uint16(0xBFFF)  # finite, of both signs
    return f"{name} {crc32c(chunk_codec(name, 'bfloat16').encode(rows_nd)):08x}"


def blosc_encode(data: Any, typesize: int) -> bytes:
    """Compress as Zarr's blosc codec does under `blosc_settings`."""
    settings = blosc_settings(typesize)
    shuffle = _SHUFFLES[settings["shuffle"]]
    packed: bytes = numcodecs.blosc.compress(
        data, settings["cname"].encode(), settings["clevel"], shuffle, settings["blocksize"], typesize
    )
    return packed


def blosc_decode(data: Any, n_bytes: int) -> npt.NDArray[np.uint8]:
    """Decompress to exactly `n_bytes`. Raises ValueError or RuntimeError for anything else."""
    packed = np.frombuffer(data, dtype=np.uint8)
    # Blosc believes its header (bytes 4 to 8: length, 12 to 16: compressed length) and would read beyond a short buffer.
    if len(packed) < 16 or tuple(packed[:16].view("<u4")[[1, 3]]) != (n_bytes, len(packed)):
        raise ValueError(f"not a blosc buffer of {n_bytes} bytes")
    out = np.empty(n_bytes, dtype=np.uint8)
    numcodecs.blosc.decompress(packed, out)
    return out


def pcodec_encode(values: Bits) -> bytes:
    """Compress unsigned integers; neighbours in a row are no smooth sequence, so neither deltas nor modes are tried.

    The bytes depend on pcodec's release (1.x writes a longer header than 0.3), what they decode to does not; each reads both.
    """
    config = ChunkConfig(
        compression_level=PCODEC_LEVEL,
        delta_spec=_NO_DELTAS(),
        mode_spec=ModeSpec.classic(),
        paging_spec=PagingSpec.equal_pages_up_to(_PCODEC_PAGE),
    )
    return bytes(standalone.simple_compress(np.ascontiguousarray(values).reshape(-1), config))


def pcodec_decode(data: Any, out: Bits) -> None:
    """Decompress into the flat array `out`. Raises ValueError or RuntimeError where the bytes do not fill it."""
    progress = standalone.simple_decompress_into(bytes(data), out)  # numcodecs' decode does not say how far it came
    if progress.n_processed != len(out) or not progress.finished:
        raise ValueError(f"{progress.n_processed} values where {len(out)} were expected")


def int8_pack(values_nd: npt.NDArray[Any]) -> bytes:
    """Scales (little-endian float32) of all rows, then their codes."""
    scale_n, codes_nd = quantize(values_nd)
    return scale_n.astype("<f4").tobytes() + codes_nd.tobytes()


def int8_unpack(data: Any, shape: tuple[int, int], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """The rows that `int8_pack` made bytes of. Raises ValueError for another number of bytes."""
    n, width = shape
    packed = np.frombuffer(data, dtype=np.uint8)
    if len(packed) != n * (_INT8_HEAD + width):
        raise ValueError(f"{len(packed)} bytes for {n} rows of {width}")
    scale_n = packed[: n * _INT8_HEAD].view("<f4")
    return dequantize(scale_n, packed[n * _INT8_HEAD :].view(np.int8).reshape(n, width), dtype)


def _blosc(dtype: DType) -> ChunkCodec:
    bits = bits_dtype(dtype)

    def decode(data: Any, shape: tuple[int, int]) -> Bits:
        return blosc_decode(data, shape[0] * shape[1] * bits.itemsize).view(bits).reshape(shape)

    return ChunkCodec(encode=lambda rows: blosc_encode(np.ascontiguousarray(rows), bits.itemsize), decode=decode)


def _pcodec(dtype: DType) -> ChunkCodec:
    bits = bits_dtype(dtype)

    def decode(data: Any, shape: tuple[int, int]) -> Bits:
        out = np.empty(shape[0] * shape[1], dtype=bits)
        pcodec_decode(data, out)
        return out.reshape(shape)

    return ChunkCodec(encode=pcodec_encode, decode=decode)


def _int8(dtype: DType) -> ChunkCodec:
    bits, values = bits_dtype(dtype), numpy_dtype(dtype)

    def encode(rows: Bits) -> bytes:
        return blosc_encode(int8_pack(rows.view(values)), 1)

    def decode(data: Any, shape: tuple[int, int]) -> Bits:
        packed = blosc_decode(data, shape[0] * (_INT8_HEAD + shape[1]))
        return int8_unpack(packed, shape, values).view(bits)

    return ChunkCodec(encode=encode, decode=decode)


_MAKERS: dict[CodecName, Callable[[DType], ChunkCodec]] = {"blosc": _blosc, "pcodec": _pcodec, "int8": _int8}
