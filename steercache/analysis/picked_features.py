"""The SAE features that a sweep's vectors are made of, with the texts they fire on and what a judge said of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from steercache.core.errors import SteercacheError
from steercache.queries.session import Session

MOST: Final = 12  # features of one vector
_CONTEXTS: Final = 3
_FEATURES: Final = """
SELECT sae_id, layer, feature_idx, run_id, rank, score, rate_anchor, rate_control, picked, selected, weight, verdict, judge,
    reason, explanation
FROM features WHERE vector_id = $vector AND ($layer IS NULL OR layer = $layer)
ORDER BY selected IS TRUE DESC, rank, feature_idx
"""
_ENCODED: Final = "SELECT count(*) FROM feature_acts WHERE sae_id = $sae AND run_id = $run AND feature = $feature"


@dataclass(frozen=True, slots=True, kw_only=True)
class PickedFeature:
    """One feature that a fit considered: whether the vector is made of it, how often it fires on the concept's tokens and on
    controls, the verdict, and texts in which it fires, its token in double brackets."""

    layer: int
    feature: int
    selected: bool
    rate_anchor: float | None
    rate_control: float | None
    verdict: str | None
    judge: str | None
    reason: str | None
    explanation: str | None
    contexts: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorFeatures:
    """The features of one vector at the layer that it is added at; `n` were considered."""

    arm: str
    sae_id: str
    n: int
    features: tuple[PickedFeature, ...]


def picked_features(
    session: Session, arms: Sequence[tuple[str, str, int | None]]
) -> tuple[tuple[VectorFeatures, ...], tuple[str, ...]]:
    """Features of the vectors (arm, vector id, layer) that an SAE made, and sentences about what is not there."""
    found, missing = [], dict[str, None]()
    for arm, vector_id, layer in arms:
        rows = session.sql(_FEATURES, vector=vector_id, layer=layer).to_arrow_table().to_pylist()
        if not rows:
            continue
        shown = []
        for row in rows[:MOST]:
            try:
                contexts = _contexts(session, row)
            except SteercacheError as error:
                contexts = None
                missing[f"Texts for features of {arm}: {error.message}."] = None
            if contexts is None:
                missing[f"The run of {arm} is not encoded with its SAE: features stand without texts."] = None
            shown.append(_feature(row, contexts or ()))
        found.append(VectorFeatures(arm=arm, sae_id=str(rows[0]["sae_id"]), n=len(rows), features=tuple(shown)))
    return tuple(found), tuple(missing)


def _contexts(session: Session, row: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Texts on which a feature fires most; None where the run is not encoded with the SAE."""
    if row["run_id"] is None:
        return None
    keys = {"sae": row["sae_id"], "run": row["run_id"], "feature": row["feature_idx"]}
    ((n,),) = session.sql(_ENCODED, **keys).fetchall()
    if not n:
        return () if _is_encoded(session, row) else None
    texts = session.query("feature_top_tokens", **keys, top=_CONTEXTS, window=50).to_arrow_table().to_pylist()
    return tuple(str(one["context"] or one["token_text"] or "") for one in texts)


def _is_encoded(session: Session, row: Mapping[str, Any]) -> bool:
    sql = "SELECT count(*) FROM (SELECT 1 FROM feature_acts WHERE sae_id = $sae AND run_id = $run LIMIT 1)"
    ((n,),) = session.sql(sql, sae=row["sae_id"], run=row["run_id"]).fetchall()
    return bool(n)


def _feature(row: Mapping[str, Any], contexts: tuple[str, ...]) -> PickedFeature:
    return PickedFeature(
        layer=int(row["layer"]),
        feature=int(row["feature_idx"]),
        selected=row["selected"] is True,
        rate_anchor=row["rate_anchor"],
        rate_control=row["rate_control"],
        verdict=row["verdict"],
        judge=row["judge"],
        reason=row["reason"],
        explanation=row["explanation"],
        contexts=contexts,
    )
