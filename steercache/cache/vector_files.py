"""A vector on disk: values and full provenance in one safetensors file, read without running code."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from steercache.cache.vector_features import feature_rows, typed
from steercache.core.errors import DamagedError, NotFoundError, UsageError
from steercache.core.ids import canonical_json
from steercache.core.predictors import Predictors
from steercache.core.vector_use import VectorUse
from steercache.core.vectors import FittedOn, SteeringVector
from steercache.store.durable import make_folder, read_bytes, write_file_atomically

HEADER = "steercache.vector"  # the one key of the safetensors metadata
FORMAT = 3  # 1 had no `use`; 2 no `bos` and `chat` of the texts that it was fitted on
_FORMATS = (1, 2, FORMAT)
_NOT_MEASURED = Predictors(d_prime=None, difference_cosine=None, difference_cosine_std=None)
MOST_CHARS, MOST_LAYER = 1024, 1_000_000
_REMEDY = "restore the file from a copy, or remove it and fit the vector again"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredVector:
    """A vector as it was saved, and when."""

    vector: SteeringVector
    created_at: str


def header_of(vector: SteeringVector) -> dict[str, Any]:
    """Everything about a vector but its values, as JSON; `vector_schema` describes it."""
    return {
        "format": FORMAT,
        "vector_id": vector.vector_id,
        "name": vector.name,
        "method": vector.method,
        "concept": vector.concept,
        "site": vector.site,
        "layers": list(vector.layers),
        "provenance": vector.provenance,
        "diagnostics": [dict(d) for d in vector.diagnostics],
        **({} if vector.fitted_on is None else {"fitted_on": _known(vector.fitted_on)}),
        **({} if vector.use is None else {"use": vector.use.to_json()}),
        "created_at": datetime.now(UTC).isoformat(timespec="microseconds"),
    }


def _known(on: FittedOn) -> dict[str, Any]:
    """As JSON, without what is not known."""
    return {name: value for name, value in asdict(on).items() if value is not None}


def vector_of(head: Mapping[str, Any], values: npt.NDArray[np.float32]) -> SteeringVector:
    """The vector that a header describes, with values of shape (l, d); its id is not compared with the header's.

    Raises:
        KeyError, TypeError, ValueError: not such a header, or other values.
    """
    _check_types(head)
    if head["format"] not in _FORMATS:
        raise ValueError(f"its format is {head['format']!r}, and this version reads {_FORMATS[0]} to {FORMAT}")
    return SteeringVector(
        name=head["name"],
        method=head["method"],
        concept=head["concept"],
        site=head["site"],
        layers=tuple(head["layers"]),
        values=values,
        provenance=head["provenance"],
        diagnostics=tuple(head["diagnostics"]),
        fitted_on=None if head.get("fitted_on") is None else FittedOn.from_json(head["fitted_on"]),
        use=None if head.get("use") is None else VectorUse.from_json(head["use"]),
    )


def _check_types(head: Mapping[str, Any]) -> None:
    """Raises TypeError or ValueError for a header that is not of the types of one, or whose text no file can hold."""
    if not isinstance(head["provenance"], dict) or not isinstance(head["diagnostics"], list | tuple):
        raise TypeError("provenance is a mapping, and diagnostics a list of them")
    if not all(isinstance(d, dict) for d in head["diagnostics"]):
        raise TypeError("diagnostics are mappings")
    texts = ("name", "method", "site")
    if not all(isinstance(head[key], str) and 0 < len(head[key]) <= MOST_CHARS for key in texts):
        raise TypeError(f"{', '.join(texts)} are texts of up to {MOST_CHARS} characters")
    if not (head["concept"] is None or isinstance(head["concept"], str)):
        raise TypeError("a concept is a text, or null")
    layers = head["layers"]
    if not isinstance(layers, list | tuple) or not all(type(one) is int and 0 <= one <= MOST_LAYER for one in layers):
        raise TypeError("layers are numbers of blocks, from 0")
    if len(set(layers)) != len(layers):
        raise ValueError("a layer is named twice")
    canonical_json(head)  # no NaN, no half of a surrogate pair


def vector_bytes(vector: SteeringVector) -> bytes:
    """The safetensors file of a vector."""
    head = canonical_json(header_of(vector)).decode()
    return save({"values": np.ascontiguousarray(vector.values)}, metadata={HEADER: head})


def write_vector(path: Path, vector: SteeringVector) -> None:
    """Write `vector` durably and atomically."""
    make_folder(path.parent)
    write_file_atomically(path, vector_bytes(vector))


def read_vector(path: Path) -> StoredVector:
    """Read one vector file.

    Raises:
        NotFoundError: it is not there.
        UsageError: it may not be read.
        DamagedError: it is no safetensors file, has no header of ours, or its values do not match its id.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            head = json.loads((file.metadata() or {})[HEADER])
            values = file.get_tensor("values")
        vector = vector_of(head, values)
        created_at = datetime.fromisoformat(head["created_at"]).isoformat(timespec="microseconds")
        claimed = head["vector_id"]
    except FileNotFoundError as error:
        if path.exists():  # what safetensors says of a file that may not be read, too
            read_bytes(path)  # says what the system refuses
            raise UsageError("may not be read", place=str(path), hint="mend its permissions") from error
        raise NotFoundError("no such vector", place=str(path), hint="steercache vectors list") from error
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise DamagedError(f"not a vector of steercache: {error}", place=str(path), hint=_REMEDY) from error
    if vector.vector_id != claimed:
        raise DamagedError("the values do not match the vector's id", place=str(path), hint=_REMEDY)
    return StoredVector(vector=vector, created_at=created_at)


def vector_rows(stored: StoredVector) -> list[dict[str, Any]]:
    """A vector as rows of the index's `vectors`, one per layer; the first brings the `features` of a vector of an SAE.

    Provenance is free JSON, of other programs too: what is of another type than its column is NULL there.
    """
    vector, made = stored.vector, stored.vector.provenance
    by_layer: dict[int, Mapping[str, Any]] = {
        d["layer"]: d for d in vector.diagnostics if isinstance(d.get("layer"), int)
    }
    query = typed(made.get("query"), Mapping) or {}
    features = feature_rows(vector)
    rows: list[dict[str, Any]] = [
        {
            "vector_id": vector.vector_id,
            "name": vector.name,
            "method": vector.method,
            "concept": vector.concept,
            "site": vector.site,
            "layer": layer,
            "norm": float(norm),
            "resid_norm": typed(by_layer.get(layer, {}).get("resid_norm"), float),
            "auc": typed(by_layer.get(layer, {}).get("auc"), float),
            "run_id": typed(made.get("run_id"), str),
            "generation": typed(made.get("generation"), str),
            "query_name": typed(query.get("name"), str),
            "query_text": typed(query.get("text"), str),
            "params": made.get("params") or {},
            "control_kind": typed(made.get("control_kind"), str),
            "control_seed": typed(made.get("control_seed"), int),
            "created_at": stored.created_at,
            "hidden_size": vector.hidden_size,
            **asdict(Predictors.from_json(by_layer.get(layer, {})) or _NOT_MEASURED),
        }
        for layer, norm in zip(vector.layers, vector.norms, strict=True)
    ]
    for row in rows[:1] if features else []:
        row["features"] = features
    return rows
