"""What a fitted vector says of the rows it was fitted on, as JSON: enough to fit it again."""

import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from steercache.core.errors import UsageError
from steercache.core.excerpts import excerpt
from steercache.core.selection import Selection


def describe_rows(sel: Selection, *, needs: tuple[str, ...]) -> dict[str, Any]:
    """The query, run and generation of a selection, and the versions of `needs`: the packages that decide a vector's bytes."""
    where = {} if sel.query.where is None else {"where": sel.query.where}
    bindings = as_json(dict(sel.query.bindings))
    return {
        "query": {"name": sel.query.name, "text": sel.query.text, "bindings": bindings, **where},
        "run_id": sel.run_id,
        "generation": sel.source.generation,
        "lossy": bool(sel.source.lossy),
        "versions": {name: _version(name) for name in ("steercache", *needs)},
    }


def rows_digest(sel: Selection) -> str:
    """SHA-256 over the rows picked and what was said about them."""
    h = hashlib.sha256()
    for values, dtype in ((sel.rows, "<i8"), (sel.label, "<i1"), (sel.pair, "<i8"), (sel.weight, "<f4")):
        data = b"" if values is None else np.ascontiguousarray(values, dtype).tobytes()
        h.update(len(data).to_bytes(8, "little") + data)
    return h.hexdigest()


@cache
def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def as_json(value: Any) -> Any:
    """JSON values only: numpy's numbers as Python's.

    Raises:
        UsageError: a binding that JSON cannot hold.
    """
    if isinstance(value, Mapping):
        return {str(k): as_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [as_json(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float) and np.isfinite(value):
        return value
    raise UsageError(f"a binding of type {type(value).__name__} ({excerpt(value)}) cannot be kept with the vector")
