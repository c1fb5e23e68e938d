"""The one table of a sweep, an evaluation or a grid; `sweeps.tabulate` makes it from what is stored.

The terminal, the HTML page, JSON and Python all show this.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from steercache.benchmarks.comparison import (
    Comparison,
    RankedGain,
)
from steercache.benchmarks.whatsup import WhatsUpScore
from steercache.core.damage import Damage
from steercache.core.predictors import Predictors
from steercache.core.trials import Cell, ChoiceRule, Role
from steercache.stats.choice import SelectionBias
from steercache.sweeps.cell_rows import CellRow
from steercache.sweeps.notebook import table_html
from steercache.sweeps.together import InterferenceRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A question that the baseline could not answer."""

    split: str
    place: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlResult:
    """What one control gained at the cell that it chose itself (`RankedGain`), and what that breaks (None: not measured)."""

    name: str
    kind: str
    cell: Cell
    gain: float
    n: int
    n_failed: int
    damage: Damage | None = None

    @property
    def ranked(self) -> RankedGain:
        """What it is ranked by."""
        return RankedGain(gain=self.gain, n=self.n, n_failed=self.n_failed)


@dataclass(frozen=True, slots=True, kw_only=True)
class SideEffect:
    """What a chosen cell does on a task that it was not chosen for: shares of right answers of `n` questions before and after,
    their difference with its 95 % interval, and how many became right and wrong."""

    task: str
    n: int
    n_failed: int
    before: float
    after: float
    change: float
    low: float
    high: float
    helped: int
    hurt: int

    def __str__(self) -> str:
        failed = f", {self.n_failed} failed" if self.n_failed else ""
        return (
            f"{self.task}: {self.before:.3f} -> {self.after:.3f} ({self.low:+.3f} to {self.high:+.3f}, "
            f"+{self.helped} -{self.hurt}, n {self.n}{failed})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRow:
    """One arm against the baseline on one split, at the cell that it took on the search split, by `rule` among `n_cells`.

    `p_holm` is adjusted for all rows of the split, and of the same split of the sweep's other tasks. `rank_p` is the share of
    vector and controls that gained at least as much; None without controls. `bias` says what choosing was worth; None where
    nothing was chosen, in a race, after a screening, or with a single picture. `damage` is what the cell does to unrelated
    prompts; None: no vector, or not measured. `predictors` are numbers of the vector's fit at the cell's layer; None: not
    measured. `side_effects` are the cell's changes on unrelated tasks; () where none were asked. `vectors` are the names of
    several vectors together, as the parts of the cell. Flat, as the row of the table that is printed and written as JSON.
    """

    name: str
    role: Role
    split: str
    vector_id: str | None
    method: str | None
    concept: str | None
    lineage: str | None
    cell_id: str
    cell: Cell
    rule: ChoiceRule
    n_cells: int
    comparison: Comparison
    p_holm: float
    controls: tuple[ControlResult, ...] = ()
    rank_p: float | None = None
    bias: SelectionBias | None = None
    whatsup: WhatsUpScore | None = None
    damage: Damage | None = None
    predictors: Predictors | None = None
    side_effects: tuple[SideEffect, ...] = ()
    race: Mapping[str, Any] | None = None
    vectors: tuple[str, ...] = ()

    @property
    def setting(self) -> str:
        """Its cell in words: layer, strength and target, of several vectors those of each; "" without a vector."""
        return self.cell.setting(self.vectors if self.cell.parts else ())


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitTable:
    """The rows of one split. `baseline` is the share of right answers without a vector among those of `n` questions that were
    answered, `unread` the share of answers read as no option, `whatsup` What'sUp's three accuracies, for that benchmark."""

    split: str
    n: int
    n_failed: int
    baseline: float
    unread: float
    whatsup: WhatsUpScore | None
    rows: tuple[TableRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepTable:
    """The table of one stored sweep.

    `cells` are all cells of its vectors over the search split, best first. `interference` has its combinations of several
    vectors beside what their parts do alone. `n_looks` is how often its test split was looked at
    (None: it was not). `clustered` is False where the sweep does not say which picture a question is of, so that each stands
    for itself; `inferred` is True where it does not say what its arms took (an older steercache wrote it). Flat, as the JSON of
    `grid` and `eval`.
    """

    sweep_id: str
    name: str
    kind: str
    status: str
    created_at: str | None
    manifest: Mapping[str, Any] = field(repr=False)
    model: str
    benchmark: str
    rule: str
    splits: tuple[SplitTable, ...]
    cells: tuple[CellRow, ...] = field(repr=False)
    failures: tuple[Failure, ...]
    n_answers: int
    n_looks: int | None
    clustered: bool
    inferred: bool
    interference: tuple[InterferenceRow, ...] = field(repr=False, default=())

    def _repr_html_(self) -> str:
        """Gains with their intervals, the grids of the first vectors, and the rows, for a notebook."""
        return table_html(self)

    @property
    def rows(self) -> tuple[TableRow, ...]:
        """The rows of all splits, the search split's first."""
        return tuple(row for split in self.splits for row in split.rows)

    @property
    def choices(self) -> tuple[TableRow, ...]:
        """One row for every vector, where it chose: on the search split, or the only one."""
        return tuple(row for row in self.splits[0].rows if row.role == "vector") if self.splits else ()

    def records(self) -> list[dict[str, Any]]:
        """The rows as plain values, one mapping per arm and split: what a data frame is made of.

        `gain`, `gain_low` and `gain_high` (95 %) are differences of the share of right answers; `kl_nats` is the mean damage;
        `wrong_way` and `margin_wrong_way` are the shares of `Comparison.wrong_way`.
        """
        return [
            {
                "split": row.split,
                "arm": row.name,
                "role": row.role,
                "method": row.method,
                "concept": row.concept,
                "layer": row.cell.layer,
                "alpha": row.cell.alpha,
                "alpha_unit": row.cell.alpha_unit,
                "target": row.cell.target,
                "setting": row.setting,
                "n_cells": row.n_cells,
                "n": row.comparison.n,
                "n_failed": row.comparison.n_failed,
                "before": row.comparison.before,
                "after": row.comparison.after,
                "gain": row.comparison.gain.estimate,
                "gain_low": row.comparison.gain.low,
                "gain_high": row.comparison.gain.high,
                "wrong_way": row.comparison.wrong_way.share,
                "margin_wrong_way": row.comparison.wrong_way.margin_share,
                "p": row.comparison.p_clustered,
                "p_holm": row.p_holm,
                "n_controls": len(row.controls),
                "rank_p": row.rank_p,
                "optimism": None if row.bias is None else row.bias.optimism,
                "kl_nats": None if row.damage is None else row.damage.mean_nats,
                "d_prime": None if row.predictors is None else row.predictors.d_prime,
                "difference_cosine": None if row.predictors is None else row.predictors.difference_cosine,
                "difference_cosine_std": None if row.predictors is None else row.predictors.difference_cosine_std,
                "cell_id": row.cell_id,
                "vector_id": row.vector_id,
            }
            for row in self.rows
        ]

    def row(self, split: str, name: str) -> TableRow | None:
        """The row of an arm on a split; None where there is none."""
        return next((row for row in self.rows if (row.split, row.name) == (split, name)), None)
