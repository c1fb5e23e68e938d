"""Whether the vectors of a combination interfere: what each does alone and what all do, from a sweep's stored answers.

The additive prediction of a combination is the unsteered answer margin of every question plus the changes that its parts make
alone, and for right answers the sum of the parts' gains. A part alone, a pair and all together are cells like any others; what
is not among the sweep's answers is not in the table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from steercache.core.trials import Answer, Cell
from steercache.stats.paired import Interval, paired_interval
from steercache.sweeps.record import SweepRecord

Float64Array = npt.NDArray[np.float64]
_SPLITS: Final = ("search", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class InterferenceRow:
    """One combination beside what its parts do alone, over `n` questions that all of these cells answered.

    `gain` is the change of the share of right answers, `margin` that of the mean answer margin (None without margins);
    `additive_gain` and `additive_margin` are the sums of what the parts change alone. `gain_apart` and `margin_apart` are
    measured minus additive with their 95 % intervals (questions of one picture together); `cosine` is that of measured and
    additive changes of the margin over the questions (None where nothing moved). Of a part alone both are the same. A
    combination of which a part alone was not answered has None for what is additive, and those parts in `missing`.
    """

    members: tuple[str, ...]
    cell_id: str
    n: int
    gain: float
    margin: float | None
    additive_gain: float | None = None
    additive_margin: float | None = None
    gain_apart: Interval | None = None
    margin_apart: Interval | None = None
    cosine: float | None = None
    missing: tuple[str, ...] = ()


def interference_rows(record: SweepRecord) -> tuple[InterferenceRow, ...]:
    """The combinations of a sweep on the search split (without one on the test split): parts alone, then pairs, then all."""
    several = {one.cell_id: one for one in record.choices if one.role == "vector" and record.cells[one.cell_id].parts}
    split = next((split for split in _SPLITS if record.answers.get(split)), None)
    if not several or split is None:
        return ()
    names: dict[str, tuple[str, ...]] = {}  # labels of members, by cell
    parts_of: dict[str, tuple[str, ...]] = {}  # the cells of its parts alone, by cell
    labels = _labels(record, [(record.cells[key], one.details.get("vectors", ())) for key, one in several.items()])
    for key in several:
        cell = record.cells[key]
        parts_of[key] = tuple(cell.alone(part).cell_id for part in cell.parts)
        names[key] = tuple(labels[one] for one in parts_of[key])
    alone = dict.fromkeys(one for some in parts_of.values() for one in some)
    answers = record.answers[split]
    asked = record.asked(split)
    answered = {cell for cell, _ in answers}
    known = _Known(record, split, [one.sample_id for one in asked], [one.group_id for one in asked])
    rows = [known.row((labels[key],), key, (key,)) for key in alone if key in answered]
    for key in sorted(several, key=lambda one: len(parts_of[one])):
        missing = tuple(labels[one] for one in parts_of[key] if one not in answered)
        rows.append(known.row(names[key], key, () if missing else parts_of[key], missing=missing))
    return tuple(rows)


def _labels(record: SweepRecord, cells: Sequence[tuple[Cell, Sequence[str]]]) -> dict[str, str]:
    """What every part alone is called, by the id of its cell: vector and layer, or the whole setting where that is no name."""
    found: dict[str, tuple[str, str]] = {}
    for cell, vectors in cells:
        for part, name in zip(cell.parts, vectors or [one.vector_id[:12] for one in cell.parts], strict=True):
            found.setdefault(cell.alone(part).cell_id, (f"{name}@{part.layer}", f"{name}: {part.setting}"))
    short = [one for one, _ in found.values()]
    return {key: one if short.count(one) == 1 else whole for key, (one, whole) in found.items()}


INTERFERENCE_COLUMNS: Final = (
    *("together", "margin", "sum of parts", "apart, 95 %", "gain", "sum of gains", "gains apart, 95 %", "cosine"),
    "questions",
)


def interference_line(row: InterferenceRow) -> list[str]:
    """A row as it is shown, column by column."""

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:+.3f}"

    def apart(value: Interval | None) -> str:
        return "-" if value is None else f"{value.estimate:+.3f} ({value.low:+.3f} to {value.high:+.3f})"

    missing = f" (not run alone: {', '.join(row.missing)})" if row.missing else ""
    return [
        " + ".join(row.members) + missing,
        number(row.margin),
        number(row.additive_margin),
        apart(row.margin_apart),
        number(row.gain),
        number(row.additive_gain),
        apart(row.gain_apart),
        "-" if row.cosine is None else f"{row.cosine:.3f}",
        str(row.n),
    ]


class _Known:
    """Answers of a split as arrays, cell by cell."""

    def __init__(self, record: SweepRecord, split: str, samples: Sequence[str], groups: Sequence[str]) -> None:
        self._answers: Mapping[tuple[str, str], Answer] = record.answers[split]
        self._samples, self._groups = samples, np.asarray(groups, dtype=object)
        self._baseline, self._seed = record.baseline_id, record.seed

    def row(
        self, members: tuple[str, ...], cell_id: str, alone: Sequence[str], *, missing: tuple[str, ...] = ()
    ) -> InterferenceRow:
        """One row; without `alone`, what was measured only."""
        cells = list(dict.fromkeys((self._baseline, cell_id, *alone)))
        right, margins = (np.stack([values[i] for values in map(self._values, cells)]) for i in (0, 1))
        ok = ~np.isnan(right).any(0)
        at = [cells.index(one) for one in alone]
        has_margins = ok & ~np.isnan(margins).any(0)
        gains, moved = right[:, ok] - right[0, ok], margins[:, has_margins] - margins[0, has_margins]
        known = bool(has_margins.any())
        found = InterferenceRow(
            members=members,
            cell_id=cell_id,
            n=int(ok.sum()),
            gain=float(gains[1].mean()) if ok.any() else 0.0,
            margin=float(moved[1].mean()) if known else None,
            missing=missing,
        )
        if not at or not ok.any():
            return found
        return InterferenceRow(
            members=members,
            cell_id=cell_id,
            n=found.n,
            gain=found.gain,
            margin=found.margin,
            additive_gain=float(gains[at].sum(0).mean()),
            additive_margin=float(moved[at].sum(0).mean()) if known else None,
            gain_apart=self._apart(gains[1] - gains[at].sum(0), ok) if len(at) > 1 else None,
            margin_apart=self._apart(moved[1] - moved[at].sum(0), has_margins) if known and len(at) > 1 else None,
            cosine=_cosine(moved[1], moved[at].sum(0)) if known else None,
        )

    def _values(self, cell_id: str) -> tuple[Float64Array, Float64Array]:
        """Right (0 or 1) and margin of every question, NaN where there is none; margins in the precision that is stored."""
        right, margins = np.full((2, len(self._samples)), np.nan)
        for i, sample in enumerate(self._samples):
            answer = self._answers.get((cell_id, sample))
            if answer is None or answer.status != "ok":
                continue
            right[i] = bool(answer.correct)
            if answer.margin is not None:
                margins[i] = np.float32(answer.margin)
        return right, margins

    def _apart(self, difference: Float64Array, which: Any) -> Interval:
        return paired_interval(difference, list(self._groups[which]), seed=self._seed)


def _cosine(a: Float64Array, b: Float64Array) -> float | None:
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / lengths if lengths > 0 else None
