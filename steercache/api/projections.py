"""Rows of a run on a direction: projections on a vector, activations of an SAE's feature, norms."""

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from steercache.api.sae_encoding import find_encoded
from steercache.api.samples import rows_of
from steercache.cache.source import RunSource
from steercache.cache.vectors import stored_vector, with_model
from steercache.core.errors import NotFoundError, UsageError
from steercache.core.lineage import lineage_of, why_not_own
from steercache.core.selection import RowIndex
from steercache.core.vectors import SteeringVector
from steercache.queries.session import Session

Float32Array = npt.NDArray[np.float32]
_VALUES: Final = 24_000_000  # numbers that are read for the norms of a run
_SAMPLES: Final = 64
_SOME_ROWS: Final = """
WITH spread AS (
    SELECT sample_idx FROM (
        SELECT sample_idx, row_number() OVER (ORDER BY sample_idx) - 1 AS i, count(*) OVER () AS n
        FROM samples WHERE run_id = $run
    ) WHERE i % greatest(n // $samples, 1) = 0 LIMIT $samples
)
SELECT row_idx, any_value(kind)::VARCHAR AS kind FROM tokens
WHERE run_id = $run AND sample_idx IN (FROM spread) AND row_idx IS NOT NULL AND position <> 0
GROUP BY row_idx ORDER BY row_idx LIMIT $rows
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Projections:
    """Rows of one layer on a vector, on a feature, or alone; every array has shape (n,), NaN where there is no row.

    `value` is the projection on the unit direction, the activation of the feature, or the norm of the row; `cosine` is None
    except for a vector. `note` says what is doubtful about the vector (None: nothing).
    """

    site: str
    layer: int
    value: Float32Array = field(repr=False)
    norm: Float32Array = field(repr=False)
    cosine: Float32Array | None = field(default=None, repr=False)
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RowNorms:
    """Norms of some rows of a run, position 0 left out: per kind of token, arrays of shape (l, 3) with the quantiles .1, .5
    and .9 of each of `layers`; `n` counts the rows of each kind."""

    site: str
    layers: tuple[int, ...]
    quantiles: dict[str, Float32Array] = field(repr=False)
    n: dict[str, int]


def project_rows(
    session: Session, run_id: str, rows: RowIndex, *, vector: SteeringVector | None, layer: int, site: str | None = None
) -> Projections:
    """Rows (n,) of a run at one layer, projected on a vector (None: their norms alone); -1 stands for no row.

    Raises:
        NotFoundError: the run lacks the site or the layer. UsageError: the vector has another width, or no such layer.
    """
    source = session.cache.source(run_id)
    chosen = vector.site if vector is not None else site or _first_site(source)
    there = rows >= 0
    acts = np.asarray(source.gather(chosen, layer, rows[there]), dtype=np.float32)
    norm = _spread(np.linalg.norm(acts, axis=1), there)
    if vector is None:
        return Projections(site=chosen, layer=layer, value=norm, norm=norm)
    unit = unit_direction(vector, layer, width=acts.shape[1])
    with np.errstate(all="ignore"):  # rows with an infinity, and rows of zeros
        value = _spread(acts @ unit, there)
        cosine = value / norm
    return Projections(site=chosen, layer=layer, value=value, norm=norm, cosine=cosine, note=_doubt(source, vector))


def feature_on_rows(session: Session, run_id: str, rows: RowIndex, *, sae: str, feature: int) -> Projections:
    """Activations of one feature of an SAE on rows (n,) of a run, 0 where it does not fire; -1 stands for no row.

    Raises:
        NotFoundError: the run is not encoded with it, or the SAE has no such feature.
    """
    encoded = find_encoded(session.cache, sae, run_id)
    there = rows >= 0
    per_shard = encoded.rows.encoding.rows_per_shard
    shards = {int(one) for one in np.unique(rows[there] // per_shard)}
    fires, activation = encoded.rows.read_feature(feature, shards=shards)
    value = np.zeros(len(rows), dtype=np.float32)
    if len(fires):
        at = np.minimum(np.searchsorted(fires, rows), len(fires) - 1)
        value = np.where(fires[at] == rows, activation[at], value).astype(np.float32)
    acts = session.cache.source(run_id).gather(encoded.site, encoded.layer, rows[there])
    norm = _spread(np.linalg.norm(np.asarray(acts, dtype=np.float32), axis=1), there)
    return Projections(
        site=encoded.site, layer=encoded.layer, value=np.where(there, value, np.nan).astype(np.float32), norm=norm
    )


def row_over_layers(
    session: Session, run_id: str, row: int, *, vector: SteeringVector | None
) -> list[tuple[int, float, float | None]]:
    """One row of a run at every layer: (layer, norm, projection on the vector; None without one). Raises as `project_rows`."""
    source = session.cache.source(run_id)
    site = vector.site if vector is not None else _first_site(source)
    found: list[tuple[int, float, float | None]] = []
    for layer in source.layers(site):
        if vector is not None and layer not in vector.layers:
            continue
        acts = np.asarray(source.gather(site, layer, np.array([row]))[0], dtype=np.float32)
        with np.errstate(all="ignore"):  # rows with an infinity
            value = None if vector is None else float(acts @ unit_direction(vector, layer, width=len(acts)))
            found.append((layer, float(np.linalg.norm(acts)), value))
    return found


def row_norms(session: Session, run_id: str, *, site: str | None = None) -> RowNorms:
    """See `Cache.row_norms`."""
    source = session.cache.source(run_id)
    chosen = site or first_site(session, run_id)
    layers = source.layers(chosen)
    width = source.document.layout.site(chosen).width
    n_rows = min(max(_VALUES // max(width * len(layers), 1), 32), 2048)
    with session.cache.connection() as con:
        found = rows_of(con, _SOME_ROWS, {"run": run_id, "samples": _SAMPLES, "rows": n_rows})
    rows = np.array([row["row_idx"] for row in found], dtype=np.int64)
    kinds = np.array([row["kind"] for row in found], dtype=object)
    named = [kind for kind in ("text", "image", "template", "special") if (kinds == kind).any()]
    quantiles = {kind: np.full((len(layers), 3), np.nan, dtype=np.float32) for kind in named}
    for i, layer in enumerate(layers):
        norms = np.linalg.norm(np.asarray(source.gather(chosen, layer, rows), dtype=np.float32), axis=1)
        for kind in named:
            quantiles[kind][i] = np.nanquantile(norms[kinds == kind], (0.1, 0.5, 0.9))
    return RowNorms(
        site=chosen, layers=layers, quantiles=quantiles, n={kind: int((kinds == kind).sum()) for kind in named}
    )


def vector_of_id(session: Session, vector_id: str) -> SteeringVector:
    """The vector that is saved under a whole id, without a look at the others. Raises NotFoundError."""
    found = stored_vector(session.cache, vector_id)
    if found is None:
        raise NotFoundError("there is no vector of this id", hint="list the vectors of the cache")
    return with_model(session.cache, found)


def first_site(session: Session, run_id: str) -> str:
    """The site of a run that pictures show without being asked: `resid_post` where it was kept, else its first."""
    return _first_site(session.cache.source(run_id))


def unit_direction(vector: SteeringVector, layer: int, *, width: int) -> Float32Array:
    """The direction of a layer at unit length, shape (d,). Raises UsageError."""
    if layer not in vector.layers:
        raise UsageError(f"the vector {vector.name!r} has no layer {layer}", hint="choose one of its layers")
    if vector.hidden_size != width:
        raise UsageError(f"the vector {vector.name!r} is {vector.hidden_size} wide and the rows {width}")
    direction = vector.at(layer)
    norm = float(np.linalg.norm(direction))
    if not norm > 0:
        raise UsageError(f"the vector {vector.name!r} is zero at layer {layer}")
    unit: Float32Array = (direction / norm).astype(np.float32)
    return unit


def _first_site(source: RunSource) -> str:
    sites = [site.site for site in source.document.layout.sites]
    return "resid_post" if "resid_post" in sites else sites[0]


def _doubt(source: RunSource, vector: SteeringVector) -> str | None:
    model = source.document.model
    if lineage_of(vector.fitted_on, model) in ("own", "backbone"):
        return None
    return f"{vector.name} {why_not_own(vector.fitted_on, model)}"


def _spread(values: npt.NDArray[Any], there: npt.NDArray[np.bool_]) -> Float32Array:
    """Values of the rows that are there, at their places among all; NaN for the others."""
    spread = np.full(len(there), np.nan, dtype=np.float32)
    spread[there] = values
    return spread
