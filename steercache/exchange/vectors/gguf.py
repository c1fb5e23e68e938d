"""GGUF control vectors: llama.cpp, repeng, EasySteer.

llama.cpp adds `direction.N` to the output of block N, counted from 0, before the final norm, at every token, times the factor
of `--control-vector-scaled` (1 without). It has no direction for block 0. repeng and EasySteer number blocks alike and have
one. The layout is the GGUF specification's, version 3: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from steercache.core.ids import canonical_json
from steercache.core.vector_use import VectorUse
from steercache.exchange.vectors.expressed import Consumer, Expressed
from steercache.exchange.vectors.held import MAX_LAYERS, HeldVector, checked_values, read_limited, refused

LLAMA_CPP: Final = Consumer(
    name="llama.cpp",
    scale="none",
    first_layer=1,
    why_first_layer="llama.cpp has no control vector for block 0; the format easysteer, which repeng reads too, has",
)
ARCHITECTURE: Final = "controlvector"
HEADER_KEY: Final = "steercache.vector"
_ALIGNMENT: Final = 32
_STRING, _ARRAY = 8, 9
_SCALARS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TYPES: Final[Mapping[int, np.dtype[Any]]] = {  # of tensors: F32, F16, F64
    0: np.dtype("<f4"),
    1: np.dtype("<f2"),
    28: np.dtype("<f8"),
}
_MAX_KEYS: Final = 10_000


def gguf_bytes(out: Expressed, *, head: Mapping[str, Any], extra: Mapping[str, str] | None = None) -> bytes:
    """The file: directions in float32 under the numbers of their blocks, and our header under a key of its own."""
    hint = "unknown" if out.vector.fitted_on is None else out.vector.fitted_on.name
    pairs: list[tuple[str, str | int]] = [
        ("general.architecture", ARCHITECTURE),
        (f"{ARCHITECTURE}.model_hint", hint),
        *(extra or {}).items(),
        (f"{ARCHITECTURE}.layer_count", len(out.directions)),
        (HEADER_KEY, canonical_json(head).decode()),
    ]
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(out.directions), len(pairs))]
    for key, value in pairs:
        said = struct.pack("<II", 4, value) if isinstance(value, int) else struct.pack("<I", _STRING) + _text(value)
        parts.append(_text(key) + said)
    offset, data = 0, []
    for layer, direction in out.directions.items():
        raw = direction.astype("<f4").tobytes()
        parts.append(_text(f"direction.{layer}") + struct.pack("<IQIQ", 1, direction.size, 0, offset))
        data.append(raw + b"\0" * (-len(raw) % _ALIGNMENT))
        offset += len(data[-1])
    start = b"".join(parts)
    return start + b"\0" * (-len(start) % _ALIGNMENT) + b"".join(data)


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


class _Cursor:
    """Reads numbers and strings of a GGUF file in order; never past its end."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, n_bytes: int) -> bytes:
        if n_bytes > len(self.data) - self.at:
            raise ValueError(f"ends at byte {len(self.data)}, and {n_bytes} more are announced at byte {self.at}")
        self.at += n_bytes
        return self.data[self.at - n_bytes : self.at]

    def number(self, kind: str) -> Any:
        return struct.unpack("<" + kind, self.take(struct.calcsize("<" + kind)))[0]

    def text(self) -> str:
        return self.take(self.number("Q")).decode()

    def value(self, kind: int, *, depth: int = 0) -> Any:
        if kind == _STRING:
            return self.text()
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind != _ARRAY or depth > 4:
            raise ValueError(f"a key has the unknown type {kind}")
        of, n = self.number("I"), self.number("Q")
        if n > len(self.data) - self.at:  # an item has a byte at least
            raise ValueError(f"an array announces {n} items, and {len(self.data) - self.at} bytes are left")
        return [self.value(of, depth=depth + 1) for _ in range(n)]


def read_gguf(path: Path) -> HeldVector:
    """The directions of a control vector. Raises UsageError for any other file, and for one that is cut or lies."""
    data = read_limited(path)
    try:
        keys, tensors = _parse(data)
        header = None if HEADER_KEY not in keys else json.loads(keys[HEADER_KEY])
    except (ValueError, struct.error, OverflowError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise refused(path, f"no whole GGUF file: {error}") from error
    if keys.get("general.architecture") != ARCHITECTURE:
        raise refused(path, f"a GGUF file of {keys.get('general.architecture')!r:.60}, not of a control vector")
    named = {}
    for name, values in tensors.items():
        prefix, _, number = name.partition(".")
        if prefix != "direction" or not number.isdecimal():
            raise refused(path, f"the tensor {name!r:.80} is no direction of a layer")
        named[int(number)] = values
    use = VectorUse(phase="both")
    about = {name: keys[name] for name in (f"{ARCHITECTURE}.model_hint", f"{ARCHITECTURE}.method") if name in keys}
    values = checked_values(path, named)
    return HeldVector(
        values=values, header=header, layer_offset=0, site="resid_post", norm="keep", use=use, about=about
    )


def _parse(data: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    cursor = _Cursor(data)
    if cursor.take(4) != b"GGUF":
        raise ValueError("it does not begin with GGUF")
    version = cursor.number("I")
    if version not in (2, 3):
        raise ValueError(f"version {version}, and 2 and 3 are read")
    n_tensors, n_keys = cursor.number("Q"), cursor.number("Q")
    if n_tensors > MAX_LAYERS or n_keys > _MAX_KEYS:
        raise ValueError(f"it announces {n_tensors} tensors and {n_keys} keys, more than a vector has")
    keys = {}
    for _ in range(n_keys):
        name = cursor.text()
        keys[name] = cursor.value(cursor.number("I"))
    announced = []
    for _ in range(n_tensors):
        name, n_dims = cursor.text(), cursor.number("I")
        if n_dims > 4:
            raise ValueError(f"the tensor {name!r:.80} has {n_dims} dimensions")
        shape = tuple(cursor.number("Q") for _ in range(n_dims))[::-1]
        announced.append((name, shape, cursor.number("I"), cursor.number("Q")))
    alignment = keys.get("general.alignment", _ALIGNMENT)
    if not isinstance(alignment, int) or not 0 < alignment <= 1 << 16:
        raise ValueError("an impossible alignment")
    start = cursor.at + -cursor.at % alignment
    tensors = {}
    for name, shape, kind, offset in announced:
        if kind not in _TYPES:
            raise ValueError(f"the tensor {name!r:.80} is of type {kind}; float16, float32 and float64 are read")
        n = int(np.prod(shape, dtype=object))
        end = start + offset + n * _TYPES[kind].itemsize
        if end > len(data):
            raise ValueError(f"the tensor {name!r:.80} ends at byte {end}, and the file at {len(data)}")
        if name in tensors:
            raise ValueError(f"the tensor {name!r:.80} is there twice")
        tensors[name] = np.frombuffer(data, _TYPES[kind], n, start + offset).reshape(shape)
    return keys, tensors
