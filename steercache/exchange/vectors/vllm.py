"""Engines on vLLM: vllm-lens's JSON, and EasySteer's specification beside a GGUF file. By their documented layouts.

vllm-lens 1.3 (`SteeringVector`): activations (l, d) as base64 with type and shape, `layer_indices`, `scale`, added to the
output of each block, counted from 0, at every token. EasySteer (`SteeringSpec`): `source`, `algorithm`, `scale`, `layers`, and
where to apply it; its algorithm `erase` removes the component.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import ml_dtypes
import numpy as np
import pyarrow as pa

from steercache.core.vector_use import Phase, VectorUse
from steercache.exchange.vectors.expressed import Consumer, Expressed
from steercache.exchange.vectors.gguf import read_gguf
from steercache.exchange.vectors.held import MAX_FILE_BYTES, HeldVector, checked_values, read_limited, refused

VLLM_LENS: Final = Consumer(name="vllm-lens", scale="one")
EASYSTEER: Final = Consumer(
    name="EasySteer", scale="one", operations=("add", "project_out"), phases=("both", "prompt", "generated")
)
_HEADER: Final = "steercache"
_DTYPES: Final = {"float16": np.float16, "float32": np.float32, "float64": np.float64}
_ALGORITHMS: Final = {"add": "direct", "project_out": "erase"}


def vllm_lens_bytes(out: Expressed, *, head: Mapping[str, Any]) -> bytes:
    """The list that `apply_steering_vectors` takes, in its JSON form, without compression."""
    values = np.stack(list(out.directions.values())).astype("<f4")
    multiple = out.one_multiple(VLLM_LENS)
    vector = {
        "activations": {
            "data": base64.b64encode(values.tobytes()).decode(),
            "dtype": "float32",
            "original_dtype": "torch.float32",
            "shape": list(values.shape),
        },
        "layer_indices": list(out.directions),
        "scale": 1.0 if multiple is None else multiple,
        "norm_match": False,
        "position_indices": None,
        _HEADER: head,
    }
    return (json.dumps([vector]) + "\n").encode()


def read_vllm_lens(path: Path) -> HeldVector:
    """One steering vector of vllm-lens, alone or in a list."""
    said = _json(path)
    said = said[0] if isinstance(said, list) and len(said) == 1 else said
    if not isinstance(said, dict) or not isinstance(said.get("activations"), dict):
        raise refused(path, "holds no steering vector of vllm-lens, or several")
    if said.get("norm_match"):
        raise refused(path, "is scaled to the norm of every row (norm_match), which no operation here does")
    values, layers, scale = _activations(path, said["activations"]), said.get("layer_indices"), said.get("scale", 1.0)
    if values.ndim != 2:
        raise refused(path, f"has shape {values.shape}: vectors for single positions are not read, only (layer, d)")
    if not isinstance(layers, list) or len(layers) != len(values) or not all(type(n) is int and n >= 0 for n in layers):
        raise refused(path, f"layer_indices name no layer for each of its {len(values)} vectors")
    if len(set(layers)) != len(layers):
        raise refused(path, "a layer is there twice")
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not np.isfinite(scale):
        raise refused(path, "its scale is no finite number")
    header = said.get(_HEADER) if isinstance(said.get(_HEADER), dict) else None
    use = VectorUse(phase="both", strength=float(scale))
    found = checked_values(path, dict(zip(layers, values, strict=True)))
    return HeldVector(values=found, header=header, layer_offset=0, site="resid_post", norm="keep", use=use)


def _activations(path: Path, said: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    """The array of a serialized tensor; what it would unpack to is compared with its shape first."""
    try:
        shape = tuple(int(n) for n in said["shape"])
        bfloat16 = said.get("original_dtype") == "torch.bfloat16" and said["dtype"] == "int16"
        dtype = np.dtype(ml_dtypes.bfloat16 if bfloat16 else _DTYPES[said["dtype"]])
        n_bytes = int(np.prod(shape, dtype=object)) * dtype.itemsize
        raw = base64.b64decode(said["data"], validate=True)
        if min(shape, default=0) <= 0 or n_bytes > MAX_FILE_BYTES:
            raise ValueError(f"shape {shape}")
        if said.get("compression") == "zstd":
            raw = pa.Codec("zstd").decompress(raw, decompressed_size=n_bytes, asbytes=True)
        if len(raw) != n_bytes:
            raise ValueError(f"{len(raw)} bytes for shape {shape} of {dtype}")
    except (KeyError, TypeError, ValueError, binascii.Error, pa.ArrowException, OSError) as error:
        raise refused(path, f"its activations cannot be read: {error}") from error
    array: np.ndarray[Any, Any] = np.frombuffer(raw, dtype).reshape(shape)
    return array


def easysteer_spec(out: Expressed, *, source: str) -> bytes:
    """A `SteeringSpec` as JSON, for `--steering-config` or a request's `steering`."""
    multiple = out.one_multiple(EASYSTEER)
    phases: dict[Phase, dict[str, str]] = {
        "prompt": {"prompt": "all"},
        "generated": {"generation": "all"},
        "both": {"prompt": "all", "generation": "all"},
    }
    vector = {
        "source": source,
        "algorithm": _ALGORITHMS[out.use.operation],
        "scale": 1.0 if multiple is None else multiple,
        "layers": list(out.directions),
        "normalize": False,
        "apply": phases[out.use.phase],
    }
    return (json.dumps({"vectors": [vector]}, indent=2) + "\n").encode()


def read_easysteer(path: Path) -> HeldVector:
    """The GGUF file of EasySteer, which numbers blocks like llama.cpp; its lengths may be unit or not, and do not say."""
    held = read_gguf(path)
    return HeldVector(
        values=held.values,
        header=held.header,
        layer_offset=0,
        site="resid_post",
        norm="keep" if held.header is not None else None,
        use=held.use,
        about=held.about,
    )


def _json(path: Path) -> Any:
    try:
        return json.loads(read_limited(path))
    except (ValueError, RecursionError) as error:
        raise refused(path, f"no JSON: {error}") from error
