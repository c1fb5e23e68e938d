"""What stored gradients predict of a sweep's cells, beside what its answers show: no model, and no torch.

The same first-order prediction as `screening.predict`: alpha * v moves the margin of an option by alpha * <gradient, v>, and a
strength beyond `TRUST` median norms of the steered rows counts as that limit.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from steercache.core.trials import TRUST, Cell
from steercache.core.vectors import SteeringVector
from steercache.data.benchmarks.questions import letter_index
from steercache.queries.session import Session
from steercache.sweeps.record import SweepRecord
from steercache.sweeps.table import SweepTable

Float32Array = npt.NDArray[np.float32]
_SITE: Final = "margin_grad"
_RUNS: Final = """
SELECT r.run_id, r.name, count(*) AS n FROM runs r JOIN samples s ON s.run_id = r.run_id
WHERE r.complete AND r.model_fingerprint = $model AND r.manifest ->> '$.kind' = 'gradients'
    AND s.sample_id IN (SELECT unnest($samples::VARCHAR[]))
GROUP BY r.run_id, r.name, r.created_at ORDER BY n DESC, r.created_at DESC LIMIT 1
"""
_ROWS: Final = """
SELECT g.sample_id, g.target, g.option_idx, g.piece, g.margin, g.row_norms, g.row_idx, s.answer, s.choices, s.meta
FROM gradients g JOIN samples s ON s.run_id = g.run_id AND s.sample_idx = g.sample_idx
WHERE g.run_id = $run AND g.sample_id IN (SELECT unnest($samples::VARCHAR[]))
ORDER BY g.sample_id, g.target, g.option_idx
"""

_MARGINS: Final = """
SELECT a.cell_id, avg(a.margin::DOUBLE - b.margin::DOUBLE) AS change, count(*) AS n
FROM answers a
JOIN answers b ON b.sweep_id = a.sweep_id AND b.sample_id = a.sample_id AND b.split = a.split AND b.cell_id = $baseline
WHERE a.sweep_id = $sweep AND a.split = 'search' AND a.margin IS NOT NULL AND b.margin IS NOT NULL
GROUP BY a.cell_id
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedCell:
    """One cell: the predicted changes of the mean answer margin and of the share of right answers, and what the answers show
    (None: not run, or without margins). `beyond`: stronger than predictions hold for, so that they are those at the limit."""

    arm: str
    cell: Cell
    margin: float
    accuracy: float
    beyond: bool
    exact_margin: float | None = None
    exact_accuracy: float | None = None
    n: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedSweep:
    """Predictions for every cell of a sweep's grid over `n` questions, from the gradients of one run."""

    run: str
    n: int
    cells: tuple[PredictedCell, ...] = field(repr=False)

    @property
    def pairs(self) -> tuple[PredictedCell, ...]:
        """The cells that were run, too."""
        return tuple(one for one in self.cells if one.exact_margin is not None or one.exact_accuracy is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Gradients:
    """Gradients of n questions with k options under one target; rows and margins (n, k) are -1 and NaN where there is none."""

    samples: tuple[str, ...]
    rows: npt.NDArray[np.int64]
    margins: Float32Array
    right: npt.NDArray[np.int64]
    row_norms: Float32Array  # (n, layer)
    layers: tuple[int, ...]
    gather: Any

    def row_norm(self, layer: int) -> float:
        known = self.row_norms[:, self.layers.index(layer)]
        known = known[~np.isnan(known)]
        return float(np.median(known)) if len(known) else float("nan")

    def moves(self, layer: int, unit_d: Float32Array) -> Float32Array:
        """How one unit along `unit_d` moves every option's margin (n, k)."""
        there = self.rows >= 0
        found = np.full(self.rows.shape, np.nan, dtype=np.float32)
        found[there] = self.gather(_SITE, layer, self.rows[there]).astype(np.float32) @ unit_d
        return found

    def answer_margins(self, margins_nk: Float32Array) -> Float32Array:
        """log p(right) - max log p(wrong), from margins against the mean of the others."""
        n_options = (self.rows >= 0).sum(axis=1)
        at = np.arange(len(margins_nk))
        right = margins_nk[at, self.right]
        wrong = margins_nk.copy()
        wrong[at, self.right] = np.nan
        best: Float32Array = np.nanmax(wrong, axis=1)
        scaled: Float32Array = (right - best) * ((n_options - 1) / n_options).astype(np.float32)
        return scaled


def predict_sweep(
    session: Session, table: SweepTable, record: SweepRecord, vectors: Mapping[str, SteeringVector]
) -> PredictedSweep | None:
    """Predictions for the grid of every vector, by arm; None where the cache has no gradients of its questions."""
    asked = record.asked("search") if record.answers.get("search") else ()
    samples = [one.sample_id for one in asked]
    model = str(record.manifest.get("model", {}).get("fingerprint", ""))
    if not samples or not vectors:
        return None
    runs = session.sql(_RUNS, model=model, samples=samples).fetchall()
    if not runs:
        return None
    run_id, name = str(runs[0][0]), str(runs[0][1])
    by_target = _read(session, run_id, samples)
    cells: list[PredictedCell] = []
    for arm, vector in vectors.items():
        grid = _grid(table, record, arm, vector, by_target)
        for (target, layer), some in grid.items():
            cells += _predict(by_target[target], arm, vector, layer, some)
    if not cells:
        return None
    exact = {one.cell_id: one for one in table.cells}
    margins = {
        str(cell): (float(change), int(n))
        for cell, change, n in session.sql(_MARGINS, sweep=record.sweep_id, baseline=record.baseline_id).fetchall()
    }
    n = max((len(one.samples) for one in by_target.values()), default=0)
    return PredictedSweep(run=name, n=n, cells=tuple(_beside(one, exact, margins) for one in cells))


def _read(session: Session, run_id: str, samples: Sequence[str]) -> dict[str, _Gradients]:
    rows = session.sql(_ROWS, run=run_id, samples=list(samples)).to_arrow_table().to_pylist()
    source = session.cache.source(run_id)
    layers = source.layers(_SITE)
    found = {}
    for target in dict.fromkeys(str(row["target"]) for row in rows):
        by_sample: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            if row["target"] == target:
                by_sample.setdefault(str(row["sample_id"]), []).append(row)
        right = {key: _right(some) for key, some in by_sample.items()}
        kept = {key: some for key, some in by_sample.items() if right[key] is not None and len(some) > 1}
        if not kept:
            continue
        width = max(int(row["option_idx"]) for some in kept.values() for row in some) + 1
        index = np.full((len(kept), width), -1, dtype=np.int64)
        margins = np.full((len(kept), width), np.nan, dtype=np.float32)
        for i, some in enumerate(kept.values()):
            for row in some:
                index[i, row["option_idx"]], margins[i, row["option_idx"]] = row["row_idx"], row["margin"]
        norms = [[np.nan if v is None else v for v in some[0]["row_norms"]] for some in kept.values()]
        found[target] = _Gradients(
            samples=tuple(kept),
            rows=index,
            margins=margins,
            right=np.array([right[key] for key in kept], dtype=np.int64),
            row_norms=np.array(norms, dtype=np.float32).reshape(len(kept), -1),
            layers=layers,
            gather=source.gather,
        )
    return found


def _right(options: Sequence[Mapping[str, Any]]) -> int | None:
    """Which option of a question is right: by its letter, its words, or the number that its token says."""
    answer, choices = options[0]["answer"], list(options[0]["choices"] or ())
    if answer is None:
        return None
    if choices:
        return choices.index(answer) if answer in choices else letter_index(answer, len(choices))
    meta = options[0]["meta"]
    counts = [str(c) for c in (json.loads(meta) if isinstance(meta, str) else meta or {}).get("counts", ())]
    pieces = [str(row["piece"] or "").strip("Ġ▁ ") for row in options]
    place = pieces.index(answer) if answer in pieces else None
    if place is None:
        return counts.index(answer) if answer in counts and len(counts) == len(options) else None
    return int(options[place]["option_idx"])


def _grid(
    table: SweepTable,
    record: SweepRecord,
    arm: str,
    vector: SteeringVector,
    gradients: Mapping[str, _Gradients],
) -> dict[tuple[str, int], list[Cell]]:
    """Every cell of one vector's grid that can be predicted, by target and layer: those of the sweep, and those left out."""
    row = next((one for one in table.choices if one.name == arm), None)
    if row is None:
        return {}
    there = {(c.target, c.layer, c.alpha): c for c in record.cells.values() if c.vector_id == row.vector_id}
    axes = record.manifest.get("grid", {})
    places = [
        (t, la, a) for t in axes.get("targets", ()) for la in axes.get("layers", ()) for a in axes.get("alphas", ())
    ]
    found: dict[tuple[str, int], list[Cell]] = {}
    for target, layer, alpha in dict.fromkeys([*places, *there]):
        known = gradients.get(str(target))
        if known is None or layer is None or layer not in known.layers or layer not in vector.layers:
            continue
        cell = there.get((target, layer, alpha))
        if cell is None:
            if row.cell.alpha_unit == "kl":  # its raw strength was not looked for
                continue
            norms = [c.unit_norm for c in there.values() if (c.target, c.layer) == (target, layer)]
            cell = Cell(
                vector_id=row.vector_id,
                layer=int(layer),
                alpha=float(alpha),
                target=target,
                model_fingerprint=row.cell.model_fingerprint,
                prompt_id=row.cell.prompt_id,
                alpha_unit=row.cell.alpha_unit,
                unit_norm=norms[0] if norms else None,
            )
        found.setdefault((str(target), int(layer)), []).append(cell)
    return found


def _predict(
    gradients: _Gradients, arm: str, vector: SteeringVector, layer: int, cells: Sequence[Cell]
) -> list[PredictedCell]:
    norm = gradients.row_norm(layer)
    made = []
    base_n = gradients.answer_margins(gradients.margins)
    moves: dict[float, Float32Array] = {}
    for cell in cells:
        unit_d = _unit(vector, layer, cell, norm)
        if unit_d is None:
            continue
        length = float(np.linalg.norm(unit_d))
        if length not in moves:
            moves[length] = gradients.moves(layer, unit_d)
        step = abs(cell.alpha) * length / norm if norm > 0 else float("nan")
        alpha = float(np.copysign(TRUST * norm / length, cell.alpha)) if step > TRUST else cell.alpha
        after_n = gradients.answer_margins(gradients.margins + np.float32(alpha) * moves[length])
        made.append(
            PredictedCell(
                arm=arm,
                cell=cell,
                margin=float((after_n - base_n).mean()),
                accuracy=float((after_n > 0).mean() - (base_n > 0).mean()),
                beyond=step > TRUST,
            )
        )
    return made


def _unit(vector: SteeringVector, layer: int, cell: Cell, norm: float) -> Float32Array | None:
    """What is added per unit of alpha, (d,); None where its length is not known, or something else is done."""
    direction = vector.at(layer)
    if cell.operation != "add":
        return None
    if cell.alpha_unit == "raw":
        return direction
    if cell.alpha_unit == "kl":
        return None if cell.unit_norm is None else (direction * np.float32(cell.unit_norm)).astype(np.float32)
    said = next((d.get("resid_norm") for d in vector.diagnostics if d.get("layer") == layer), None)
    unit_norm = cell.unit_norm or (said if cell.alpha_unit == "resid_norm" else norm)
    length = float(np.linalg.norm(direction))
    if unit_norm is None or not np.isfinite(unit_norm) or length == 0:
        return None
    scaled: Float32Array = (direction * np.float32(unit_norm / length)).astype(np.float32)
    return scaled


def _beside(one: PredictedCell, exact: Mapping[str, Any], margins: Mapping[str, tuple[float, int]]) -> PredictedCell:
    """The prediction with what the answers of its cell show; `margins` has the change of the mean margin and its questions."""
    row = exact.get(one.cell.cell_id) or next((r for r in exact.values() if r.cell == one.cell), None)
    if row is None:
        return one
    change, n = margins.get(row.cell_id, (None, row.n_seen))
    return replace(one, exact_margin=change, exact_accuracy=None if row.gain is None else row.gain.estimate, n=n)
