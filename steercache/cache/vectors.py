"""The vectors of a cache: saved under their id, found by name, id or prefix."""

from dataclasses import replace
from pathlib import Path

from steercache.cache.entries import all_vectors
from steercache.cache.handle import CacheFolder
from steercache.cache.rebuild import tell_index
from steercache.cache.vector_files import StoredVector, read_vector, write_vector
from steercache.core.errors import DamagedError, NotFoundError
from steercache.core.ids import resolve_name
from steercache.core.vectors import SteeringVector


def save_vector(cache: CacheFolder, vector: SteeringVector) -> Path:
    """Write a vector under its id; the index follows.

    Saved again, it takes the place of itself: it keeps its first name, and its measurements and its use unless it brings new
    ones.
    """
    path, vector = cache.paths.vector(vector.vector_id), with_model(cache, vector)
    if (stored := stored_vector(cache, vector.vector_id)) is not None:
        vector = replace(
            vector,
            name=stored.name,
            diagnostics=vector.diagnostics or stored.diagnostics,
            fitted_on=vector.fitted_on or stored.fitted_on,
            use=vector.use or stored.use,
        )
    if vector.use is not None:
        vector = replace(vector, use=vector.prompted(vector.use))
    write_vector(path, vector)
    tell_index(cache)
    return path


def stored_vector(cache: CacheFolder, vector_id: str) -> SteeringVector | None:
    """The vector that is saved under an id; None for none, or for a file that cannot be read."""
    try:
        return read_vector(cache.paths.vector(vector_id)).vector
    except (NotFoundError, DamagedError):
        return None


def list_vectors(cache: CacheFolder) -> list[StoredVector]:
    """Every vector of the cache, newest first."""
    return all_vectors(cache.paths)[::-1]


def load_vector(cache: CacheFolder, wanted: str) -> SteeringVector:
    """The vector that answers to a name, an id or a unique prefix. Raises NotFoundError, DamagedError."""
    stored = list_vectors(cache)
    candidates = [(s.vector.vector_id, s.vector.name) for s in stored]
    fitted = [s.vector.name for s in stored if "control_kind" not in s.vector.provenance]
    vector_id = resolve_name(
        wanted, candidates, noun="vector", list_command="steercache vectors list", named_first=fitted
    )
    return with_model(cache, next(s.vector for s in stored if s.vector.vector_id == vector_id))


def with_model(cache: CacheFolder, vector: SteeringVector) -> SteeringVector:
    """The vector with the model that it was fitted on, and how its prompts began; a file of an earlier version does not say,
    and its run may."""
    run_id, known = vector.provenance.get("run_id"), vector.fitted_on
    if not isinstance(run_id, str) or (known is not None and None not in (known.bos, known.chat)):
        return vector
    try:
        found = cache.source(run_id).fitted_on
        return replace(vector, fitted_on=found if known is None else replace(known, bos=found.bos, chat=found.chat))
    except (NotFoundError, DamagedError):
        return vector
