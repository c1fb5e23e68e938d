"""Cell selection, and its optimism bias.

The rule, everywhere in steercache: the cell with most right answers on the search split; of equals the one of the smallest
strength, then the first. A cell that failed at every question, or was not run on all of them, is never chosen.

The best of many cells on a search split looks better than it is. The bias is shown by redoing the whole selection on
resampled pictures: what the resample's winner gains on the pictures left out of it, which had no part in choosing it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from steercache.core.errors import UsageError
from steercache.stats.arrays import Float64Array, finite, group_index, sum_by_group
from steercache.stats.paired import Interval, paired_interval, resamples

Ints = npt.NDArray[np.int64]


def preference(alphas: Sequence[float]) -> Ints:
    """Cells from preferred to not among equals, shape (c,): smallest |alpha| first, then the order given (the lowest layer)."""
    order: Ints = np.argsort(np.abs(finite(alphas, "strengths")), kind="stable").astype(np.int64)
    return order


def rank_cells(*scores_c: npt.ArrayLike, alphas: Sequence[float]) -> Ints:
    """Cells from best to worst, shape (c,): by the first score (c,), of equals by the next one, then by `preference`."""
    order = preference(alphas)
    ranked: Ints = order[np.lexsort([-np.asarray(score, dtype=np.float64)[order] for score in reversed(scores_c)])]
    return ranked


def choose_cell(correct_cn: npt.ArrayLike, alphas: Sequence[float], *, finished_c: npt.ArrayLike | None = None) -> int:
    """The cell with most right answers on the search split; of equals the one with the smallest alpha, then the first.

    `finished_c` (c,) marks the cells that may be chosen: those that were run on every question and did not fail at all of them.
    Where no cell is finished, all may be.

    Raises:
        UsageError: not one alpha per cell, or no cell.
    """
    correct = _matrix(correct_cn, len(alphas))
    return _first_of_most(correct, _candidates(alphas, finished_c))


def _first_of_most(correct: Float64Array, order: Ints) -> int:
    return int(order[np.argmax(correct[order].sum(axis=1))])


def _candidates(alphas: Sequence[float], finished_c: npt.ArrayLike | None) -> Ints:
    """Cells that may be chosen, in the order of `preference`."""
    order = preference(alphas)
    if finished_c is None:
        return order
    finished = np.asarray(finished_c, dtype=np.bool_)
    if finished.shape != order.shape:
        raise UsageError(f"{finished.shape} cells are said to be finished or not, {len(order)} are there")
    return order[finished[order]] if finished.any() else order


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionBias:
    """The chosen cell's gain over the baseline where it was chosen and where it was not.

    `held_out_gain` is the mean, over resamples of the search split, of the gain of each resample's winner on the pictures left
    out of it: what choosing this way is worth, near 0 on a grid without effect. `frequency` (c,) is how often each cell won.
    """

    chosen: int
    search: Interval
    test: Interval | None
    held_out_gain: float
    frequency: Float64Array

    @property
    def optimism(self) -> float:
        """How much of the search gain came from the choosing."""
        return self.search.estimate - self.held_out_gain


def selection_bias(
    search_cn: npt.ArrayLike,
    baseline_n: npt.ArrayLike,
    groups: Sequence[Any] | npt.NDArray[Any],
    *,
    alphas: Sequence[float],
    finished_c: npt.ArrayLike | None = None,
    n_boot: int = 2000,
    seed: int = 0,
) -> SelectionBias:
    """Choose a cell on the search split and measure the bias of choosing; `search_cn` (c, n) and `baseline_n` (n,) are 0/1.

    `finished_c` as in `choose_cell`.

    The interval of the search gain is the naive one, of the chosen cell alone: shown to be compared, not to be claimed.

    Raises:
        UsageError: shapes that do not fit, or fewer than two pictures.
    """
    correct = _matrix(search_cn, len(alphas))
    delta = correct - finite(baseline_n, "answers of the baseline")
    index, n_groups = group_index(groups, correct.shape[1])
    if n_groups < 2:
        raise UsageError("the selection cannot be resampled with a single picture")
    order = _candidates(alphas, finished_c)
    sums = sum_by_group(delta[order], index, n_groups)
    counts = np.bincount(index, minlength=n_groups).astype(np.float64)
    wins = np.zeros(len(order))
    gains: list[Float64Array] = []
    for weights in resamples(np.random.default_rng(seed), n_groups, n_boot):
        winner = np.argmax(weights @ sums.T, axis=1)  # the sizes of a resample are the same for all cells
        left_out = weights == 0
        n_out = left_out @ counts
        known = n_out > 0
        gains.append(np.einsum("bg,bg->b", left_out, sums[winner])[known] / n_out[known])
        wins += np.bincount(winner, minlength=len(order))
    chosen = _first_of_most(correct, order)
    frequency = np.zeros(len(correct))
    frequency[order] = wins / n_boot
    return SelectionBias(
        chosen=chosen,
        search=paired_interval(delta[chosen], groups, seed=seed),
        test=None,
        held_out_gain=float(np.concatenate(gains).mean()),
        frequency=frequency,
    )


def with_test(
    bias: SelectionBias,
    chosen_n: npt.ArrayLike,
    baseline_n: npt.ArrayLike,
    groups: Sequence[Any] | npt.NDArray[Any],
    *,
    seed: int = 0,
) -> SelectionBias:
    """The same with the chosen cell's gain on the test split: the number that may be claimed, once (see the ledger)."""
    delta = np.asarray(chosen_n, dtype=np.float64) - np.asarray(baseline_n, dtype=np.float64)
    return SelectionBias(
        chosen=bias.chosen,
        search=bias.search,
        test=paired_interval(delta, groups, seed=seed),
        held_out_gain=bias.held_out_gain,
        frequency=bias.frequency,
    )


def _matrix(correct_cn: npt.ArrayLike, n_cells: int) -> Float64Array:
    correct = finite(correct_cn, "answers")
    if correct.ndim != 2 or len(correct) != n_cells or correct.size == 0:
        raise UsageError(f"answers of shape {correct.shape} for {n_cells} cells")
    return correct
