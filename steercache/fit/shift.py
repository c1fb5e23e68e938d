"""Mean shift: the mean of the concept's rows minus the mean of the others, not normalised (arXiv 2505.14071)."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from steercache.core.errors import UsageError
from steercache.core.selection import Selection
from steercache.core.vectors import SteeringVector
from steercache.fit.blocks import NonFiniteError, plan_blocks, refuse_non_finite, weighted_sums, width_of
from steercache.fit.provenance import describe
from steercache.fit.sides import FloatArray, LabelledSides, Recipe, check_recipe, split_sides
from steercache.fit.threads import layer_threads, one_blas_thread

METHOD = "mean_shift"


def mean_shift(
    sel: Selection, *, layers: Sequence[int] | None = None, recipe: Recipe = "default", name: str | None = None
) -> SteeringVector:
    """Fit mean(concept rows) - mean(other rows) at every layer.

    "default" averages within a pair first where the selection has pairs, and uses weights; "paper" pools all rows of a side.
    Without pairs and weights both are the same numbers. Memory: one block of rows, whatever the selection's size.

    Raises:
        UsageError: no two sides, an unknown layer or recipe (see `split_sides`).
        NonFiniteError: selected rows that are not finite, at whichever of the layers.
    """
    recipe = check_recipe(recipe)
    wanted = wanted_layers(sel, layers)
    sides = split_sides(sel, recipe=recipe)
    return SteeringVector(
        name=name or vector_name(sel, METHOD, recipe),
        method=METHOD,
        concept=sel.concept,
        site=sel.site,
        layers=wanted,
        values=_values(sel, sides, layers=wanted),
        provenance=describe(sel, sides, recipe=recipe, params={}, needs=("numpy", "ml_dtypes")),
        fitted_on=sel.fitted_on,
    )


def _values(sel: Selection, sides: LabelledSides, *, layers: tuple[int, ...]) -> FloatArray:
    """As `shift_values`; what it finds wrong with one layer is counted at all."""
    try:
        return shift_values(sel, sides, layers=layers)
    except NonFiniteError:
        refuse_non_finite(sel, layers)
        raise


def shift_values(sel: Selection, sides: LabelledSides, *, layers: tuple[int, ...]) -> FloatArray:
    """Mean of one side minus mean of the other, shape (l, d); layers side by side on as many threads as pay."""
    coef_2n = sides.coef_2n()
    total_2 = coef_2n.sum(axis=1, dtype=np.float64)
    width = width_of(sel)
    blocks = plan_blocks(sel.rows, coef_2n, width=width)
    values_ld = np.empty((len(layers), width), np.float32)
    with one_blas_thread(), ThreadPoolExecutor(layer_threads(len(layers)), "steercache-fit") as pool:
        for i, sums_2d in enumerate(pool.map(lambda layer: weighted_sums(sel, layer, blocks), layers)):
            means_2d = sums_2d / total_2[:, None]
            values_ld[i] = means_2d[0] - means_2d[1]
    return values_ld


def wanted_layers(sel: Selection, layers: Sequence[int] | None) -> tuple[int, ...]:
    """The layers to fit, ascending; all that the run kept by default. Raises UsageError for one that it did not keep."""
    kept = sel.layers
    if layers is None:
        return kept
    unknown = sorted(set(layers) - set(kept))
    if unknown or not layers:
        raise UsageError(
            f"no layer {', '.join(map(str, unknown))}" if unknown else "no layers were asked for",
            place=f"run {sel.run_id}, site {sel.site}",
            hint=f"choose among: {', '.join(map(str, kept))}",
        )
    return tuple(sorted(set(layers)))


def vector_name(sel: Selection, method: str, recipe: Recipe) -> str:
    """The default name: the concept, with what is not the default way of fitting behind it."""
    stem = sel.concept or sel.query.name or "vector"
    suffix = ("" if method == METHOD else f"-{method.removeprefix('linear_').replace('_', '-')}") + (
        "" if recipe == "default" else "-paper"
    )
    return f"{stem}{suffix}"
