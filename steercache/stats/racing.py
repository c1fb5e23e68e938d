"""Racing cells over the samples of a split: bad cells stop early, and the promise about the winner holds at every look.

Promised: with probability `1 - error` over the random order, the cell returned is the best of the full split or at most
`tolerance` below it. How it is kept:

- All cells read the same samples in one seeded random order. After a short pilot the leader becomes the *reference*.
- Every other cell is tested against it by betting (evidence.py), from the next sample on. A cell is dropped when "it leads the
  reference by more than the tolerance on the full split" is refuted. The reference was fixed before the bets began, and only
  the truly best cell's own test can break the promise: so one level serves all cells, with no factor for their number.
- A reference stays until the end, where its score is exact like that of every cell not dropped, or until it is proven not
  better than a later one. A successor is named when some cell clearly leads the reference; it spends a share of `error` kept
  for it: error / (k (k + 1)) for the k-th reference, half for its tests, half for the proofs against those before.
- If all others are dropped, the last reference is the answer before the samples run out.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from steercache.core.errors import UsageError
from steercache.stats.evidence import LeadBets, forbidden_lead, read_on, start_lead_bets

Ints = npt.NDArray[np.int64]
Evaluate = Callable[[Ints, Ints], npt.ArrayLike]  # cells (c,), samples (m,) -> right or wrong, shape (c, m)

PILOT: Final = 0.04  # of the split, read by every cell before the first reference is named
LOOKS: Final = 64  # looks at most, unless the caller says how many samples lie between two
CLEAR_LEAD: Final = 0.5  # in square roots of the samples that differ: when a successor is named


@dataclass(frozen=True, slots=True, kw_only=True)
class RaceResult:
    """The winner, and what each cell saw; arrays have shape (c,).

    `mean` is over the samples seen. `dropped_by` is the reference that a cell lost against, -1 for cells never dropped.
    `exact` says that the winner's score is of the full split. `order` is the order of the samples, shape (n,).
    """

    best: int
    seen: Ints
    mean: npt.NDArray[np.float64]
    dropped_by: Ints
    references: tuple[int, ...]
    exact: bool
    order: Ints
    tolerance: float
    error: float

    @property
    def work(self) -> float:
        """Share of the exhaustive grid's answers that were computed."""
        return float(self.seen.sum()) / (self.seen.size * self.order.size)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reference:
    """A cell that the others are tested against from the sample on at which it was named.

    `bets` of all cells: that they do not lead it by more than the tolerance. `proofs` of the references before it, in order:
    that they are not better than it. Evidence of `reach` (log) or more refutes, `reach_proof` for the proofs.
    """

    cell: int
    bets: LeadBets
    reach: float
    proofs: LeadBets
    reach_proof: float


@dataclass(slots=True, kw_only=True)
class _Race:
    """The state between looks: `right` (c, n) in reading order, filled up to `t` for cells that are still racing."""

    n_samples: int
    lead: int
    right: npt.NDArray[np.int8]
    racing: npt.NDArray[np.bool_]
    seen: Ints
    dropped_by: Ints
    t: int = 0
    references: list[_Reference] = field(default_factory=list)

    def sums(self) -> Ints:
        """Right answers so far, -1 for cells that no longer race."""
        sums: Ints = np.where(self.racing, self.right[:, : self.t].sum(axis=1, dtype=np.int64), -1)
        return sums


def race(
    n_cells: int,
    n_samples: int,
    evaluate: Evaluate,
    *,
    tolerance: float = 0.01,
    error: float = 0.05,
    seed: int = 0,
    look_every: int | None = None,
    first: int | None = None,
) -> RaceResult:
    """Find the best of `n_cells` on a split of `n_samples`, asking `evaluate` for as few answers as the promise allows.

    Order cells so that of equals the preferred comes first (the smallest alpha). `first` names a reference beforehand, such as
    a screening's best, and saves the pilot; it may be any cell. `evaluate` is asked once for each (cell, sample) it is asked
    for, in blocks; a failed sample counts as wrong.

    Raises:
        UsageError: no cells or samples, a probability out of range, or answers of another shape.
    """
    if n_cells < 1 or n_samples < 1 or not 0 <= tolerance < 1 or not 0 < error < 1:
        raise UsageError(
            f"cannot race {n_cells} cells over {n_samples} samples at tolerance {tolerance}, error {error}"
        )
    if first is not None and not 0 <= first < n_cells:
        raise UsageError(f"the first reference {first} is none of {n_cells} cells")
    step = look_every or max(1, n_samples // LOOKS)
    order = np.random.default_rng(seed).permutation(n_samples).astype(np.int64)
    state = _Race(
        n_samples=n_samples,
        lead=forbidden_lead(tolerance, n_samples),
        right=np.zeros((n_cells, n_samples), dtype=np.int8),
        racing=np.ones(n_cells, dtype=np.bool_),
        seen=np.zeros(n_cells, dtype=np.int64),
        dropped_by=np.full(n_cells, -1, dtype=np.int64),
    )
    if first is None:
        _read(state, evaluate, order, min(n_samples, max(step, int(np.ceil(PILOT * n_samples)))))
    _name_reference(state, first, error)
    while state.t < n_samples and state.racing.sum() > 1:
        _read(state, evaluate, order, min(n_samples, state.t + step))
        _drop(state)
        _retire(state)
        _name_successor(state, error)
    exact = bool(state.t == n_samples)
    best = int(np.argmax(state.sums())) if exact else int(np.flatnonzero(state.racing)[0])
    return RaceResult(
        best=best,
        seen=state.seen,
        mean=state.right.sum(axis=1) / np.maximum(state.seen, 1),
        dropped_by=state.dropped_by,
        references=tuple(r.cell for r in state.references),
        exact=exact,
        order=order,
        tolerance=tolerance,
        error=error,
    )


def _read(state: _Race, evaluate: Evaluate, order: Ints, until: int) -> None:
    """Let every racing cell answer the next samples, and settle the bets on them."""
    cells = np.flatnonzero(state.racing).astype(np.int64)
    samples = order[state.t : until]
    answers = np.asarray(evaluate(cells, samples))
    if answers.shape != (cells.size, samples.size) or not np.all((answers == 0) | (answers == 1)):
        raise UsageError(
            f"answers of shape {answers.shape} for {cells.size} cells and {samples.size} samples, or not 0/1"
        )
    new = slice(state.t, until)
    state.right[cells, new] = answers
    state.seen[cells] = until
    state.t = until
    for k, reference in enumerate(state.references):
        if not state.racing[reference.cell]:
            continue  # it was proven no better than a later one, whose bets go on instead
        read_on(reference.bets, cells, state.right[cells, new] - state.right[reference.cell, new])
        older = np.array([i for i in range(k) if state.racing[state.references[i].cell]], dtype=np.int64)
        rows = np.array([state.references[i].cell for i in older], dtype=np.int64)
        read_on(reference.proofs, older, state.right[rows, new] - state.right[reference.cell, new])


def _name_reference(state: _Race, cell: int | None, error: float) -> None:
    k = len(state.references) + 1
    share = error / (k * (k + 1))
    own = share if k == 1 else share / 2  # the first has no one before it
    cell = int(np.argmax(state.sums())) if cell is None else cell
    x = state.right[:, : state.t] - state.right[cell, : state.t]
    older = [r.cell for r in state.references]
    state.references.append(
        _Reference(
            cell=cell,
            bets=start_lead_bets(x, n_samples=state.n_samples, lead=state.lead),
            reach=-float(np.log(own)),
            proofs=start_lead_bets(x[older], n_samples=state.n_samples, lead=1),
            reach_proof=-float(np.log(share / 2 / max(1, len(older)))),
        )
    )


def _drop(state: _Race) -> None:
    """Drop every cell that is refuted, by any reference, to lead it by more than the tolerance; references stay."""
    candidates = state.racing.copy()
    candidates[[r.cell for r in state.references]] = False
    for reference in state.references:
        if state.racing[reference.cell]:
            lost = candidates & state.racing & (reference.bets.best >= reference.reach)
            state.racing[lost] = False
            state.dropped_by[lost] = reference.cell


def _retire(state: _Race) -> None:
    """Take an old reference out of the race once it is proven not better than a later one that is still in it."""
    for k, reference in enumerate(state.references):
        for i, old in enumerate(state.references[:k]):
            proven = reference.proofs.best[i] >= reference.reach_proof
            if proven and state.racing[reference.cell] and state.racing[old.cell]:
                state.racing[old.cell] = False
                state.dropped_by[old.cell] = reference.cell


def _name_successor(state: _Race, error: float) -> None:
    """Name the leader as the next reference when it clearly leads the last one (any rule that looks back only is valid)."""
    sums = state.sums()
    leader, last = int(np.argmax(sums)), state.references[-1].cell
    if state.t >= state.n_samples or leader in {r.cell for r in state.references}:
        return
    x = state.right[leader, : state.t] - state.right[last, : state.t]
    if x.sum() >= max(state.lead * state.t / state.n_samples, CLEAR_LEAD * np.sqrt(np.abs(x).sum()), 1):
        _name_reference(state, leader, error)
