"""What replaces the grid search: ways of choosing a cell, each tried on resamples of a finished grid's own answers.

Everything is worked out from what the cache holds: the exhaustive grid's answers, and gradients. A resample draws pictures with
replacement; on it every way chooses as it would have. Its gain is measured there, beside that of the exhaustive winner, and
on the pictures that were left out, which had no part in choosing.

Costs are counted per question in forward passes through all blocks. A cell branches, so that it costs the blocks above its
layer; a gradient run costs one pass and, for every option but one, a backward pass through the blocks above its lowest layer
(for inputs alone, hence about as much as a forward pass). The unsteered answers, which every way needs, are left out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from steercache.stats.arrays import group_index
from steercache.stats.paired import paired_interval
from steercache.sweeps.finished_grid import MEASURES, FinishedGrid, Ints, Measure, ShortcutChoice, ShortcutOptions
from steercache.sweeps.shortcut_ways import BLIND, CACHE_ONLY, RACES, WAYS


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
    ways = {name: way for name, way in WAYS.items() if name not in CACHE_ONLY or grid.auc}
    tried: dict[tuple[str, Measure], list[_Try]] = {(name, m): [] for m in MEASURES for name in ways}
    for b, drawn in enumerate(draws):
        questions = np.concatenate([members[g] for g in drawn])
        out = np.setdiff1d(np.arange(grid.n_samples), questions)
        once = {
            name: ways[name](grid, questions, "accuracy", options, options.seed + b) for name in ways if name in BLIND
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
                        kept=_promise(grid, found.cell, questions, options) if name in RACES else None,
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
