"""Everything that the cache says about one sweep beside its table: what a page about it shows, and what is not there."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from steercache.analysis.dose import DoseCurve, dose_curves
from steercache.analysis.picked_features import VectorFeatures, picked_features
from steercache.analysis.predicted import PredictedSweep, predict_sweep
from steercache.analysis.sample_cards import MAX_CARDS, ArmCards, arm_cards
from steercache.analysis.vector_layers import CosineCurve, VectorLayers, cosine_curves, read_vectors, vector_layers
from steercache.core.errors import SteercacheError
from steercache.queries.session import Session
from steercache.sweeps.record import SweepRecord
from steercache.sweeps.table import SweepTable

_VECTORS: Final = """
SELECT DISTINCT v.vector_id, v.name, v.method, v.concept, v.query_name, r.name AS run, v.run_id, r.model_id
FROM vectors v LEFT JOIN runs r ON r.run_id = v.run_id
WHERE v.vector_id IN (SELECT unnest($vectors::VARCHAR[])) ORDER BY v.name
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorOrigin:
    """Where a vector of the sweep comes from."""

    vector_id: str
    name: str
    method: str | None
    query: str | None
    run: str | None
    run_id: str | None
    model: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What is beside a sweep's table. `missing` says in sentences what is not in the cache, or cannot be shown, and why."""

    curves: tuple[DoseCurve, ...] = ()
    layers: tuple[VectorLayers, ...] = ()
    cosines: tuple[CosineCurve, ...] = ()
    predicted: PredictedSweep | None = field(default=None, repr=False)
    cards: tuple[ArmCards, ...] = field(default=(), repr=False)
    features: tuple[VectorFeatures, ...] = ()
    origins: tuple[VectorOrigin, ...] = ()
    numerics: Mapping[str, Any] = field(default_factory=dict, repr=False)
    missing: tuple[str, ...] = ()


def findings_of(session: Session, table: SweepTable, record: SweepRecord, *, cards: int = MAX_CARDS) -> Findings:
    """Collect them; at most so many cards of questions. A damaged or missing part is named in `missing`, and costs no other."""
    missing: list[str] = []
    arms = {
        row.name: row for row in table.rows if row.role == "vector" and row.vector_id is not None and not row.vectors
    }
    ids = {name: str(row.vector_id) for name, row in arms.items()}
    vectors, lost = read_vectors(session, list(dict.fromkeys(ids.values())))
    missing += lost
    by_id = {one.vector_id: one for one in vectors}
    by_arm = {name: by_id[one] for name, one in ids.items() if one in by_id}
    curves = dose_curves(table, record)
    drawn = {one.arm for one in curves}
    if flat := [name for name in arms if name not in drawn or all(len(c.points) < 3 for c in curves if c.arm == name)]:
        missing.append(f"One strength only at the chosen layer, so no curve against strength: {', '.join(flat)}.")
    predicted: PredictedSweep | None = None
    try:
        predicted = predict_sweep(session, table, record, by_arm)
    except (SteercacheError, ValueError, KeyError) as error:
        missing.append(f"The stored gradients cannot be read: {error}.")
    else:
        if predicted is None and arms:
            missing.append(
                "No gradients of these questions are in the cache, so nothing is predicted. Screening records them."
            )
    of_arms = [(name, str(row.vector_id), row.cell.layer) for name, row in arms.items()]
    features, lost_texts = picked_features(session, of_arms)
    shown, lacking = arm_cards(session, table, record, most=cards)
    if not any(row.damage is not None for row in table.rows):
        missing.append("Damage was not measured, so gain stands beside no damage.")
    return Findings(
        curves=curves,
        layers=tuple(vector_layers(one) for one in vectors),
        cosines=cosine_curves(vectors),
        predicted=predicted,
        cards=shown,
        features=features,
        origins=_origins(session, list(ids.values())),
        missing=(*missing, *lost_texts, *lacking),
    )


def _origins(session: Session, ids: list[str]) -> tuple[VectorOrigin, ...]:
    rows = session.sql(_VECTORS, vectors=ids).to_arrow_table().to_pylist() if ids else []
    return tuple(
        VectorOrigin(
            vector_id=str(row["vector_id"]),
            name=str(row["name"]),
            method=row["method"],
            query=row["query_name"],
            run=row["run"],
            run_id=row["run_id"],
            model=row["model_id"],
        )
        for row in rows
    )
