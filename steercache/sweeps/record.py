"""A sweep as it is stored: cells, answers, questions and choices. A table is made of this and of nothing else.

A run hands over what it has just stored; `read_record` reads the same from the cache, without model or benchmark.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from steercache.benchmarks.questions import StoredQuestion, read_questions
from steercache.cache.sweep_files import read_choices
from steercache.core.errors import UsageError
from steercache.core.trials import Answer, Cell, CellPart, Choice
from steercache.queries.session import Session
from steercache.sweeps.choosing import Answers
from steercache.sweeps.inferred import infer_choices

PARTS: Final = ("search", "test")
HINT: Final = "a table is made of an evaluation or of one task of a grid"

_CELLS = """
SELECT
    cell_id, vector_id, layer, alpha, alpha_unit, unit_norm, preprocessing, target, site, model_fingerprint, prompt_id,
    decoding, coalesce(operation, 'add') AS operation, parts
FROM cells
WHERE sweep_id = $sweep
"""
_NAMES = "SELECT DISTINCT vector_id, name, method, concept, control_kind FROM vectors"
_ANSWERS = """
SELECT cell_id, sample_id, split, raw, parsed, correct, margin, margin_of, status, error
FROM answers
WHERE sweep_id = $sweep
"""
_SWEEP = "SELECT name, status, created_at, manifest FROM sweeps WHERE sweep_id = $sweep"


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRecord:
    """One stored sweep. `cells` by id, in order of preference among equals (strength aside); `answers` by split.

    `questions` are empty where the sweep does not say what was asked. `inferred`: it does not say what its arms took (an older
    steercache wrote it), so that this is worked out from its answers. `nulls` are the sweeps of null directions by the id of
    the vector that they belong to. `n_looks` is how often its test split was looked at (None: it was not).
    """

    sweep_id: str
    name: str
    status: str
    created_at: str | None = None
    manifest: Mapping[str, Any] = field(repr=False)
    cells: Mapping[str, Cell] = field(repr=False)
    answers: Mapping[str, Answers] = field(repr=False)
    questions: tuple[StoredQuestion, ...] = field(repr=False)
    choices: tuple[Choice, ...] = field(repr=False)
    inferred: bool = False
    n_looks: int | None = None
    nulls: Mapping[str, "SweepRecord"] = field(default_factory=lambda: MappingProxyType({}), repr=False)

    @property
    def seed(self) -> int:
        """Of its bootstraps and sign flips."""
        return int(self.manifest.get("seed", 0))

    @property
    def baseline_id(self) -> str:
        """The cell without a vector, under the plain wording. Raises UsageError where there is none."""
        for choice in self.choices:
            if choice.role == "baseline":
                return choice.cell_id
        raise UsageError("the sweep has no baseline: no cell without a vector under the plain wording", hint=HINT)

    @property
    def clustered(self) -> bool:
        """Whether it is known which picture a question is of; otherwise questions are independent."""
        return bool(self.questions)

    def asked(self, split: str) -> tuple[StoredQuestion, ...]:
        """The questions of a split that the baseline was asked, in their order."""
        answers, baseline = self.answers.get(split, {}), self.baseline_id
        if self.questions:
            return tuple(
                one for one in self.questions if one.split in (None, split) and (baseline, one.sample_id) in answers
            )
        samples = sorted(sample for cell, sample in answers if cell == baseline)
        return tuple(StoredQuestion(sample_id=s, split=split, group_id=s, right=None, place=s) for s in samples)


def read_record(session: Session, sweep_id: str) -> SweepRecord:
    """The stored sweep of this id, with the sweeps of its null directions.

    Raises:
        UsageError: its answers are neither right nor wrong. DamagedError: a file of it is not readable.
    """
    head = session.sql(_SWEEP, sweep=sweep_id).to_arrow_table().to_pylist()[0]
    manifest = _mapping(head["manifest"])
    cells = _cells(session, sweep_id, manifest)
    answers = _answers(session, sweep_id)
    folder = session.cache.paths.sweep(sweep_id)
    choices = tuple(one for one in read_choices(folder) if one.cell_id in cells)
    inferred = not any(one.role == "baseline" for one in choices)
    if inferred:
        choices = infer_choices(cells, answers, manifest, session.sql(_NAMES).to_arrow_table().to_pylist())
    stored = {str(one.vector_id): str(one.details["nulls"]) for one in choices if "nulls" in one.details}
    there = [vector for vector, null_id in stored.items() if session.cache.paths.sweep(null_id).is_dir()]
    return SweepRecord(
        sweep_id=sweep_id,
        name=str(head["name"]),
        status=str(head["status"]),
        created_at=None if head["created_at"] is None else str(head["created_at"]),
        manifest=manifest,
        cells=cells,
        answers=answers,
        questions=read_questions(folder),
        choices=choices,
        inferred=inferred,
        nulls={vector: read_record(session, stored[vector]) for vector in there},
    )


def _cells(session: Session, sweep_id: str, manifest: Mapping[str, Any]) -> dict[str, Cell]:
    rows = session.sql(_CELLS, sweep=sweep_id).to_arrow_table().to_pylist()
    return by_preference({row.pop("cell_id"): _cell(row) for row in rows}, manifest)


def _cell(row: Mapping[str, Any]) -> Cell:
    parts = json.loads(row["parts"] or "[]")
    return Cell(
        **{**row, "decoding": _mapping(row["decoding"] or {}), "parts": tuple(CellPart(**part) for part in parts)}
    )


def by_preference(cells: Mapping[str, Cell], manifest: Mapping[str, Any]) -> dict[str, Cell]:
    """Cells in order of preference among equals: target, layer and strength as the sweep's grid lists them."""
    return dict(sorted(cells.items(), key=lambda item: (*_preference(item[1], manifest), item[0])))


def _preference(cell: Cell, manifest: Mapping[str, Any]) -> tuple[int, int, int]:
    """The order of equals when a cell is chosen: as the sweep's grid lists targets, layers and strengths."""
    grid = manifest.get("grid", {})

    def place(key: str, value: Any) -> int:
        listed = list(grid.get(key, ()))
        return listed.index(value) if value in listed else len(listed)

    return place("targets", cell.target), place("layers", cell.layer), place("alphas", cell.alpha)


def _on_grid(manifest: Mapping[str, Any]) -> Callable[[Cell], bool]:
    """Whether a plain cell is of the sweep's grid, and not a part of a combination that stands alone."""
    if "combinations" not in manifest:
        return lambda cell: True
    grid = manifest["grid"]
    like = (grid["alpha_unit"], grid.get("operation", "add"))
    return lambda cell: (
        (cell.alpha_unit, cell.operation) == like
        and cell.layer in grid["layers"]
        and cell.alpha in grid["alphas"]
        and cell.target in grid["targets"]
    )


def _answers(session: Session, sweep_id: str) -> dict[str, dict[tuple[str, str], Answer]]:
    answers: dict[str, dict[tuple[str, str], Answer]] = {}
    for row in session.sql(_ANSWERS, sweep=sweep_id).to_arrow_table().to_pylist():
        answer = Answer(**row)
        answers.setdefault(answer.split, {})[answer.cell_id, answer.sample_id] = answer
    if all(answer.correct is None for some in answers.values() for answer in some.values()):
        raise UsageError("the answers of this sweep are neither right nor wrong", hint=HINT)
    return answers


def _mapping(value: Any) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(value) if isinstance(value, str) else value
    return found


def cells_of(record: SweepRecord, choice: Choice) -> Sequence[str]:
    """The cells that were open to an arm, in order of preference."""
    if "vectors" in choice.details:  # several together: one cell, which is plain where it is a single part
        return [choice.cell_id]
    if choice.vector_id is not None:
        on_grid = _on_grid(record.manifest)
        return [key for key, cell in record.cells.items() if cell.vector_id == choice.vector_id and on_grid(cell)]
    prompt = record.cells[choice.cell_id].prompt_id
    return [key for key, cell in record.cells.items() if cell.vector_id is None and cell.prompt_id == prompt]
