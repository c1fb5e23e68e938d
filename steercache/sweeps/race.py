"""One vector's cells raced over the search split: the race decides which answers are asked for, the runner gets them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from steercache.answers.batches import Runner
from steercache.answers.store import Key
from steercache.benchmarks.task import EncodedQuestion
from steercache.cells.arms import ArmCell
from steercache.core.trials import Answer
from steercache.manifests.sweep import Race
from steercache.stats.choice import preference
from steercache.stats.racing import Ints, race


@dataclass(frozen=True, slots=True, kw_only=True)
class RaceSummary:
    """What was promised of the winner, and what it cost: with probability `1 - error` over the random order, the winner is
    the best cell of the full search split or at most `tolerance` below it. `work` is the share of the exhaustive grid's
    answers; `exact`: the winner saw every sample."""

    tolerance: float
    error: float
    seed: int
    work: float
    exact: bool
    n_dropped: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RaceOutcome:
    """The winner, the cells that were dropped (by id), and every answer that was computed."""

    best: ArmCell
    dropped: frozenset[str]
    answers: dict[Key, Answer]
    summary: RaceSummary


def race_cells(
    runner: Runner,
    asked: Sequence[EncodedQuestion],
    settings: Sequence[ArmCell],
    rules: Race,
    *,
    seed: int,
    beside: Sequence[ArmCell] = (),
    first: ArmCell | None = None,
) -> RaceOutcome:
    """Race the cells; `beside` is asked about every sample that is read, and takes no part (the baseline).

    `first` is the reference to begin with, such as a screening's best.
    """
    ordered = [settings[i] for i in preference([s.cell.alpha for s in settings])]
    ids = [s.cell.cell_id for s in ordered]
    answers: dict[Key, Answer] = {}
    racing, unread = len(ordered), len(asked)

    def evaluate(cells: Ints, samples: Ints) -> npt.NDArray[np.int8]:
        nonlocal racing, unread
        runner.count((racing - len(cells)) * unread)  # what dropped cells will not be asked
        read = [asked[i] for i in samples]
        answers.update(runner.run(read, [*beside, *(ordered[c] for c in cells)]))
        racing, unread = len(cells), unread - len(samples)
        right = [[bool(answers[ids[c], one.sample_id].correct) for one in read] for c in cells]
        return np.array(right, dtype=np.int8)

    start = None if first is None else ids.index(first.cell.cell_id)
    found = race(
        len(ordered), len(asked), evaluate, tolerance=rules.tolerance, error=rules.error, seed=seed, first=start
    )
    runner.count(racing * unread)
    return RaceOutcome(
        best=ordered[found.best],
        dropped=frozenset(ids[i] for i in np.flatnonzero(found.dropped_by >= 0)),
        answers=answers,
        summary=RaceSummary(
            tolerance=found.tolerance,
            error=found.error,
            seed=seed,
            work=found.work,
            exact=found.exact,
            n_dropped=int((found.dropped_by >= 0).sum()),
        ),
    )
