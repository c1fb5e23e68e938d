"""What replaces the grid search: ways of choosing a cell, each tried on resamples of a finished grid's own answers.

Everything is worked out from what the cache holds: the exhaustive grid's answers, and gradients. A resample draws pictures with
replacement; on it every way chooses as it would have. Its gain is measured there, beside that of the exhaustive winner, and
on the pictures that were left out, which had no part in choosing.

Predictions are bent by a pilot (screening.pilot), drawn anew from every resample and counted. Ways that look at right answers
go by the predicted share of those, others by the predicted margin.

Costs are counted per question in forward passes through all blocks. A cell branches, so that it costs the blocks above its
layer; a gradient run costs one pass and, for every option but one, a backward pass through the blocks above its lowest layer
(for inputs alone, hence about as much as a forward pass). The unsteered answers, which every way needs, are left out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from steercache.core.errors import UsageError
from steercache.core.trials import TRUST
from steercache.screening.pilot import fit_bends, pilot_cells, pilot_size
from steercache.stats.arrays import group_index
from steercache.stats.choice import choose_cell, preference, rank_cells
from steercache.stats.paired import paired_interval
from steercache.stats.racing import race
from steercache.steering.margin_curve import bent, likely_right

Measure = Literal["accuracy", "margin"]
MEASURES: Final[tuple[Measure, ...]] = ("accuracy", "margin")
Float64Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
AT_STEP: Final = 0.5  # median norms: what `auc and norm` adds


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedGrid:
    """One vector's grid of c cells over n questions, answered exactly and predicted.

    `right`, `margin` (c, n) with the unsteered `base_right`, `base_margin` (n,); `predicted`, `base_predicted` are margins
    from gradients, straight. Per cell: `alphas`, `layers`, `places` (those of one number bend alike), `steps`, what is added in
    median norms of the steered rows, and `fitted_steps`, in those of the rows that the vector was fitted on (NaN where not
    known). `auc` is by layer, as the vector's diagnostics have it. `cell_work` (c,) and
    `gradient_work` (n,) are forward passes of one question. Cells come in order of preference, strength aside.
    """

    right: Bools = field(repr=False)
    margin: Float64Array = field(repr=False)
    base_right: Bools = field(repr=False)
    base_margin: Float64Array = field(repr=False)
    predicted: Float64Array = field(repr=False)
    base_predicted: Float64Array = field(repr=False)
    alphas: Float64Array
    layers: Ints
    places: Ints
    steps: Float64Array
    fitted_steps: Float64Array
    auc: Mapping[int, float]
    cell_work: Float64Array
    gradient_work: Float64Array = field(repr=False)
    groups: Sequence[str] = field(repr=False)

    @property
    def n_cells(self) -> int:
        return len(self.alphas)

    @property
    def n_samples(self) -> int:
        return len(self.base_right)

    def gains(self, measure: Measure) -> Float64Array:
        """What every cell gains on every question, (c, n)."""
        if measure == "accuracy":
            return self.right.astype(np.float64) - self.base_right
        gains: Float64Array = self.margin - self.base_margin
        return gains


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortcutOptions:
    """`share` of the cells is run where only the best predicted are; `pilot` questions bend the predictions (None:
    `screening.pilot_size`, 0: not at all); `tolerance` and `error` are a race's promise."""

    share: float = 0.1
    pilot: int | None = None
    trust: float = TRUST
    tolerance: float = 0.01
    error: float = 0.05
    n_resamples: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or self.n_resamples < 1:
            raise UsageError(
                f"a share of {self.share} and {self.n_resamples} resamples",
                hint="give a share above 0 and at most 1, such as 0.1",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortcutChoice:
    """What a way chose on a set of questions: a cell, how many cells it ran, answers it asked for, and its work."""

    cell: int
    n_run: int
    answers: float
    work: float


Way = Callable[[FinishedGrid, Ints, Measure, ShortcutOptions, int], ShortcutChoice]  # questions drawn (m,), and a seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortcut:
    """One way under one measure; the columns of the table `searches`. Shares are of the exhaustive grid's."""

    way: str
    measure: Measure
    cell: int
    n_run: float
    answers: float
    answers_share: float
    work: float
    work_share: float
    gain: float
    gain_low: float | None
    gain_high: float | None
    share_kept: float | None
    gain_held_out: float | None
    promise_kept: float | None


def compare_ways(
    grid: FinishedGrid, options: ShortcutOptions, *, progress: Callable[[int, int], None] | None = None
) -> tuple[Shortcut, ...]:
    """Every way under every measure, first those without a shortcut. Ways that lack what they need (a vector without
    diagnostics) are left out."""
    index, n_groups = group_index(grid.groups, grid.n_samples)
    members = [np.flatnonzero(index == g).astype(np.int64) for g in range(n_groups)]
    rng = np.random.default_rng(options.seed)
    draws = [rng.integers(0, n_groups, size=n_groups) for _ in range(options.n_resamples)]
    ways = {name: way for name, way in WAYS.items() if name not in _CACHE_ONLY or grid.auc}
    tried: dict[tuple[str, Measure], list[_Try]] = {(name, m): [] for m in MEASURES for name in ways}
    for b, drawn in enumerate(draws):
        questions = np.concatenate([members[g] for g in drawn])
        out = np.setdiff1d(np.arange(grid.n_samples), questions)
        once = {
            name: ways[name](grid, questions, "accuracy", options, options.seed + b) for name in ways if name in _BLIND
        }
        for measure in MEASURES:
            gains = grid.gains(measure)
            best = None
            for name, way in ways.items():
                found = once.get(name) or way(grid, questions, measure, options, options.seed + b)
                gain = float(gains[found.cell, questions].mean())
                best = gain if best is None else best  # the first way is exhaustive
                tried[name, measure].append(
                    _Try(
                        found=found,
                        gain=gain,
                        best=best,
                        held_out=float(gains[found.cell, out].mean()) if len(out) else None,
                        kept=_promise(grid, found.cell, questions, options) if name in _RACES else None,
                    )
                )
        if progress is not None:
            progress(b + 1, options.n_resamples)
    every = np.arange(grid.n_samples, dtype=np.int64)
    return tuple(
        _summed(grid, name, measure, tries, ways[name](grid, every, measure, options, options.seed), options)
        for (name, measure), tries in tried.items()
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Try:
    found: ShortcutChoice
    gain: float
    best: float
    held_out: float | None
    kept: bool | None


def _summed(
    grid: FinishedGrid,
    name: str,
    measure: Measure,
    tries: Sequence[_Try],
    whole: ShortcutChoice,
    options: ShortcutOptions,
) -> Shortcut:
    gains = grid.gains(measure)[whole.cell]
    interval = paired_interval(gains, list(grid.groups), seed=options.seed) if len({*grid.groups}) > 1 else None
    shares = [t.gain / t.best for t in tries if t.best > 0]
    held_out = [t.held_out for t in tries if t.held_out is not None]
    kept = [t.kept for t in tries if t.kept is not None]
    n_drawn = grid.n_samples  # resamples have this many questions on average
    return Shortcut(
        way=name,
        measure=measure,
        cell=whole.cell,
        n_run=float(np.mean([t.found.n_run for t in tries])),
        answers=float(np.mean([t.found.answers for t in tries])),
        answers_share=float(np.mean([t.found.answers for t in tries])) / (grid.n_cells * n_drawn),
        work=float(np.mean([t.found.work for t in tries])),
        work_share=float(np.mean([t.found.work for t in tries])) / float(grid.cell_work.sum() * n_drawn),
        gain=float(gains.mean()),
        gain_low=None if interval is None else interval.low,
        gain_high=None if interval is None else interval.high,
        share_kept=float(np.mean(shares)) if shares else None,
        gain_held_out=float(np.mean(held_out)) if held_out else None,
        promise_kept=float(np.mean(kept)) if kept else None,
    )


def _promise(grid: FinishedGrid, cell: int, questions: Ints, options: ShortcutOptions) -> bool:
    right = grid.right[:, questions].mean(axis=1)
    return bool(right[cell] >= right.max() - options.tolerance - 1e-12)


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
_BLIND: Final = frozenset({"racing", "screen-first + racing", "auc and norm"})  # to what is measured
_RACES: Final = frozenset({"racing", "screen-first + racing"})
_CACHE_ONLY: Final = frozenset({"best-auc layer", "auc and norm"})
