"""Vectors of a sweep from features of an SAE: one of the cache that was verified, or fitted now from unverified features."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from steercache.cache.vectors import list_vectors
from steercache.core.errors import UsageError
from steercache.core.provenance import rows_digest
from steercache.core.selection import Selection
from steercache.core.vectors import SteeringVector
from steercache.manifests.sae import ReleaseSae
from steercache.manifests.sweep import FittedVectors
from steercache.queries.session import Session
from steercache.sae.again import sae_records
from steercache.sae.find import FoundSae, find_saes
from steercache.sae.fits_run import check_fits
from steercache.sae.loaded import LoadedSae
from steercache.sae.loading import load_sae
from steercache.sae.vector import METHOD, UNVERIFIED, sae


def sweep_sae_vector(session: Session, sel: Selection, fits: FittedVectors, base_dir: Path) -> SteeringVector:
    """The newest vector of the cache that was fitted on these rows from this SAE and selection, verified or not as the manifest
    says; an unverified one is fitted where there is none.

    Raises:
        UsageError: no verified vector, an SAE that does not fit the run, or no feature is picked. NotFoundError: no such SAE.
    """
    assert fits.sae is not None
    inside = base_dir / fits.sae
    found = [
        one
        for one in find_saes(inside if inside.exists() else fits.sae, search=(base_dir, Path()))
        if one.layer is None or one.layer in sel.layers
    ]
    known = _known(session, sel, fits, found)
    if known is not None:
        return known
    if not found:
        raise UsageError("no SAE of a layer that the run kept", place=fits.sae)
    if not fits.unverified:
        raise UsageError(
            f"no vector of {sel.concept!r} from the SAE {fits.sae!r} on these rows has verified features",
            place="fits",
            hint="fit it first with a judge or a sheet of verdicts, or say `unverified: true`",
        )
    return sae(sel, _loaded(session, sel, found), selection=fits.selection, verification=UNVERIFIED)


def _loaded(session: Session, sel: Selection, found: Sequence[FoundSae]) -> Iterator[LoadedSae]:
    for one in found:
        loaded = load_sae(one.manifest, layer=one.layer, base_dir=one.base_dir)
        check_fits(loaded.spec, session.cache, sel.run_id)
        yield loaded


def _known(session: Session, sel: Selection, fits: FittedVectors, found: Sequence[FoundSae]) -> SteeringVector | None:
    """The newest vector of these rows, this selection and exactly these SAEs, which are known by their weights."""
    rows = rows_digest(sel)
    ids: dict[str, str] = {}  # of SAEs that had to be read, by name
    for stored in list_vectors(session.cache):
        made = stored.vector.provenance
        if stored.vector.method != METHOD or stored.vector.site != sel.site:
            continue
        same = (made.get("run_id"), made.get("generation"), _mapping(made.get("rows")).get("digest"))
        params, saes = _mapping(made.get("params")), _mapping(made.get("saes"))
        unverified = _mapping(made.get("verification")).get("by") == UNVERIFIED.by
        if (
            same == (sel.run_id, sel.source.generation, rows)
            and (params.get("selection"), params.get("feature")) == (fits.selection, None)
            and len(saes) == len(found)
            and unverified == fits.unverified
        ):
            records = sae_records(stored.vector).values()
            if {record.get("sae_id") for record in records} == {_id_of(one, records, ids) for one in found}:
                return stored.vector
    return None


def _id_of(found: FoundSae, records: Iterable[Mapping[str, Any]], ids: dict[str, str]) -> str:
    """The id of an SAE: of one of a release as a vector recorded it, of another by its weights."""
    source = found.manifest.source
    if isinstance(source, ReleaseSae):
        for record in records:
            place = _mapping(record.get("source"))
            known = (place.get("release"), place.get("sae_id"), place.get("revision"))
            if known[:2] == (source.release, found.sae) and source.revision in ("main", known[2]):
                return str(record.get("sae_id"))
    if found.name not in ids:
        ids[found.name] = load_sae(found.manifest, layer=found.layer, base_dir=found.base_dir).spec.sae_id
    return ids[found.name]


def _mapping(value: Any) -> Mapping[str, Any]:
    """Provenance is free JSON, of other programs too."""
    return value if isinstance(value, Mapping) else {}
