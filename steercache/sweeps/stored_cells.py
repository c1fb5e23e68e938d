"""A stored sweep by its cells alone: what can be said of one that has no table of right answers."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from steercache.queries.session import Session

_SWEEP: Final = "SELECT name, status, created_at, manifest FROM sweeps WHERE sweep_id = $sweep"
_CELLS: Final = """
SELECT
    v.name AS vector, coalesce(v.control_kind IS NOT NULL, false) AS control, c.layer, c.alpha, c.target,
    count(a.sample_id) AS n, count(*) FILTER (a.status = 'failed') AS n_failed,
    CASE WHEN count(a.correct) > 0 THEN count(*) FILTER (a.correct) END AS n_right,
    avg(a.score) AS mean_score, avg(a.margin) AS mean_margin
FROM cells c
LEFT JOIN answers a ON a.sweep_id = c.sweep_id AND a.cell_id = c.cell_id
LEFT JOIN (SELECT DISTINCT vector_id, name, control_kind FROM vectors) v ON v.vector_id = c.vector_id
WHERE c.sweep_id = $sweep
GROUP BY c.cell_id, c.vector_id, v.name, v.control_kind, c.layer, c.alpha, c.target
ORDER BY control, c.vector_id NULLS FIRST, c.layer, c.target, c.alpha
"""
_SPLITS: Final = "SELECT split, count(*) FROM answers WHERE sweep_id = $sweep GROUP BY split ORDER BY split"
_TEXTS: Final = """
SELECT coalesce(vector, 'no vector') AS vector, layer, alpha, raw FROM answers_with_cells
WHERE sweep_id = $sweep AND raw IS NOT NULL AND control_kind IS NULL ORDER BY sample_id, alpha, cell_id LIMIT 40
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCell:
    """One cell: its vector's name (None: no vector), setting, and its answers counted."""

    vector: str | None
    control: bool
    layer: int | None
    alpha: float
    target: str
    n: int
    n_failed: int
    n_right: int | None
    mean_score: float | None
    mean_margin: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSweep:
    """A sweep of any kind. `texts` are some of what the model wrote, with the setting that it was written under."""

    sweep_id: str
    name: str
    kind: str
    status: str
    created_at: str | None
    manifest: Mapping[str, Any] = field(repr=False)
    cells: tuple[StoredCell, ...] = field(repr=False)
    n_by_split: Mapping[str, int]
    texts: tuple[tuple[str, str], ...] = field(repr=False)


def read_stored_sweep(session: Session, sweep_id: str) -> StoredSweep:
    """The sweep of this id by its cells."""
    head = session.sql(_SWEEP, sweep=sweep_id).to_arrow_table().to_pylist()[0]
    manifest = json.loads(head["manifest"]) if isinstance(head["manifest"], str) else dict(head["manifest"] or {})
    cells = session.sql(_CELLS, sweep=sweep_id).to_arrow_table().to_pylist()
    texts = session.sql(_TEXTS, sweep=sweep_id).fetchall()
    return StoredSweep(
        sweep_id=sweep_id,
        name=str(head["name"]),
        kind=str(manifest.get("kind", "")),
        status=str(head["status"]),
        created_at=None if head["created_at"] is None else str(head["created_at"]),
        manifest=manifest,
        cells=tuple(StoredCell(**row) for row in cells),
        n_by_split={str(split): int(n) for split, n in session.sql(_SPLITS, sweep=sweep_id).fetchall()},
        texts=tuple((_setting(str(v), layer, float(alpha)), str(raw)) for v, layer, alpha, raw in texts),
    )


def _setting(vector: str, layer: int | None, alpha: float) -> str:
    return vector if layer is None else f"{vector}, layer {layer}, alpha {alpha:g}"
