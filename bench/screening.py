"""Screening: how well an exact grid is predicted.

Cells are compared by the change of their mean answer margin, at strengths up to half the median norm of the steered rows: as
`grid --screen-first` ranks them, after a pilot on some of the questions (drawn anew many times), and by gradients alone.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from bench.exhaustive import Whole, whole_grid
from bench.turns import Row
from steercache.core.errors import NotFoundError
from steercache.core.trials import TRUST
from steercache.screening.pilot import pilot_cells, pilot_size
from steercache.sweeps.finished_grid import FinishedGrid
from steercache.sweeps.shortcut_ways import bent_changes

KINDS = ("fitted", "planted")
N_QUESTIONS = 128
N_PILOTS = 50


def shifts_of(grid: FinishedGrid, pilot: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Predicted and exact change of the mean answer margin, cell by cell, after a pilot on some questions."""
    changes, _, _ = bent_changes(grid, np.arange(grid.n_samples), pilot, trust=TRUST)
    return changes.mean(axis=1), (grid.margin - grid.base_margin).mean(axis=1)


def ranked_alike(grids: Sequence[FinishedGrid], pilots: Sequence[np.ndarray[Any, Any]]) -> list[float]:
    """The rank correlation over the cells of these grids, for every pilot."""
    pairs = [[shifts_of(grid, pilot) for grid in grids] for pilot in pilots]
    return [float(spearmanr(*(np.concatenate(x) for x in zip(*some, strict=True))).statistic) for some in pairs]


def bench_prediction(wholes: Sequence[Whole]) -> list[Row]:
    """The rank correlation over the cells of each grid, and over all of them."""
    n = wholes[0].finished.n_samples
    size = pilot_size(n, None)
    pilots = [np.random.default_rng(seed).permutation(n)[:size] for seed in range(N_PILOTS)]
    named = [(whole.name, [whole.finished]) for whole in wholes]
    if len(wholes) > 1:
        named.append(("all", [whole.finished for whole in wholes]))
    rows: list[Row] = []
    for name, grids in named:
        rhos = ranked_alike(grids, pilots)
        cells = [
            pilot_cells(g.steps, [np.flatnonzero(g.places == p).tolist() for p in {*g.places.tolist()}]) for g in grids
        ]
        work = [g.cell_work[c].sum() * size / (g.cell_work.sum() * n) for g, c in zip(grids, cells, strict=True)]
        counts = {
            "n_cells": sum(g.n_cells for g in grids),
            "n_samples": n,
            "largest_exact_shift": max(float(np.abs(shifts_of(g, pilots[0][:0])[1]).max()) for g in grids),
        }
        rows.append(
            {
                "name": f"screening: Spearman of predicted and exact mean margin shift, {name} vectors, pilot of {size}",
                "value": float(np.mean(rhos)),
                "least": min(rhos),
                "target": ">= 0.9",
                "met": float(np.mean(rhos)) >= 0.9,
                "n_pilots": N_PILOTS,
                "pilot_work_share": float(np.mean(work)),
                **counts,
            }
        )
        (straight,) = ranked_alike(grids, [pilots[0][:0]])
        rows.append(
            {
                "name": f"screening: the same by gradients alone, {name} vectors",
                "value": straight,
                "target": ">= 0.9",
                "met": straight >= 0.9,
                **counts,
            }
        )
    exact_s, gradients_s = (sum(getattr(w, name) for w in wholes) for name in ("exact_s", "gradients_s"))
    rows.append(
        {
            "name": "recording gradients, as a share of running the same grids exactly",
            "ratio": gradients_s / exact_s,
            "ours_s": gradients_s,
            "peer_s": exact_s,
            "target": "<= 0.2",
            "met": gradients_s / exact_s <= 0.2,
        }
    )
    return rows


def run(
    *,
    model: str = "demo",
    kinds: Sequence[str] = KINDS,
    n: int = N_QUESTIONS,
) -> Iterator[Row]:
    """All lines; the exact grids take twenty minutes on two quiet cores, and `shortcuts` in the same process reads them."""
    try:
        yield from bench_prediction([whole_grid(kind, model, n) for kind in kinds])
    except NotFoundError as error:
        print(f"screening: left out: {error}", file=sys.stderr)


if __name__ == "__main__":
    for row in run():
        print(json.dumps(row), flush=True)
