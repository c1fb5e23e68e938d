"""The vectors of a sweep: those it names, and those it has fitted from the cache, now or before."""

from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from steercache.cache.vectors import list_vectors
from steercache.cells.arms import Arm
from steercache.cells.sweep_saes import sweep_sae_vector
from steercache.core.ids import SHORT_ID
from steercache.core.selection import Selection
from steercache.core.vectors import SteeringVector
from steercache.fit import METHODS, diagnose
from steercache.fit.provenance import rows_digest
from steercache.fit.spread import RECIPE
from steercache.manifests.sweep import FittedVectors, SweepManifest
from steercache.queries.session import Session

QUERY = "anchor_vs_control"


def sweep_vectors(session: Session, sweep: SweepManifest, *, base_dir: Path = Path()) -> tuple[SteeringVector, ...]:
    """Every vector of a sweep, each once: the named ones first, then the fits in the manifest's order; new fits are saved.
    An SAE's file or folder is relative to `base_dir`.

    Raises:
        NotFoundError: no such vector or run; QueryError: a run without rows of the concept.
    """
    found = {v.vector_id: v for v in map(session.vector, sweep.vectors)}
    for fits in sweep.fits:
        found |= {v.vector_id: v for v in _fitted(session, fits, base_dir)}
    return tuple(found.values())


def vector_arms(vectors: tuple[SteeringVector, ...]) -> tuple[Arm, ...]:
    """One arm per vector, called as the vector is; those that share a name get their method, and if need be their id."""
    names = [v.name for v in vectors]
    for longer in ([v.method for v in vectors], [v.vector_id[:SHORT_ID] for v in vectors]):
        count = Counter(names)
        names = [
            name if count[name] == 1 else f"{v.name} ({word})"
            for name, v, word in zip(names, vectors, longer, strict=True)
        ]
    return tuple(Arm(name=n, role="vector", vector=v) for n, v in zip(names, vectors, strict=True))


def _fitted(session: Session, fits: FittedVectors, base_dir: Path) -> Iterator[SteeringVector]:
    for run, concept, method in product(fits.runs, fits.concepts, fits.methods):
        sel = session.select(QUERY, run=run, concept=concept, where=fits.where)
        if method == "sae":
            vector = sweep_sae_vector(session, sel, fits, base_dir)
        else:
            vector = _known(session, sel, method=method, recipe=fits.recipe) or METHODS[method](sel, recipe=fits.recipe)
        if not vector.diagnostics:  # they hold the rows' norms, which relative strengths are counted in
            vector = diagnose(sel, vector)
            session.save(vector)
        yield vector


def _known(session: Session, sel: Selection, *, method: str, recipe: str) -> SteeringVector | None:
    """The newest vector of the cache that was fitted in this way on these rows, on every layer of the run."""
    rows = rows_digest(sel)
    for stored in list_vectors(session.cache):
        made = stored.vector.provenance
        same = (stored.vector.method, made.get("recipe"), made.get("run_id"), made.get("generation"))
        if (
            same == (method, recipe, sel.run_id, sel.source.generation)
            and made.get("rows", {}).get("digest") == rows
            and set(sel.layers) <= set(stored.vector.layers)
            and stored.vector.site == sel.site
            and RECIPE not in made
        ):
            return stored.vector
    return None
