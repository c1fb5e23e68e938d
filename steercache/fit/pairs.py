"""Differences inside a pair: the mean of its rows with the concept minus the mean of its other rows.

Where a selection has no pairs, a sentence that holds rows of both sides is one: its anchors against its controls.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from steercache.core.errors import UsageError
from steercache.core.selection import RowIndex, Selection
from steercache.fit.blocks import iter_rows
from steercache.fit.sides import LabelledSides

DoubleArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Differences:
    """One difference per pair `values_pd` (p, d), how much each counts `weight_p` (p,), the pair's number `unit_p` (p,)."""

    values_pd: DoubleArray
    weight_p: DoubleArray
    unit_p: RowIndex

    def __len__(self) -> int:
        return len(self.unit_p)


def paired_units(sides: LabelledSides) -> RowIndex:
    """Numbers of the pairs (or sentences) that have rows of both sides that count, ascending."""
    counted = sides.coef > 0
    with_concept = np.unique(sides.unit[counted & sides.label])
    return np.intersect1d(with_concept, sides.unit[counted & ~sides.label])


def differences(sel: Selection, sides: LabelledSides, layer: int, *, units: RowIndex | None = None) -> Differences:
    """The difference of every pair at one layer, or of the pairs `units`; rows are read once, in blocks.

    Within a pair a row counts by its coefficient; a pair weighs the sum of the coefficients of its concept's rows (of
    pairs, their mean weight; of sentences, how many anchors).
    """
    chosen = paired_units(sides) if units is None else units
    number = np.full(sides.n_units, -1, np.int64)
    number[chosen] = np.arange(len(chosen))
    key = np.where((number[sides.unit] >= 0) & (sides.coef > 0), number[sides.unit] * 2 + sides.label, -1)
    counts = np.bincount(key[key >= 0], weights=sides.coef[key >= 0], minlength=2 * len(chosen))
    total = counts.astype(np.float64)
    sums: DoubleArray | None = None
    for part, rows in iter_rows(sel, layer):
        order = np.flatnonzero(key[part] >= 0)
        order = order[np.argsort(key[part][order], kind="stable")]
        if sums is None:
            sums = np.zeros((2 * len(chosen), rows.shape[1]))
        if len(order):
            keys, starts = np.unique(key[part][order], return_index=True)
            share = sides.coef[part][order].astype(np.float64) / total[key[part][order]]
            sums[keys] += np.add.reduceat(rows[order] * share[:, None], starts, axis=0)
    assert sums is not None  # a selection with labels has rows
    return Differences(values_pd=sums[1::2] - sums[::2], weight_p=total[1::2], unit_p=chosen)


def refuse_unpaired(sel: Selection, sides: LabelledSides, *, method: str) -> None:
    """Raises UsageError where fewer than two pairs (or sentences) have rows of both sides."""
    if len(paired_units(sides)) < 2:
        raise UsageError(
            f"{method} compares the two sides within a {sides.unit_name}, and fewer than two have rows of both",
            place=sel.query.name,
            hint="select pairs (a column `pair`), or sentences with rows of both labels",
        )
