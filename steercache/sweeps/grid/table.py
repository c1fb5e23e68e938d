"""From a grid's answers to its table: every cell against the baseline, best first, with what choosing among them was worth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from steercache.answers.damage import Damage
from steercache.answers.store import Key
from steercache.benchmarks.comparison import Comparison, unread_share
from steercache.benchmarks.task import EncodedQuestion
from steercache.cells.arms import ArmCell
from steercache.core.trials import Answer, Cell
from steercache.stats.choice import SelectionBias
from steercache.stats.family import max_t
from steercache.stats.paired import Interval, paired_intervals
from steercache.sweeps.evaluation.nulls import NullRanking

Answers = Mapping[Key, Answer]
UNSEEN, FAILED, WRONG, RIGHT = -2, -1, 0, 1
States = npt.NDArray[np.int8]


@dataclass(frozen=True, slots=True, kw_only=True)
class GridRow:
    """One cell over the search split. `n_seen` samples were asked, of which `n_failed` could not be.

    `right` is the share of right answers of those that did, `unread` of answers read as no option, `gain` is `right` minus
    the baseline's on the same samples (None: none did). `p_family` is one-sided and adjusted for every cell of the grid; None
    where cells saw different samples, or only the best predicted ones were run. `dropped`: a race ended it early.
    """

    vector: str
    cell: Cell
    n_seen: int
    n_failed: int
    right: float
    unread: float
    gain: Interval | None
    p_family: float | None
    dropped: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GridChoice:
    """What one vector chose: the cell with most right answers on the search split, of equals that of the smallest strength.

    `test` is the only number that may be claimed, and `p_holm` its p adjusted for all vectors and tasks of the sweep. `bias`
    says what choosing was worth; None in a race or after a screening, with one cell, or with a single picture. `nulls` has what
    null directions gained by the same search, `damage` what the cell does to unrelated prompts; None: not asked for.
    """

    vector: str
    vector_id: str
    method: str
    concept: str | None
    lineage: str
    cell: Cell
    n_cells: int
    search: Comparison
    test: Comparison | None
    p_holm: float | None
    bias: SelectionBias | None
    nulls: NullRanking | None = None
    damage: Damage | None = None


def states_of(cell_ids: Sequence[str], asked: Sequence[EncodedQuestion], answers: Answers) -> States:
    """What became of every (cell, sample): UNSEEN, FAILED, WRONG or RIGHT, shape (c, n)."""
    found = np.full((len(cell_ids), len(asked)), UNSEEN, dtype=np.int8)
    for i, cell_id in enumerate(cell_ids):
        for j, one in enumerate(asked):
            answer = answers.get((cell_id, one.sample_id))
            if answer is not None:
                found[i, j] = FAILED if answer.status == "failed" else RIGHT if answer.correct else WRONG
    return found


def grid_rows(
    settings: Sequence[ArmCell],
    baseline_id: str,
    asked: Sequence[EncodedQuestion],
    answers: Answers,
    *,
    whole: bool = True,
    dropped: frozenset[str] = frozenset(),
    seed: int = 0,
) -> tuple[GridRow, ...]:
    """Every cell that was run, best first: those that were not dropped before those that were, then by right answers, then by
    strength. `whole`: these are all cells of the grid, none left out for what it promised on the same samples."""
    ids = [s.cell.cell_id for s in settings]
    states, (baseline,) = states_of(ids, asked, answers), states_of([baseline_id], asked, answers)
    groups = [one.group_id for one in asked]
    gains = _gains(states, baseline, groups, seed=seed)
    p_family = _family(states, baseline, groups, seed=seed) if whole else None
    rows = []
    for i, setting in enumerate(settings):
        n_ok = int((states[i] >= WRONG).sum())
        rows.append(
            GridRow(
                vector=setting.arm.name,
                cell=setting.cell,
                n_seen=int((states[i] != UNSEEN).sum()),
                n_failed=int((states[i] == FAILED).sum()),
                right=float((states[i] == RIGHT).sum()) / n_ok if n_ok else 0.0,
                unread=unread_share([a for one in asked if (a := answers.get((ids[i], one.sample_id))) is not None]),
                gain=gains[i],
                p_family=None if p_family is None else float(p_family[i]),
                dropped=ids[i] in dropped,
            )
        )
    return tuple(sorted(rows, key=lambda row: (row.dropped, -row.right, abs(row.cell.alpha))))


def _gains(states: States, baseline: States, groups: Sequence[str], *, seed: int) -> list[Interval | None]:
    """Gains over the samples that both answered; cells that answered the same ones are resampled together."""
    both = (states >= WRONG) & (baseline >= WRONG)
    names = np.asarray(groups, dtype=object)
    gains: list[Interval | None] = [None] * len(states)
    masks, which = np.unique(both, axis=0, return_inverse=True)
    for k, mask in enumerate(masks):
        rows = np.flatnonzero(which.reshape(-1) == k)
        if mask.any():
            delta = states[np.ix_(rows, mask)].astype(np.float64) - baseline[mask]
            for row, interval in zip(rows, paired_intervals(delta, list(names[mask]), seed=seed), strict=True):
                gains[row] = interval
    return gains


def _family(states: States, baseline: States, groups: Sequence[str], *, seed: int) -> npt.NDArray[np.float64] | None:
    """Family-wise p of every cell; None where some cell did not see every sample. What failed changed nothing."""
    if (states == UNSEEN).any() or not len(states):
        return None
    both = (states >= WRONG) & (baseline >= WRONG)
    return max_t(np.where(both, states - baseline, 0), groups, seed=seed).p_family
