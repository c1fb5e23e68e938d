"""Ways of choosing a cell of a finished grid: all of its cells, a race, predictions, the vector's own diagnostics, at random.

Predictions are bent by a pilot (screening.pilot), drawn anew from every resample and counted. Ways that look at right answers
go by the predicted share of those, others by the predicted margin.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from steercache.screening.pilot import fit_bends, pilot_cells, pilot_size
from steercache.stats.choice import choose_cell, preference, rank_cells
from steercache.stats.racing import race
from steercache.steering.margin_curve import bent, likely_right
from steercache.sweeps.finished_grid import (
    FinishedGrid,
    Float64Array,
    Ints,
    Measure,
    ShortcutChoice,
    ShortcutOptions,
    Way,
)

AT_STEP: Final = 0.5  # median norms: what `auc and norm` adds


def _best_run(
    grid: FinishedGrid, cells: Ints, questions: Ints, measure: Measure, *, work: float = 0.0
) -> ShortcutChoice:
    """The best of some cells that are run over all questions."""
    score = (grid.right if measure == "accuracy" else grid.margin)[np.ix_(cells, questions)].sum(axis=1)
    chosen = int(cells[choose_cell(score[:, None], grid.alphas[cells].tolist())])
    n = len(questions)
    return ShortcutChoice(
        cell=chosen, n_run=len(cells), answers=float(len(cells) * n), work=work + float(grid.cell_work[cells].sum()) * n
    )


def _exhaustive(
    grid: FinishedGrid, questions: Ints, measure: Measure, options: ShortcutOptions, seed: int
) -> ShortcutChoice:
    return _best_run(grid, np.arange(grid.n_cells, dtype=np.int64), questions, measure)


def _racing(
    grid: FinishedGrid, questions: Ints, measure: Measure, options: ShortcutOptions, seed: int
) -> ShortcutChoice:
    """A race looks at right answers, whatever is measured."""
    order = preference(list(grid.alphas))
    return _race(grid, order, questions, options, seed, first=None, work=0.0)[0]


def _screening(
    grid: FinishedGrid, questions: Ints, measure: Measure, options: ShortcutOptions, seed: int
) -> ShortcutChoice:
    found = _predicted(grid, questions, measure, options, seed)
    return ShortcutChoice(cell=int(found.order[0]), n_run=0, answers=found.answers, work=found.work)


def _screen_first(
    grid: FinishedGrid, questions: Ints, measure: Measure, options: ShortcutOptions, seed: int
) -> ShortcutChoice:
    found = _predicted(grid, questions, measure, options, seed)
    cells = np.sort(found.order[: _count(grid, options)])
    run = _best_run(grid, cells, questions, measure, work=found.work)
    return found.less_what_the_pilot_answered(run, cells, np.full(len(cells), len(questions)), grid)


def _screen_and_race(
    grid: FinishedGrid, questions: Ints, measure: Measure, options: ShortcutOptions, seed: int
) -> ShortcutChoice:
    """The race promises right answers, so that cells are screened by those, whatever is measured."""
    found = _predicted(grid, questions, "accuracy", options, seed)
    first, *others = found.order[: _count(grid, options)].tolist()
    cells = np.sort(np.array([first, *others], dtype=np.int64))
    cells = cells[preference(list(grid.alphas[cells]))]
    run, seen = _race(grid, cells, questions, options, seed, first=first, work=found.work)
    return found.less_what_the_pilot_answered(run, cells, seen, grid)


def _random(
    grid: FinishedGrid, questions: Ints, measure: Measure, options: ShortcutOptions, seed: int
) -> ShortcutChoice:
    """As many cells as `screen-first` runs, drawn blindly: what running few cells is worth by itself."""
    rng = np.random.default_rng([seed, 7])
    cells = np.sort(rng.permutation(grid.n_cells)[: _count(grid, options)])
    return _best_run(grid, cells, questions, measure)


def _auc_layer(
    grid: FinishedGrid, questions: Ints, measure: Measure, options: ShortcutOptions, seed: int
) -> ShortcutChoice:
    """The cells of the layer whose held-out AUC is best are run, no others."""
    return _best_run(grid, np.flatnonzero(grid.layers == _auc_best(grid)).astype(np.int64), questions, measure)


def _auc_and_norm(
    grid: FinishedGrid, questions: Ints, measure: Measure, options: ShortcutOptions, seed: int
) -> ShortcutChoice:
    """Nothing is run: the layer of the best AUC, and the strength that adds closest to `AT_STEP` median norms."""
    cells = np.flatnonzero(grid.layers == _auc_best(grid)).astype(np.int64)
    away = np.abs(np.nan_to_num(grid.fitted_steps[cells], nan=np.inf) - AT_STEP)
    return ShortcutChoice(cell=int(cells[np.argmin(away)]), n_run=0, answers=0.0, work=0.0)


def _auc_best(grid: FinishedGrid) -> int:
    there = [layer for layer in sorted({*grid.layers.tolist()}) if layer in grid.auc]
    if not there:
        return int(grid.layers[0])
    return int(max(there, key=lambda layer: grid.auc[layer]))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Predicted:
    """Cells by prediction, best first; of equals the smallest strength. `answers` and `work` are the pilot's and the gradient
    run's, `pilot` the pilot's cells and `n_pilot` its questions."""

    order: Ints
    answers: float
    work: float
    pilot: Ints
    n_pilot: int

    def less_what_the_pilot_answered(
        self, run: ShortcutChoice, cells: Ints, seen: Ints, grid: FinishedGrid
    ) -> ShortcutChoice:
        """What cells that are run cost beside the pilot, whose questions they need not answer again."""
        again = np.where(np.isin(cells, self.pilot), np.minimum(seen, self.n_pilot), 0)
        return replace(
            run,
            answers=run.answers + self.answers - float(again.sum()),
            work=run.work - float((again * grid.cell_work[cells]).sum()),
        )


def _predicted(grid: FinishedGrid, questions: Ints, by: Measure, options: ShortcutOptions, seed: int) -> _Predicted:
    """Cells ranked on the questions drawn, after a pilot on some of them."""
    chosen = np.random.default_rng([seed, 11]).permutation(len(questions))[: pilot_size(len(questions), options.pilot)]
    changes, spread, pilot = bent_changes(grid, questions, chosen, trust=options.trust)
    shifts = changes.mean(axis=1)
    score = shifts if by == "margin" else likely_right(grid.base_predicted[questions] + changes, spread)
    return _Predicted(
        order=rank_cells(score, shifts, alphas=list(grid.alphas)),
        answers=float(len(pilot) * len(chosen)),
        work=float(grid.gradient_work[questions].sum() + grid.cell_work[pilot].sum() * len(chosen)),
        pilot=pilot,
        n_pilot=len(chosen),
    )


def bent_changes(
    grid: FinishedGrid, questions: Ints, chosen: Ints, *, trust: float
) -> tuple[Float64Array, Float64Array, Ints]:
    """Predicted changes of the margin (c, m) on `questions` (m,) after a pilot on those at `chosen`, the spread of a question's
    margin about its prediction (c,), and the pilot's cells. Without a pilot lines stay straight and the spread is 0."""
    changes = (grid.predicted - grid.base_predicted)[:, questions]
    spread = np.zeros(grid.n_cells)
    if not len(chosen):
        return changes, spread, np.empty(0, dtype=np.int64)
    places = {place: np.flatnonzero(grid.places == place).tolist() for place in sorted({*grid.places.tolist()})}
    cells = pilot_cells(grid.steps, list(places.values()), trust=trust)
    pilot = np.array(cells, dtype=np.int64)
    moved = (grid.margin - grid.base_margin)[np.ix_(pilot, questions[chosen])]
    bends = fit_bends(places, cells, grid.steps[pilot], changes[np.ix_(pilot, chosen)], moved)
    for place, bend in bends.items():
        steps = np.minimum(np.nan_to_num(grid.steps[places[place]], nan=trust), trust)
        changes[places[place]] = bent(bend, steps, changes[places[place]])
        spread[places[place]] = bend.spread_at(steps)
    return changes, spread, pilot


def _count(grid: FinishedGrid, options: ShortcutOptions) -> int:
    return max(1, round(options.share * grid.n_cells))


def _race(
    grid: FinishedGrid,
    cells: Ints,
    questions: Ints,
    options: ShortcutOptions,
    seed: int,
    *,
    first: int | None,
    work: float,
) -> tuple[ShortcutChoice, Ints]:
    """A race among cells, in order of preference, over the drawn questions; and how many each saw."""

    def evaluate(racing: Ints, samples: Ints) -> Any:
        return grid.right[np.ix_(cells[racing], questions[samples])].astype(np.int8)

    start = None if first is None else cells.tolist().index(first)
    found = race(
        len(cells), len(questions), evaluate, tolerance=options.tolerance, error=options.error, seed=seed, first=start
    )
    run = ShortcutChoice(
        cell=int(cells[found.best]),
        n_run=len(cells),
        answers=float(found.seen.sum()),
        work=work + float((found.seen * grid.cell_work[cells]).sum()),
    )
    return run, found.seen


WAYS: Final[Mapping[str, Way]] = {
    "exhaustive": _exhaustive,
    "racing": _racing,
    "screening": _screening,
    "screen-first": _screen_first,
    "screen-first + racing": _screen_and_race,
    "best-auc layer": _auc_layer,
    "auc and norm": _auc_and_norm,
    "random cells": _random,
}


BLIND: Final = frozenset({"racing", "screen-first + racing", "auc and norm"})  # to what is measured


RACES: Final = frozenset({"racing", "screen-first + racing"})


CACHE_ONLY: Final = frozenset({"best-auc layer", "auc and norm"})
