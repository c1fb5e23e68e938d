"""How much a direction would move had other sentences been written: sentences drawn again, with replacement."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from steercache.core.selection import Selection
from steercache.fit.blocks import iter_rows
from steercache.fit.sides import FloatArray, LabelledSides

DoubleArray = npt.NDArray[np.float64]
Fit = Callable[[LabelledSides], FloatArray]  # sides to directions (l, d)


def draw_counts(n_units: int, *, n_draws: int, seed: int) -> npt.NDArray[np.uint16]:
    """How often each unit is in each draw, shape (draws, units); every row sums to n_units."""
    generator = np.random.Generator(np.random.PCG64(seed))
    draws = [np.bincount(generator.integers(0, n_units, n_units), minlength=n_units) for _ in range(n_draws)]
    return np.stack(draws).astype(np.uint16)


def shift_draws(sel: Selection, sides: LabelledSides, *, layer: int, counts_bu: npt.NDArray[np.uint16]) -> DoubleArray:
    """Mean shifts of the draws at one layer, shape (b, d), in one pass over the rows.

    A row's share in every draw is its unit's count, so each block is summed by (unit, side) first. A draw that misses one
    side altogether is left out.
    """
    key = sides.unit * 2 + sides.label
    sums = np.zeros((2, len(counts_bu), 0))
    totals = np.zeros((2, len(counts_bu)))
    for part, rows in iter_rows(sel, layer):
        order = np.argsort(key[part], kind="stable")
        keys, starts = np.unique(key[part][order], return_index=True)
        coef = sides.coef[part][order].astype(np.float64)
        by_key = np.add.reduceat(rows[order] * coef[:, None], starts, axis=0)
        weight = np.add.reduceat(coef, starts)
        if sums.shape[2] == 0:
            sums = np.zeros((2, len(counts_bu), rows.shape[1]))
        for side in (0, 1):
            of_side = keys % 2 == side
            counts = counts_bu[:, keys[of_side] // 2].astype(np.float64)
            sums[side] += counts @ by_key[of_side]
            totals[side] += counts @ weight[of_side]
    whole = (totals > 0).all(axis=0)
    means: DoubleArray = sums[:, whole] / totals[:, whole, None]
    draws: DoubleArray = means[1] - means[0]
    return draws


def refit_draws(sides: LabelledSides, *, counts_bu: npt.NDArray[np.uint16], fit: Fit) -> list[FloatArray]:
    """Directions (l, d) of every draw, by fitting again; draws that miss one side are left out."""
    fitted = []
    for counts in counts_bu:
        coef = (sides.coef * counts[sides.unit]).astype(np.float32)
        if coef[sides.label].any() and coef[~sides.label].any():
            fitted.append(fit(replace(sides, coef=coef)))
    return fitted
