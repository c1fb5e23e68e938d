"""Every cell of a sweep's vectors against the baseline, best first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from steercache.benchmarks.comparison import WrongWay, unread_share, wrong_way
from steercache.benchmarks.questions import StoredQuestion
from steercache.core.trials import Cell
from steercache.stats.family import max_t
from steercache.stats.paired import Interval, paired_intervals
from steercache.sweeps.choosing import FAILED, RIGHT, UNSEEN, WRONG, Answers, States, states_of


@dataclass(frozen=True, slots=True, kw_only=True)
class CellRow:
    """One cell over the search split. `n_seen` samples were asked, of which `n_failed` could not be.

    `right` is the share of right answers of those that did, `unread` of answers read as no option, `gain` is `right` minus
    the baseline's on the same samples (None: none did), `wrong_way` the share of samples moved the wrong way. `p_family` is
    one-sided and adjusted for every cell of the grid; None where cells saw different samples, or only the best predicted ones
    were run. `dropped`: a race ended it early.
    """

    vector: str
    cell_id: str
    cell: Cell
    n_seen: int
    n_failed: int
    right: float
    unread: float
    gain: Interval | None
    wrong_way: WrongWay
    p_family: float | None
    dropped: bool
    vectors: tuple[str, ...] = ()

    @property
    def setting(self) -> str:
        """The cell in words; of several vectors each with its name (`vectors`)."""
        return self.cell.setting(self.vectors if self.cell.parts else ())


def cell_rows(
    of_arm: Mapping[str, str],
    cells: Mapping[str, Cell],
    baseline_id: str,
    asked: Sequence[StoredQuestion],
    answers: Answers,
    *,
    whole: bool = True,
    dropped: frozenset[str] = frozenset(),
    seed: int = 0,
    vectors: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
) -> tuple[CellRow, ...]:
    """Every cell that was run, best first: those that were not dropped before those that were, then by right answers, then by
    strength.

    `of_arm` has the arm's name by cell id, `vectors` the names of several vectors together. `whole`: these are all cells of the
    grid, none left out by a screening.
    """
    ids, samples = list(of_arm), [one.sample_id for one in asked]
    states, (baseline,) = states_of(ids, samples, answers), states_of([baseline_id], samples, answers)
    groups = [one.group_id for one in asked]
    gains = _gains(states, baseline, groups, seed=seed)
    p_family = _family(states, baseline, groups, seed=seed) if whole else None
    rows = []
    for i, cell_id in enumerate(ids):
        n_ok = int((states[i] >= WRONG).sum())
        rows.append(
            CellRow(
                vector=of_arm[cell_id],
                cell_id=cell_id,
                cell=cells[cell_id],
                n_seen=int((states[i] != UNSEEN).sum()),
                n_failed=int((states[i] == FAILED).sum()),
                right=float((states[i] == RIGHT).sum()) / n_ok if n_ok else 0.0,
                unread=unread_share([a for sample in samples if (a := answers.get((cell_id, sample))) is not None]),
                gain=gains[i],
                wrong_way=wrong_way(
                    (answers[baseline_id, sample], answers[cell_id, sample])
                    for sample in samples
                    if (baseline_id, sample) in answers and (cell_id, sample) in answers
                ),
                p_family=None if p_family is None else float(p_family[i]),
                dropped=cell_id in dropped,
                vectors=vectors.get(cell_id, ()),
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
