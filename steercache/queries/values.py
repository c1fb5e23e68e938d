"""What `activation()` and `vector()` return in SQL: rows of the cache's runs and directions of its vectors."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy.typing as npt

from steercache.cache.handle import CacheFolder
from steercache.cache.vector_files import read_vector
from steercache.cache.vectors import list_vectors
from steercache.core.errors import NotFoundError
from steercache.core.ids import resolve_name
from steercache.core.selection import RowIndex, RowSource
from steercache.core.vectors import SteeringVector


class CachedValues:
    """Values for the length of one query: a run or a vector is looked up and opened at first use.

    Both answer to an id, to a name and to a unique prefix, as everywhere; whole ids are read without looking at any other.
    """

    def __init__(self, cache: CacheFolder) -> None:
        self._cache = cache
        self._sources: dict[str, RowSource] = {}
        self._vectors: dict[str, SteeringVector] = {}

    def activation(self, run: str, site: str, layer: int, rows: RowIndex) -> npt.NDArray[Any]:
        """Rows of one layer, shape (n, d). Raises NotFoundError, DamagedError."""
        if run not in self._sources:
            self._sources[run] = self._cache.source(self._run_id(run))
        return self._sources[run].gather(site, layer, rows)

    def vector(self, wanted: str, layer: int) -> npt.NDArray[Any]:
        """One direction, shape (d,). Raises NotFoundError, DamagedError."""
        if wanted not in self._vectors:
            self._vectors[wanted] = read_vector(self._cache.paths.vector(self._vector_id(wanted))).vector
        vector = self._vectors[wanted]
        if layer not in vector.layers:
            has = ", ".join(map(str, vector.layers))
            raise NotFoundError(f"the vector {vector.name!r} has no layer {layer}; it has {has}")
        return vector.at(layer)

    def _run_id(self, wanted: str) -> str:
        is_whole = _is_there(lambda: self._cache.paths.run(wanted).document)
        return wanted if is_whole else self._cache.resolve_run(wanted)

    def _vector_id(self, wanted: str) -> str:
        if _is_there(lambda: self._cache.paths.vector(wanted)):
            return wanted
        return resolve_name(wanted, self._vector_names, noun="vector", list_command="steercache vectors list")

    @cached_property
    def _vector_names(self) -> list[tuple[str, str]]:
        """(id, name) of every vector, newest first: read once, however many names a column holds."""
        return [(stored.vector.vector_id, stored.vector.name) for stored in list_vectors(self._cache)]


def _is_there(path: Callable[[], Path]) -> bool:
    """Whether `path` is that of a whole id, and exists: paths of anything else are refused with a NotFoundError."""
    try:
        return path().exists()
    except NotFoundError:
        return False
