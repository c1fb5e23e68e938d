"""What replaces the exhaustive grid: screen-first and racing, on resamples of grids that were run whole, and of simulated ones.

The share of the winner's gain that screen-first keeps is read on the fitted vector's grid where that gain is a real one
(the interval excludes 0), else on the planted control's. A race promises the best cell of the split, or one within a point of
it, with probability 95 %; work is counted in forward passes through blocks, gradients included, as a share of the whole grid's.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from bench.cells import ALPHAS, LAYERS
from bench.exhaustive import Whole, whole_grid
from bench.screening import N_QUESTIONS
from bench.turns import Row
from steercache.core.errors import NotFoundError
from steercache.stats.racing import Ints, race
from steercache.sweeps.finished_grid import ShortcutOptions
from steercache.sweeps.shortcuts import Shortcut, compare_ways

KINDS = ("fitted", "planted")
N_RESAMPLES = 200
SPLIT = 500  # questions of a simulated search split
TOLERANCE = 0.01
Array = np.ndarray[Any, Any]


def bench_whole(wholes: Iterable[Whole], n_resamples: int) -> list[Row]:
    """The rows of the first grid whose winner's gain in margin is real; of the last one if none is."""
    rows: list[Row] = []
    for whole in wholes:
        ways = compare_ways(whole.finished, ShortcutOptions(share=0.1, n_resamples=n_resamples))
        by = {(way.way, way.measure): way for way in ways}
        winner = by["exhaustive", "margin"]
        real = bool(winner.gain_low is not None and winner.gain_low > 0)
        counts = {
            "n_cells": whole.finished.n_cells,
            "n_samples": whole.finished.n_samples,
            "n_resamples": n_resamples,
            "winner_gain": [winner.gain, winner.gain_low, winner.gain_high],
            "winner_is_real": real,
            "base_accuracy": float(whole.finished.base_right.mean()),
        }
        rows = [kept_row(by["screen-first", "margin"], whole.name, real) | counts]
        for name, limited in (("screen-first + racing", True), ("racing", False)):
            rows += [row | counts for row in race_rows(by[name, "accuracy"], whole.name, limited)]
        if real:
            break
    return rows


def kept_row(way: Shortcut, kind: str, real: bool) -> Row:
    """How much of the winner's gain in margin is kept by running a tenth of the cells."""
    kept = float("nan") if way.share_kept is None else way.share_kept
    return {
        "name": f"screen-first with 10 % of the cells, {kind} vector: share of the winner's gain in margin that is kept",
        "value": kept,
        "target": ">= 0.95",
        "met": real and kept >= 0.95,
        "answers_share": way.answers_share,
        "work_share": way.work_share,
    }


def race_rows(way: Shortcut, kind: str, limited: bool) -> list[Row]:
    """Work and promise of a race; without `limited` the work is reported, and held to nothing but the whole grid's."""
    limit = 0.2 if limited else 1.0
    promise = float("nan") if way.promise_kept is None else way.promise_kept
    what = f"{way.way}, {kind} vector"
    return [
        {
            "name": f"{what}: forward work against the exhaustive grid",
            "ratio": way.work_share,
            "target": f"<= {limit:g}",
            "met": way.work_share <= limit,
        },
        promise_row(what, promise),
    ]


def promise_row(what: str, kept: float) -> Row:
    """The share of resamples in which the promise was kept."""
    return {"name": f"{what}: promise kept", "value": kept, "target": ">= 0.95", "met": kept >= 0.95}


def simulated(kind: str, *, n: int) -> Array:
    """Right answers of 16 x 7 cells over n questions: no effect ("null"), or strong cells of a third of the layers better."""
    rng = np.random.default_rng(12)
    base = rng.random(n) < 0.55
    rows = []
    for i, layer in enumerate(LAYERS):
        for alpha in ALPHAS:
            up = down = 0.16 * alpha
            if kind == "planted" and layer % 3 == 0:
                up += 0.25 * alpha
            if kind == "planted" and i > 12:
                down += 0.5 * alpha
            drawn = rng.random(n)
            rows.append(np.where(base, drawn >= down / 0.55, drawn < up / 0.45))
    return np.stack(rows)


def bench_simulated(kind: str, *, n: int, n_resamples: int) -> list[Row]:
    """Racing alone over splits drawn anew from one simulated population, four times as large."""
    population = simulated(kind, n=4 * n)
    work_c = np.repeat([(29 - layer) / 30 for layer in LAYERS], len(ALPHAS))
    rng = np.random.default_rng(0)
    kept, work = [], []
    for seed in range(n_resamples):
        right = population[:, rng.choice(4 * n, n, replace=False)]
        order = np.argsort(np.tile(ALPHAS, len(LAYERS)), kind="stable")  # of equals the smallest strength

        def evaluate(cells: Ints, samples: Ints, right: Array = right, order: Array = order) -> Any:
            return right[np.ix_(order[cells], samples)].astype(np.int8)

        found = race(len(right), n, evaluate, tolerance=TOLERANCE, error=0.05, seed=seed)
        means = right[order].mean(axis=1)
        kept.append(bool(means[found.best] >= means.max() - TOLERANCE - 1e-12))
        work.append(float((found.seen * work_c[order]).sum() / (n * work_c.sum())))
    counts = {"n_cells": len(population), "n_samples": n, "n_resamples": n_resamples}
    what = f"racing, simulated {kind} grid of {len(population)} cells x {n}"
    share = float(np.mean(work))
    shown = {
        "name": f"{what}: forward work against the exhaustive grid",
        "ratio": share,
        "target": "<= 1",
        "met": share <= 1,
    }
    return [shown | counts, promise_row(what, float(np.mean(kept))) | counts]


def run(
    *,
    model: str = "demo",
    kinds: Sequence[str] = KINDS,
    n: int = N_QUESTIONS,
    n_resamples: int = N_RESAMPLES,
    split: int = SPLIT,
) -> Iterator[Row]:
    """All lines; whole grids are those of `screening` where it ran in the same process, else run first (twenty minutes)."""
    for kind in ("planted", "null"):
        yield from bench_simulated(kind, n=split, n_resamples=n_resamples)
    try:
        yield from bench_whole((whole_grid(kind, model, n) for kind in kinds), n_resamples)
    except NotFoundError as error:
        print(f"shortcuts: left out: {error}", file=sys.stderr)


if __name__ == "__main__":
    for row in run():
        print(json.dumps(row), flush=True)
