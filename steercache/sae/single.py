"""One feature of an SAE as a steering vector: its decoder row, and the feature that a fit ranked best for a concept."""

from typing import Final

import numpy as np

from steercache.cache.feature_files import all_encodings
from steercache.cache.handle import CacheFolder
from steercache.core.errors import DamagedError, NotFoundError, UsageError
from steercache.core.vectors import LOCATED, FittedOn, SteeringVector
from steercache.sae.loaded import LoadedSae

METHOD: Final = "sae_feature"
_BEST = """
SELECT feature_idx FROM features
WHERE sae_id = $sae AND concept = $concept AND picked
ORDER BY (verdict = 'yes') IS TRUE DESC, rank, feature_idx LIMIT 1
"""
_RUN = "SELECT run_id FROM features WHERE sae_id = $sae AND run_id IS NOT NULL ORDER BY run_id LIMIT 1"


def feature_vector(
    sae: LoadedSae, feature: int, *, sign: int = 1, origin: FittedOn | None = None, concept: str | None = None
) -> SteeringVector:
    """One decoder row at unit norm as a vector of its layer, subtracted with `sign` -1; `origin` is the model it belongs to.

    Raises:
        UsageError: no such feature, or a row of zeros.
    """
    spec = sae.spec
    if not 0 <= feature < spec.d_sae:
        raise UsageError(f"no feature {feature}; the SAE has features 0 to {spec.d_sae - 1}", place=spec.name)
    row_d = sae.decoder[feature].astype(np.float64)
    norm = float(np.linalg.norm(row_d))
    if not np.isfinite(norm) or norm == 0 or spec.layer is None:
        raise UsageError(f"the decoder row of feature {feature} has no direction", place=spec.name)
    return SteeringVector(
        name=f"{spec.name}-f{feature}{'-minus' if sign < 0 else ''}",
        method=METHOD,
        concept=concept,
        site=spec.site,
        layers=(spec.layer,),
        values=(sign * row_d / norm).astype(np.float32)[None],
        provenance={
            "saes": {str(spec.layer): spec.identity()},
            "feature": feature,
            "sign": sign,
            LOCATED: {"saes": {str(spec.layer): spec.record()}},
        },
        fitted_on=origin,
    )


def best_feature(cache: CacheFolder, sae: LoadedSae, concept: str) -> int:
    """The feature that fits of the cache picked for a concept: of those with the verdict yes, else of all, the best by rank.

    Raises:
        UsageError: no fit picked one.
    """
    with cache.connection() as con:
        found = con.execute(_BEST, {"sae": sae.spec.sae_id, "concept": concept}).fetchall()
    if not found:
        raise UsageError(
            f"no fit of this cache picked a feature of the SAE {sae.spec.name!r} for {concept!r}",
            hint="name the `feature`, or fit a vector of the concept from this SAE first",
        )
    return int(found[0][0])


def origin_of(cache: CacheFolder, sae: LoadedSae) -> FittedOn | None:
    """The model of a run that was encoded, or from which a vector was fitted, with this SAE: its rows fit the SAE. None
    where there is none."""
    with cache.connection() as con:
        runs = [str(row[0]) for row in con.execute(_RUN, {"sae": sae.spec.sae_id}).fetchall()]
    runs += [e.document.run_id for e in all_encodings(cache.paths)[0] if e.document.sae.sae_id == sae.spec.sae_id]
    for run_id in runs:
        try:
            return cache.source(run_id).fitted_on
        except (NotFoundError, DamagedError):
            continue  # the run is gone
    return None
