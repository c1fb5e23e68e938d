"""Gain against strength at the layer that a vector took, beside its controls: from a sweep's stored answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from steercache.core.trials import Cell, Choice
from steercache.sweeps.choosing import RIGHT, WRONG, Answers, states_of
from steercache.sweeps.record import SweepRecord
from steercache.sweeps.table import SweepTable, TableRow


@dataclass(frozen=True, slots=True, kw_only=True)
class DosePoint:
    """The gain at one strength over `n` questions, with its 95 % interval, and the lowest and highest gain of the controls that
    were run there (None: none were). Gains are differences of shares of right answers."""

    alpha: float
    gain: float
    low: float
    high: float
    n: int
    control_low: float | None = None
    control_high: float | None = None
    n_controls: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DoseCurve:
    """One vector's gain against strength on the search split at one layer and target; the points start at 0, which gains 0."""

    arm: str
    layer: int
    target: str
    alpha_unit: str
    chosen: float
    points: tuple[DosePoint, ...]


def dose_curves(table: SweepTable, record: SweepRecord) -> tuple[DoseCurve, ...]:
    """A curve for every vector of which at least two strengths, or one beside 0, were run at the layer that it took."""
    found = []
    for row in (one for one in table.choices if not one.vectors):
        points = _points(table, record, row)
        if points and row.cell.layer is not None:
            found.append(
                DoseCurve(
                    arm=row.name,
                    layer=row.cell.layer,
                    target=row.cell.target,
                    alpha_unit=row.cell.alpha_unit,
                    chosen=row.cell.alpha,
                    points=points,
                )
            )
    return tuple(found)


def _points(table: SweepTable, record: SweepRecord, row: TableRow) -> tuple[DosePoint, ...]:
    here = {
        one.cell.alpha: one
        for one in table.cells
        if one.vector == row.name
        and (one.cell.layer, one.cell.target) == (row.cell.layer, row.cell.target)
        and one.gain is not None
    }
    n = table.splits[0].n
    controls = _control_gains(record, row)
    points = [DosePoint(alpha=0.0, gain=0.0, low=0.0, high=0.0, n=n)] if here and 0.0 not in here else []
    for alpha, one in here.items():
        assert one.gain is not None
        gains = controls.get(alpha, ())
        points.append(
            DosePoint(
                alpha=alpha,
                gain=one.gain.estimate,
                low=one.gain.low,
                high=one.gain.high,
                n=one.gain.n,
                control_low=min(gains) if gains else None,
                control_high=max(gains) if gains else None,
                n_controls=len(gains),
            )
        )
    return tuple(sorted(points, key=lambda p: p.alpha))


def _control_gains(record: SweepRecord, row: TableRow) -> Mapping[float, Sequence[float]]:
    """Gains of a vector's controls at its layer and target, by strength; those of its null directions where there are any."""
    source = record.nulls.get(row.vector_id or "", record)
    answers = source.answers.get("search", {})
    ids = {c.vector_id for c in source.choices if _is_control(c, row)}
    cells = {
        key: cell
        for key, cell in source.cells.items()
        if cell.vector_id in ids and (cell.layer, cell.target) == (row.cell.layer, row.cell.target)
    }
    samples = [one.sample_id for one in record.asked("search")] if cells and answers else []
    return _gains(cells, record.baseline_id, samples, record.answers.get("search", {}), answers)


def _is_control(choice: Choice, row: TableRow) -> bool:
    return choice.role == "control" and choice.vector_id is not None and choice.control_of == row.vector_id


def _gains(
    cells: Mapping[str, Cell], baseline_id: str, samples: Sequence[str], baseline: Answers, answers: Answers
) -> dict[float, list[float]]:
    if not samples:
        return {}
    found: dict[float, list[float]] = {}
    states = states_of(list(cells), samples, answers)
    base = states_of([baseline_id], samples, baseline)[0]
    for cell, state in zip(cells.values(), states, strict=True):
        both = (state >= WRONG) & (base >= WRONG)
        if both.any():
            gain = float(np.mean((state[both] == RIGHT).astype(float) - (base[both] == RIGHT)))
            found.setdefault(cell.alpha, []).append(gain)
    return found
