"""A vector's header with anything in any place: refused, or a vector that the cache keeps and that no reader stumbles over."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from steercache.cache.handle import open_cache
from steercache.cache.vector_files import HEADER, header_of, write_vector
from steercache.core.errors import UsageError
from steercache.core.vector_use import VectorUse
from steercache.exchange.vectors.importing import import_vector
from tests.exchange.vector_cases import some_vector

ODD: tuple[Any, ...] = (
    *(None, True, 0, -1, 2**63, 1e308, float("nan"), "", "x" * 2_000, "a\x00b", "\x1b[31m", "\ud800", "../x"),
    *([], {}, [[]], [None], {"a": {"b": [1]}}, [1, 1], ["1"], [2.5]),
)


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside a JSON document."""
    if at:
        yield at
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*at, key))


def with_value(document: Any, at: tuple[Any, ...], value: Any) -> Any:
    changed = json.loads(json.dumps(document))
    inner = changed
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = value
    return changed


def test_a_header_with_anything_in_any_place_is_refused_or_is_a_vector_that_the_cache_keeps(tmp_path: Path) -> None:
    """What a file says of itself is somebody's: one that the index could not hold made every query fail."""
    use = VectorUse(layers=(2, 4), strength=0.5, strength_range=(0.1, 0.9), damage={"limit": 0.1}, phase="both")
    vector, cache = some_vector(use=use), open_cache(tmp_path / "root", create=True)
    head, path = json.loads(json.dumps(header_of(vector))), tmp_path / "v.safetensors"
    n_kept = 0
    for at in places(head):
        for i, value in enumerate(ODD):
            said = json.dumps(with_value(head, at, value))
            path.write_bytes(save({"values": vector.values}, metadata={HEADER: said}))
            try:
                kept = import_vector(path).vector
            except UsageError:
                continue
            n_kept += 1
            if i % 5 == 0 or value == 1e308:  # by the file, as one that was copied or pulled: the index is made of it
                other = replace(kept, values=vector.values + np.float32(n_kept))
                write_vector(cache.paths.vector(other.vector_id), other)
    assert n_kept > 100
    with cache.connection() as con:
        n_vectors, least = con.execute("SELECT count(DISTINCT vector_id), min(resid_norm) FROM vectors").fetchone()
    assert n_vectors > 20
    assert least == 11.0
