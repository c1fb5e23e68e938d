"""Vectors of a sweep from features of an SAE: one of the cache that was verified, or fitted now from unverified features."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from steercache.cache.vectors import list_vectors
from steercache.core.errors import UsageError
from steercache.core.provenance import rows_digest
from steercache.core.selection import Selection
from steercache.core.vectors import SteeringVector
from steercache.manifests.sweep import FittedVectors
from steercache.queries.session import Session
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
    known = _known(session, sel, fits, {one.name for one in found})
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


def _known(session: Session, sel: Selection, fits: FittedVectors, names: set[str]) -> SteeringVector | None:
    rows = rows_digest(sel)
    for stored in list_vectors(session.cache):
        made = stored.vector.provenance
        if stored.vector.method != METHOD or stored.vector.site != sel.site:
            continue
        same = (made.get("run_id"), made.get("generation"), made.get("rows", {}).get("digest"))
        params, saes = made.get("params", {}), made.get("saes", {})
        unverified = made.get("verification", {}).get("by") == UNVERIFIED.by
        if (
            same == (sel.run_id, sel.source.generation, rows)
            and (params.get("selection"), params.get("feature")) == (fits.selection, None)
            and {spec.get("name") for spec in saes.values()} == names
            and unverified == fits.unverified
        ):
            return stored.vector
    return None
