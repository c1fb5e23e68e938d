"""Linear probe: the direction along which a logistic regression tells the concept's rows from the others, at unit length."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from steercache.core.selection import Selection
from steercache.core.vectors import SteeringVector
from steercache.fit.blocks import refuse_non_finite, width_of
from steercache.fit.convex import STRENGTHS, fit_convex
from steercache.fit.provenance import describe
from steercache.fit.sgd import BATCH, EPOCHS, GRADIENT, LEARNING_RATE, fit_paper, n_components
from steercache.fit.shift import vector_name, wanted_layers
from steercache.fit.sides import LabelledSides, Recipe, check_recipe, split_sides
from steercache.fit.threads import fitting_threads

METHOD = "linear_probe"
MEMORY_MIB = 2048
FloatArray = npt.NDArray[np.float32]


def linear_probe(
    sel: Selection,
    *,
    layers: Sequence[int] | None = None,
    recipe: Recipe = "default",
    name: str | None = None,
    seed: int = 0,
    memory_mib: int = MEMORY_MIB,
) -> SteeringVector:
    """Fit a probe at every layer; unit norm, pointing to the concept's side.

    "default" is a convex fit with a chosen penalty (`fit.convex`), "paper" the recipe of arXiv 2505.14071 in
    its float32 arithmetic, whose gradient vanishes for rows wrong by a wide margin (`fit.sgd` gives the formula). What
    is larger than `memory_mib` goes through a temporary file; the bytes of the result do not depend on it. `seed` is the
    paper recipe's only source of randomness.

    Raises:
        UsageError: no two sides, an unknown layer or recipe, a weighted selection under "paper".
        NonFiniteError: selected rows that are not finite.
        MissingExtraError: scikit-learn is not installed ("default").
    """
    recipe = check_recipe(recipe)
    wanted = wanted_layers(sel, layers)
    sides = split_sides(sel, recipe=recipe)
    refuse_non_finite(sel, wanted)
    with fitting_threads(len(sel), width_of(sel)):
        if recipe == "paper":
            values, params = _paper(sel, sides, layers=wanted, seed=seed, memory_mib=memory_mib)
        else:
            values, params = _convex(sel, sides, layers=wanted, memory_mib=memory_mib)
    needs = ("numpy", "ml_dtypes") if recipe == "paper" else ("numpy", "ml_dtypes", "scipy", "scikit-learn")
    return SteeringVector(
        name=name or vector_name(sel, METHOD, recipe),
        method=METHOD,
        concept=sel.concept,
        site=sel.site,
        layers=wanted,
        values=values,
        provenance=describe(sel, sides, recipe=recipe, params=params, needs=needs),
        fitted_on=sel.fitted_on,
    )


def _paper(
    sel: Selection, sides: LabelledSides, *, layers: tuple[int, ...], seed: int, memory_mib: int
) -> tuple[FloatArray, dict[str, Any]]:
    values = fit_paper(sel, sides, layers=layers, seed=seed, memory_mib=memory_mib)
    params: dict[str, Any] = {"seed": seed, "n_components": n_components(sel)}
    params |= {"learning_rate": LEARNING_RATE, "epochs": EPOCHS, "batch": BATCH, "gradient": GRADIENT}
    return values, params


def _convex(
    sel: Selection, sides: LabelledSides, *, layers: tuple[int, ...], memory_mib: int
) -> tuple[FloatArray, dict[str, Any]]:
    fits = [fit_convex(sel, sides, layer=layer, strength=None, memory_mib=memory_mib) for layer in layers]
    params = {"strengths": list(STRENGTHS), "strength": [strength for _, strength, _ in fits]}
    unconverged = [layer for layer, (_, _, converged) in zip(layers, fits, strict=True) if not converged]
    return np.stack([direction for direction, _, _ in fits]), params | {"unconverged_layers": unconverged}
