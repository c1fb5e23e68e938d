"""The vectors of a cache: saved under their id, found by name, id or prefix."""

from pathlib import Path

from steercache.cache.entries import all_vectors
from steercache.cache.handle import Cache
from steercache.cache.vector_files import StoredVector, read_vector, vector_rows, write_vector
from steercache.core.errors import BusyError
from steercache.core.ids import resolve_name
from steercache.core.vectors import SteeringVector
from steercache.index.ingest import put_vector


def save_vector(cache: Cache, vector: SteeringVector) -> Path:
    """Write a vector under its id and tell the index; saved again, it takes the place of itself."""
    path = cache.paths.vector(vector.vector_id)
    write_vector(path, vector)
    try:
        with cache.index.write() as connection:
            for row in vector_rows(read_vector(path)):
                put_vector(connection, row)
    except BusyError:
        pass  # the file is the truth: `catch_up` takes it in when the index is free
    return path


def list_vectors(cache: Cache) -> list[StoredVector]:
    """Every vector of the cache, newest first."""
    return all_vectors(cache.paths)[::-1]


def load_vector(cache: Cache, wanted: str) -> SteeringVector:
    """The vector that answers to a name, an id or a unique prefix. Raises NotFoundError, DamagedError."""
    stored = list_vectors(cache)
    candidates = [(s.vector.vector_id, s.vector.name) for s in stored]
    vector_id = resolve_name(wanted, candidates, noun="vector", list_command="steercache vectors list")
    return next(s.vector for s in stored if s.vector.vector_id == vector_id)
