"""saklas: a profile, that is a direction per layer, with a sidecar of exact keys."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from safetensors.numpy import save

from steercache.cache.vector_files import HEADER
from steercache.core.ids import canonical_json
from steercache.exchange.vectors.arrays import json_header, read_safetensors
from steercache.exchange.vectors.expressed import Consumer, Expressed
from steercache.exchange.vectors.held import HeldVector, read_limited, refused

SAKLAS: Final = Consumer(name="saklas", scale="none", phases=("both",))
SAKLAS_FORMAT: Final = 6  # of saklas 5.3
SAKLAS_VERSION: Final = "5.3.0"


def saklas_files(out: Expressed, *, head: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """A profile of saklas and its sidecar: directions only, since saklas counts strength in units of its own.

    Layout of saklas 5.3: `layer_N` in float32, and beside it `<name>.json` with the digest of the tensors' bytes.
    """
    tensors = save({f"layer_{layer}": one for layer, one in out.directions.items()})
    sidecar = {
        "format_version": SAKLAS_FORMAT,
        "saklas_version": SAKLAS_VERSION,
        "method": "profile",
        "tensor_sha256": _sha256(tensors),
        "provenance": {HEADER: canonical_json(head).decode()},
    }
    return tensors, canonical_json(sidecar)


def read_saklas(path: Path) -> HeldVector:
    """A profile of saklas with its sidecar."""
    beside = path.with_suffix(".json")
    held = read_safetensors(path)
    try:
        said = json.loads(read_limited(beside))
        if said["tensor_sha256"] != _sha256(read_limited(path)):
            raise refused(beside, "names another digest than that of the tensors beside it")
        ours = said["provenance"].get(HEADER)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise refused(beside, f"no sidecar of a profile of saklas: {error}") from error
    header = None if not isinstance(ours, str) else json_header(beside, ours.encode())
    return HeldVector(values=held.values, header=header, layer_offset=0, site="resid_post")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
