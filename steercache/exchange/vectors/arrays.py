"""numpy's `.npy` and `.npz`, and safetensors: of steercache, of saklas, or plain."""

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, deserialize

from steercache.cache.vector_files import HEADER
from steercache.core.ids import canonical_json
from steercache.exchange.vectors.expressed import Consumer, Expressed
from steercache.exchange.vectors.held import MAX_FILE_BYTES, HeldVector, read_limited, refused
from steercache.exchange.vectors.torch_formats import plain_held

ARCHIVE: Final = Consumer(name="an archive of numbers", scale="none", keeps_all=True)
_HEADER_ENTRY: Final = "steercache"
_DTYPES: Final = {"F16": np.float16, "F32": np.float32, "F64": np.float64, "BF16": ml_dtypes.bfloat16}
_MAX_ENTRIES: Final = 10_000


def npz_bytes(out: Expressed, *, head: Mapping[str, Any]) -> bytes:
    """`values` (l, d), `layers` (l,), and our header as UTF-8 bytes."""
    stream = io.BytesIO()
    layers = np.array(list(out.directions), dtype=np.int64)
    said = np.frombuffer(canonical_json(head), dtype=np.uint8)
    np.savez(stream, values=np.stack(list(out.directions.values())), layers=layers, steercache=said)
    return stream.getvalue()


def read_numpy(path: Path) -> HeldVector:
    """An `.npy` of shape (layer, d) or (d,); an `.npz` with `values` and `layers`, or one array per layer."""
    data = read_limited(path)
    try:
        if not data.startswith(b"PK"):
            return plain_held(path, _array(data), header=None)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            swollen = sum(entry.file_size for entry in archive.infolist())
            if len(archive.namelist()) > _MAX_ENTRIES or swollen > MAX_FILE_BYTES:
                raise refused(path, f"unpacks to {swollen:,} bytes, more than vectors have")
            arrays = {name.removesuffix(".npy"): _array(archive.read(name)) for name in archive.namelist()}
    except (
        ValueError,
        EOFError,
        zipfile.BadZipFile,
        SyntaxError,
        RecursionError,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise refused(path, f"no whole file of numpy: {error}") from error
    said = arrays.pop(_HEADER_ENTRY, None)
    return plain_held(path, _by_layer(path, arrays), header=None if said is None else json_header(path, said.tobytes()))


def _by_layer(path: Path, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Mapping[Any, Any]:
    if set(arrays) != {"values", "layers"}:
        return arrays
    layers, values = arrays["layers"], arrays["values"]
    if layers.dtype.kind not in "iu" or values.ndim != 2 or layers.shape != (len(values),):
        raise refused(path, f"layers of shape {layers.shape}, {layers.dtype}, for values of shape {values.shape}")
    if len(set(layers.tolist())) != len(layers):
        raise refused(path, "a layer is there twice")
    return {int(layer): row for layer, row in zip(layers, values, strict=True)}


def _array(data: bytes) -> np.ndarray[Any, Any]:
    """One `.npy`, whose size is compared with what its head announces before memory is taken. Raises ValueError."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are not loaded, for that could run code")
    announced = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if min(shape, default=0) < 0 or announced > len(data) - stream.tell():
        raise ValueError(
            f"shape {shape} of {dtype} needs {announced:,} bytes, and {len(data) - stream.tell():,} are there"
        )
    stream.seek(0)
    array: np.ndarray[Any, Any] = np.lib.format.read_array(stream, allow_pickle=False)
    return array


def read_safetensors(path: Path) -> HeldVector:
    """Tensors whose names end in their layer, or `values` (layer, d) with our header."""
    data = read_limited(path)
    try:
        tensors = {name: _tensor(said) for name, said in deserialize(data)}  # type: ignore[no-untyped-call]
        n_head = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + n_head]).get("__metadata__") or {}
    except (SafetensorError, ValueError, KeyError, RecursionError) as error:
        raise refused(path, f"no whole safetensors file: {error}") from error
    header = json_header(path, metadata[HEADER].encode()) if HEADER in metadata else None
    if header is not None and set(tensors) == {"values"}:
        layers = header.get("layers")
        if not isinstance(layers, list) or not all(type(one) is int for one in layers):
            raise refused(path, "its header names layers that are no numbers")
        if len(layers) != len(tensors["values"]):
            raise refused(path, "its header names other layers than it has values for")
        return plain_held(path, dict(zip(layers, tensors["values"], strict=True)), header=header)
    whole = tensors["values"] if set(tensors) == {"values"} else tensors
    return plain_held(path, whole, header=header)


def _tensor(said: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    if said["dtype"] not in _DTYPES:
        raise ValueError(f"a tensor of type {said['dtype']}, and {', '.join(_DTYPES)} are read")
    array: np.ndarray[Any, Any] = np.frombuffer(said["data"], dtype=_DTYPES[said["dtype"]]).reshape(said["shape"])
    return array


def json_header(path: Path, said: bytes) -> Mapping[str, Any]:
    """Our header from its text. Raises UsageError."""
    try:
        header = json.loads(said)
    except (ValueError, RecursionError) as error:
        raise refused(path, f"its header of steercache is no JSON: {error}") from error
    if not isinstance(header, dict):
        raise refused(path, "its header of steercache is no JSON object")
    return header
