"""What every fitting function does before and after its formula."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from steercache.core.errors import UsageError
from steercache.core.selection import Selection
from steercache.core.vectors import SteeringVector
from steercache.fit.blocks import refuse_non_finite, width_of
from steercache.fit.provenance import describe
from steercache.fit.shift import vector_name, wanted_layers
from steercache.fit.sides import FloatArray, LabelledSides, Recipe, check_recipe, split_sides
from steercache.fit.threads import fitting_threads

LayerFormula = Callable[[Selection, LabelledSides, int], FloatArray]
"""(selection, sides, layer) to a direction (d,)."""


def one_way(recipe: str, *, method: str) -> Recipe:
    """Raises UsageError for the recipe `paper` of a method that has one way of fitting, and for a recipe that there is not."""
    if check_recipe(recipe) != "default":
        raise UsageError(f"the method {method} has one way of fitting", hint="the recipe default")
    return "default"


def values_of(sel: Selection, sides: LabelledSides, *, layers: Sequence[int], formula: LayerFormula) -> FloatArray:
    """Directions (l, d) of a formula, layer by layer."""
    return np.stack([formula(sel, sides, layer) for layer in layers]).astype(np.float32)


def fitted_vector(
    sel: Selection,
    formula: LayerFormula,
    *,
    method: str,
    layers: Sequence[int] | None,
    name: str | None,
    params: Mapping[str, Any],
    check: Callable[[LabelledSides], None] = lambda sides: None,
) -> SteeringVector:
    """The vector of a formula at every layer, with its provenance; `check` refuses sides that the formula cannot use.

    Raises:
        UsageError: no two sides, an unknown layer, or what `check` raises. NonFiniteError: rows that are not finite.
    """
    wanted = wanted_layers(sel, layers)
    sides = split_sides(sel)
    check(sides)
    refuse_non_finite(sel, wanted)
    with fitting_threads(len(sel), width_of(sel)):
        values = values_of(sel, sides, layers=wanted, formula=formula)
    return SteeringVector(
        name=name or vector_name(sel, method, "default"),
        method=method,
        concept=sel.concept,
        site=sel.site,
        layers=wanted,
        values=values,
        provenance=describe(sel, sides, recipe="default", params=params, needs=("numpy", "ml_dtypes")),
        fitted_on=sel.fitted_on,
    )
