"""The first principal component of what differs within pairs, unit norm, pointing to the concept's side.

d_i is the difference of pair i (`fit.pairs`): of a contrastive pair, or of a sentence's anchors and controls. The sign is
that of most pairs (a tie: of the mean difference).

pca_diff: PCA of d_i with their mean taken away, as repeng 0.4 does it by default. The mean is what `mean_shift` is, so this
is a direction in which the differences vary, and not what they have in common.
pca_center: PCA of both sides' rows around the middle of their pair (repeng's `pca_center`, the `pca_aggregator` of
steering-vectors, `pca_pairwise` of IBM's activation-steering): the first eigenvector of sum_i d_i d_i^T. (steering-vectors
takes the sign of the mean difference.)
lat: reading vectors of representation engineering (arXiv 2310.01405): every pair in an order drawn by chance, so that d_i
stands with a random sign; PCA of these with their mean taken away; labels are used for the sign of the result only.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from steercache.core.errors import UsageError
from steercache.core.selection import Selection
from steercache.core.vectors import SteeringVector
from steercache.fit.fitted import LayerFormula, fitted_vector, one_way
from steercache.fit.pairs import differences, refuse_unpaired
from steercache.fit.sides import FloatArray, LabelledSides, Recipe

PCA_DIFF, PCA_CENTER, LAT = "pca_diff", "pca_center", "lat"
DoubleArray = npt.NDArray[np.float64]


def pca_diff(
    sel: Selection, *, layers: Sequence[int] | None = None, recipe: Recipe = "default", name: str | None = None
) -> SteeringVector:
    """Fit the first principal component of the differences of pairs, their mean taken away (repeng).

    Raises:
        UsageError: no two sides, fewer than two pairs, differences that are all the same, an unknown layer or recipe.
        NonFiniteError: selected rows that are not finite.
    """
    one_way(recipe, method=PCA_DIFF)
    return _fit(sel, PCA_DIFF, layers=layers, name=name)


def pca_center(
    sel: Selection, *, layers: Sequence[int] | None = None, recipe: Recipe = "default", name: str | None = None
) -> SteeringVector:
    """Fit the first principal component of rows around the middle of their pair (repeng, steering-vectors).

    Raises:
        UsageError: no two sides, fewer than two pairs, differences that are all zero, an unknown layer or recipe.
        NonFiniteError: selected rows that are not finite.
    """
    one_way(recipe, method=PCA_CENTER)
    return _fit(sel, PCA_CENTER, layers=layers, name=name)


def lat(
    sel: Selection,
    *,
    layers: Sequence[int] | None = None,
    recipe: Recipe = "default",
    name: str | None = None,
    seed: int = 0,
) -> SteeringVector:
    """Fit a reading vector of representation engineering (arXiv 2310.01405); `seed` draws the order within each pair.

    Raises:
        UsageError: no two sides, fewer than two pairs, differences that are all the same, an unknown layer or recipe.
        NonFiniteError: selected rows that are not finite.
    """
    one_way(recipe, method=LAT)
    return _fit(sel, LAT, layers=layers, name=name, seed=seed)


def pca_formula(method: str, *, seed: int = 0) -> LayerFormula:
    """The formula of one of the three methods."""

    def formula(sel: Selection, sides: LabelledSides, layer: int) -> FloatArray:
        found = differences(sel, sides, layer)
        if len(found) < 2:
            raise UsageError(f"fewer than two pairs are left at layer {layer}")
        sign_p = _signs(sides.n_units, seed)[found.unit_p] if method == LAT else np.ones(len(found))
        x_pd = found.values_pd * sign_p[:, None]
        weight = found.weight_p / found.weight_p.sum()
        if method != PCA_CENTER:
            x_pd = x_pd - weight @ x_pd
        direction = first_component(x_pd * np.sqrt(weight)[:, None])
        if direction is None:
            raise UsageError(
                f"the differences of all pairs are the same at layer {layer}, so they have no principal component",
                hint="mean_shift takes what they have in common",
            )
        return (direction * _side(found.values_pd, weight, direction)).astype(np.float32)

    return formula


def first_component(x_nd: DoubleArray) -> DoubleArray | None:
    """The unit eigenvector (d,) of X^T X with the largest eigenvalue, its sign open; None where X is zero (or rounding)."""
    n, d = x_nd.shape
    gram = x_nd @ x_nd.T if n < d else x_nd.T @ x_nd
    values, vectors = np.linalg.eigh(gram)
    top: DoubleArray = x_nd.T @ vectors[:, -1] if n < d else vectors[:, -1]
    norm = float(np.linalg.norm(top))
    return top / norm if values[-1] > 0 and norm > 0 else None


def _signs(n_units: int, seed: int) -> DoubleArray:
    drawn = np.random.Generator(np.random.PCG64(seed)).integers(0, 2, n_units)
    return (2 * drawn - 1).astype(np.float64)


def _side(values_pd: DoubleArray, weight_p: DoubleArray, direction_d: DoubleArray) -> float:
    """1 or -1: the sign with which most pairs' differences point along the direction."""
    along = values_pd @ direction_d
    votes = float(weight_p @ np.sign(along)) or float(weight_p @ along)
    return -1.0 if votes < 0 else 1.0


def _fit(
    sel: Selection, method: str, *, layers: Sequence[int] | None, name: str | None, seed: int | None = None
) -> SteeringVector:
    return fitted_vector(
        sel,
        pca_formula(method, seed=seed or 0),
        method=method,
        layers=layers,
        name=name,
        params={} if seed is None else {"seed": seed},
        check=lambda sides: refuse_unpaired(sel, sides, method=method),
    )
