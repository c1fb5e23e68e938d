"""A sweep that was run: its table, and how its answers were got."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from steercache.answers.batches import Runner
from steercache.answers.costs import ModeChoice
from steercache.answers.store import Key, SweepWriter
from steercache.benchmarks.questions import questions_of
from steercache.benchmarks.task import EncodedQuestion, Part
from steercache.core.ids import canonical_json
from steercache.core.trials import Choice
from steercache.sweeps.cell_rows import CellRow
from steercache.sweeps.choosing import Answers
from steercache.sweeps.record import SweepRecord, by_preference
from steercache.sweeps.table import Failure, SweepTable, TableRow


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepResult:
    """The table of an evaluation or of one task of a grid, and what has to be known beside it.

    `n_screened_out` cells were predicted to be worse, and not run. The predictions were corrected by a pilot of `n_pilot`
    questions (0: there was none), which took `n_pilot_answers`. `n_computed` and `n_reused` are answers of the sweep itself;
    `n_computed_pilot` and `n_computed_nulls` were computed beside them. `near_ties` are (cell, sample) whose answer another
    batching may change, of those computed now; `computed_in_full` are cells that could not branch, with the reason. `modes`
    says by split how answers were got, and why (empty: nothing was chosen); `notes` which controls could not be made.
    """

    table: SweepTable
    n_computed: int
    n_reused: int
    n_screened_out: int = 0
    n_pilot: int = 0
    n_pilot_answers: int = 0
    n_computed_pilot: int = 0
    n_computed_nulls: int = 0
    near_ties: tuple[Key, ...] = field(repr=False)
    computed_in_full: Mapping[str, str]
    modes: Mapping[str, ModeChoice]
    notes: tuple[str, ...]

    def _repr_html_(self) -> str:
        """The table, for a notebook."""
        return self.table._repr_html_()

    @property
    def n_computed_in_all(self) -> int:
        """Answers computed for the sweep, its pilot and its null directions."""
        return self.n_computed + self.n_computed_pilot + self.n_computed_nulls

    @property
    def sweep_id(self) -> str:
        """Id of the stored sweep."""
        return self.table.sweep_id

    @property
    def name(self) -> str:
        """The benchmark, with its task."""
        return self.table.benchmark

    @property
    def rows(self) -> tuple[TableRow, ...]:
        """The rows of all splits, the search split's first."""
        return self.table.rows

    @property
    def choices(self) -> tuple[TableRow, ...]:
        """One row for every vector, where it chose."""
        return self.table.choices

    @property
    def cells(self) -> tuple[CellRow, ...]:
        """Every cell of the vectors over the search split, best first."""
        return self.table.cells

    @property
    def baseline(self) -> Mapping[str, float]:
        """The share of right answers without a vector, by split."""
        return {split.split: split.baseline for split in self.table.splits}

    @property
    def n_samples(self) -> Mapping[str, int]:
        """Questions by split, failed ones included."""
        return {split.split: split.n for split in self.table.splits}

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Questions that could not be encoded."""
        return self.table.failures

    @property
    def n_looks(self) -> int | None:
        """How often this test split was looked at, this time included; None: it was not."""
        return self.table.n_looks


def record_of(
    writer: SweepWriter,
    *,
    status: str,
    asked: Mapping[Part, Sequence[EncodedQuestion]],
    answers: Mapping[Part, Answers],
    choices: Sequence[Choice],
    n_looks: int | None = None,
    nulls: Mapping[str, SweepRecord] | None = None,
) -> SweepRecord:
    """What a run has stored, as `read_record` would read it."""
    manifest = _as_stored(writer.manifest)
    decodings = {id(cell.decoding): _as_stored(cell.decoding) for cell in writer.cells.values()}
    cells = {key: replace(cell, decoding=decodings[id(cell.decoding)]) for key, cell in writer.cells.items()}
    return SweepRecord(
        sweep_id=writer.sweep_id,
        name=writer.name,
        status=status,
        manifest=manifest,
        cells=by_preference(cells, manifest),
        answers={str(split): some for split, some in answers.items()},
        questions=questions_of(asked),
        choices=tuple(replace(one, details=_as_stored(one.details)) for one in choices),
        n_looks=n_looks,
        nulls=nulls or {},
    )


def _as_stored(value: Mapping[str, Any]) -> dict[str, Any]:
    """JSON as it comes back from a file."""
    found: dict[str, Any] = json.loads(canonical_json(value))
    return found


def status_of(answers: Mapping[Part, Answers]) -> str:
    """Status of a finished sweep: "partly_failed" where an answer failed."""
    failed = any(answer.status == "failed" for some in answers.values() for answer in some.values())
    return "partly_failed" if failed else "complete"


def result_of(
    table: SweepTable,
    runner: Runner,
    *,
    modes: Mapping[str, ModeChoice],
    notes: Sequence[str],
    n_screened_out: int = 0,
    pilot: tuple[int, int, int] = (0, 0, 0),
    n_computed_nulls: int = 0,
) -> SweepResult:
    """A table with how the runner got its answers; `pilot` is its questions, its answers, and those of them computed now."""
    n_pilot, n_pilot_answers, n_computed_pilot = pilot
    return SweepResult(
        table=table,
        n_computed=runner.tally.n_computed,
        n_reused=runner.tally.n_reused,
        n_screened_out=n_screened_out,
        n_pilot=n_pilot,
        n_pilot_answers=n_pilot_answers,
        n_computed_pilot=n_computed_pilot,
        n_computed_nulls=n_computed_nulls,
        near_ties=tuple(runner.tally.near_ties),
        computed_in_full=dict(runner.tally.full),
        modes=dict(modes),
        notes=(*notes, *runner.tally.lines()),
    )
