"""Which cell an arm takes on the search split: the one rule of `stats.choice`, on answers. Every search ends here."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from steercache.core.trials import Answer
from steercache.stats.choice import choose_cell

Key = tuple[str, str]  # cell, sample
Answers = Mapping[Key, Answer]
States = npt.NDArray[np.int8]
UNSEEN: Final = -2
FAILED: Final = -1
WRONG: Final = 0
RIGHT: Final = 1


def states_of(cell_ids: Sequence[str], samples: Sequence[str], answers: Answers) -> States:
    """What became of every (cell, sample): UNSEEN, FAILED, WRONG or RIGHT, shape (c, n)."""
    found = np.full((len(cell_ids), len(samples)), UNSEEN, dtype=np.int8)
    for i, cell_id in enumerate(cell_ids):
        for j, sample in enumerate(samples):
            answer = answers.get((cell_id, sample))
            if answer is not None:
                found[i, j] = FAILED if answer.status == "failed" else RIGHT if answer.correct else WRONG
    return found


def finished(states_cn: States) -> npt.NDArray[np.bool_]:
    """Which cells may be chosen, shape (c,): asked every question, and not failed at all of them."""
    found: npt.NDArray[np.bool_] = (states_cn != UNSEEN).all(axis=1) & (states_cn >= WRONG).any(axis=1)
    return found


def choose(cell_ids: Sequence[str], alphas: Sequence[float], samples: Sequence[str], answers: Answers) -> int:
    """The place of the cell with most right answers to `samples`; of equals that of the smallest strength, then the first.

    Cells that did not finish are chosen only where none did.
    """
    if len(cell_ids) == 1:
        return 0
    states = states_of(cell_ids, samples, answers)
    return choose_cell(states == RIGHT, alphas, finished_c=finished(states))
