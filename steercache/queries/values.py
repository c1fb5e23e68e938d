"""What `activation()` and `vector()` return in SQL: rows of the cache's runs and directions of its vectors."""

from typing import Any

import numpy.typing as npt

from steercache.cache.handle import Cache
from steercache.cache.vector_files import read_vector
from steercache.core.errors import NotFoundError
from steercache.core.selection import RowIndex, RowSource
from steercache.core.vectors import SteeringVector


class CachedValues:
    """Values for the length of one query: a run or a vector is opened when it is first asked for."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._sources: dict[str, RowSource] = {}
        self._vectors: dict[str, SteeringVector] = {}

    def activation(self, run_id: str, site: str, layer: int, rows: RowIndex) -> npt.NDArray[Any]:
        """Rows of one layer, shape (n, d). Raises NotFoundError, DamagedError."""
        if run_id not in self._sources:
            self._sources[run_id] = self._cache.source(run_id)
        return self._sources[run_id].gather(site, layer, rows)

    def vector(self, vector_id: str, layer: int) -> npt.NDArray[Any]:
        """One direction, shape (d,). Raises NotFoundError, DamagedError."""
        if vector_id not in self._vectors:
            self._vectors[vector_id] = read_vector(self._cache.paths.vector(vector_id)).vector
        vector = self._vectors[vector_id]
        if layer not in vector.layers:
            has = ", ".join(map(str, vector.layers))
            raise NotFoundError(f"the vector {vector.name!r} has no layer {layer}; it has {has}")
        return vector.at(layer)
