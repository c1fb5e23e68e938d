"""Unit shift: the candidate directions of angular steering (arXiv 2510.26243), as its code computes them.

Every row is brought to length 1, the mean of each side as well; the vector is the concept's mean minus the other side's. Hidden
states of different layers are thus alike in length, so that the directions of all layers can be compared, and their principal
component is not that of the longest.
"""

from collections.abc import Sequence

import numpy as np

from steercache.core.errors import UsageError
from steercache.core.selection import Selection
from steercache.core.vectors import SteeringVector
from steercache.fit.blocks import iter_rows, width_of
from steercache.fit.fitted import fitted_vector, one_way
from steercache.fit.sides import FloatArray, LabelledSides, Recipe

METHOD = "unit_shift"


def unit_shift(
    sel: Selection, *, layers: Sequence[int] | None = None, recipe: Recipe = "default", name: str | None = None
) -> SteeringVector:
    """Fit the difference of the sides' mean directions: rows at length 1, their means at length 1.

    Raises:
        UsageError: no two sides, a row of zeros, rows that cancel, an unknown layer or recipe.
        NonFiniteError: selected rows that are not finite.
    """
    one_way(recipe, method=METHOD)
    return fitted_vector(sel, unit_formula, method=METHOD, layers=layers, name=name, params={})


def unit_formula(sel: Selection, sides: LabelledSides, layer: int) -> FloatArray:
    """The direction (d,) of one layer."""
    coef_2n, sums_2d = sides.coef_2n(), np.zeros((2, width_of(sel)))
    for part, rows in iter_rows(sel, layer):
        h = rows.astype(np.float64)
        norms = np.linalg.norm(h, axis=1, keepdims=True)
        if not norms.all():
            raise UsageError(f"a selected row of layer {layer} is zero, so it has no direction", place=sel.query.name)
        sums_2d += coef_2n[:, part] @ (h / norms)
    lengths = np.linalg.norm(sums_2d, axis=1, keepdims=True)
    if not lengths.all():
        raise UsageError(f"the directions of a side's rows cancel at layer {layer}", place=sel.query.name)
    unit_2d = sums_2d / lengths
    direction: FloatArray = (unit_2d[0] - unit_2d[1]).astype(np.float32)
    return direction
