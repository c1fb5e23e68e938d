"""The two sides of a selection: which rows carry the concept, how much each row counts, and what is resampled together."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from steercache.core.errors import UsageError
from steercache.core.selection import RowIndex, Selection

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
Recipe = Literal["default", "paper"]
RECIPES: tuple[Recipe, ...] = ("default", "paper")
_NEEDS = "a query for fitting returns a column `label` of 0 and 1: the selections among the named queries do"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledSides:
    """Rows of a selection as two weighted sides; arrays have shape (n,).

    `coef` says how much a row counts within its side: the side's mean is sum(coef * x) / sum(coef). `unit` numbers what
    belongs together (sentences, or contrastive pairs), 0..n_units-1.
    """

    label: BoolArray
    coef: FloatArray
    unit: RowIndex
    unit_name: Literal["sentence", "pair"]

    @property
    def n_units(self) -> int:
        """Sentences, or pairs."""
        return int(self.unit.max()) + 1

    def coef_2n(self) -> FloatArray:
        """Coefficients per side, shape (2, n): row 0 the concept's side, row 1 the other."""
        return np.stack([np.where(self.label, self.coef, 0), np.where(self.label, 0, self.coef)]).astype(np.float32)


def check_recipe(recipe: str) -> Recipe:
    """Raises UsageError when there is no recipe of that name."""
    for known in RECIPES:
        if recipe == known:
            return known
    raise UsageError(f"no recipe named {recipe!r}", hint=f"choose one of: {', '.join(RECIPES)}")


def split_sides(sel: Selection, *, recipe: Recipe = "default") -> LabelledSides:
    """Check a selection's labels, pairs and weights and turn them into sides.

    With `pair`, every pair counts by the mean weight of its rows, and within a pair each side is averaged first; so
    unweighted pairs count alike, however many rows they have. The paper's recipe pools all rows of a side and knows neither.

    Raises:
        UsageError: there are no labels, one side is empty, a pair lacks a side, a weight is negative or not finite, or
            the recipe `paper` is used with weighted rows.
    """
    label = _labels(sel)
    if recipe == "paper":
        if sel.weight is not None:
            raise UsageError(
                "the recipe `paper` does not support weights, and this selection has weights",
                hint="use the default recipe",
            )
        return LabelledSides(
            label=label, coef=np.ones(len(label), np.float32), unit=_numbered(sel.sample_idx), unit_name="sentence"
        )
    weight = _weights(sel, label)
    if sel.pair is None:
        return LabelledSides(label=label, coef=weight, unit=_numbered(sel.sample_idx), unit_name="sentence")
    pair = _numbered(sel.pair)
    return LabelledSides(label=label, coef=_pair_coef(sel.pair, pair, label, weight), unit=pair, unit_name="pair")


def _numbered(values: RowIndex) -> RowIndex:
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def _labels(sel: Selection) -> BoolArray:
    if sel.label is None:
        raise UsageError("the selection has no labels, so there are no two sides to tell apart", hint=_NEEDS)
    is_other = (sel.label != 0) & (sel.label != 1)
    if is_other.any():
        other = np.unique(sel.label[is_other])
        raise UsageError(f"labels are 0 and 1; this selection also has {', '.join(map(str, other[:5]))}", hint=_NEEDS)
    n_concept = int(np.count_nonzero(sel.label))
    if not 0 < n_concept < len(sel):
        raise UsageError(
            f"both sides are needed; of {len(sel)} rows {n_concept} carry the concept",
            place=sel.query.name,
            hint="look at the rows: steercache query " + (sel.query.name or "..."),
        )
    return sel.label.astype(bool)


def _weights(sel: Selection, label: BoolArray) -> FloatArray:
    if sel.weight is None:
        return np.ones(len(sel), np.float32)
    bad = np.flatnonzero(~np.isfinite(sel.weight) | (sel.weight < 0))
    if len(bad):
        raise UsageError(f"{len(bad)} weights are negative or not finite, the first at row {int(sel.rows[bad[0]])}")
    if not sel.weight[label].sum() > 0 or not sel.weight[~label].sum() > 0:
        raise UsageError("the weights of one side are all zero")
    return sel.weight.astype(np.float32)


def _pair_coef(named: RowIndex, pair: RowIndex, label: BoolArray, weight: FloatArray) -> FloatArray:
    """Row i of pair p and side s counts omega_p * w_i / sum of w over (p, s), omega_p being the mean weight of p's rows."""
    n_pairs = int(pair.max()) + 1
    side = pair * 2 + label
    total = np.bincount(side, weights=weight, minlength=2 * n_pairs)
    lacking = np.flatnonzero((total.reshape(-1, 2) == 0).any(axis=1))
    if len(lacking):
        first = named[pair == lacking[0]][0]
        raise UsageError(
            f"{len(lacking)} of {n_pairs} pairs have rows on one side only, the first is pair {int(first)}"
        )
    omega = np.bincount(pair, weights=weight) / np.bincount(pair)
    return (omega[pair] * weight / total[side]).astype(np.float32)
