"""The difference of means, whitened by the covariance inside the two sides; unit norm, pointing to the concept's side.

With m1 and m0 the (weighted) means of the sides and S = sum_i w_i (x_i - m_side)(x_i - m_side)^T / sum_i w_i:

lda: v ~ S_s^-1 (m1 - m0), S_s = (1 - s) S + s (tr S / d) I, the shrinkage s by Ledoit and Wolf (2004): linear discriminant
analysis, which is what scikit-learn's `LinearDiscriminantAnalysis(solver="lsqr", shrinkage=s)` gives.
mass_mean: v ~ S^+ (m1 - m0), eigenvalues up to 0.001 taken as zero: the probe of arXiv 2310.06824 (Marks and Tegmark), as in
its code. With fewer rows than dimensions it sees only the space that the rows span around their means; `lda` has no such hole.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from steercache.core.errors import UsageError
from steercache.core.selection import Selection
from steercache.core.vectors import SteeringVector
from steercache.fit.blocks import iter_rows, width_of
from steercache.fit.fitted import LayerFormula, fitted_vector, one_way
from steercache.fit.reduce import all_the_same
from steercache.fit.scratch import scratch
from steercache.fit.sides import FloatArray, LabelledSides, Recipe

LDA, MASS_MEAN = "lda", "mass_mean"
EIGENVALUES_FROM = 1e-3  # `atol` of the mass-mean probe's pseudo-inverse
MEMORY_MIB = 2048
_RANK_TOL = 1e-12
DoubleArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scatter:
    """What both formulas need: m1 - m0 (d,), eigenvalues (r,) and vectors (d, r) of S, and the shrinkage of Ledoit and Wolf."""

    shift_d: DoubleArray
    values_r: DoubleArray
    basis_dr: DoubleArray
    shrinkage: float


def lda(
    sel: Selection, *, layers: Sequence[int] | None = None, recipe: Recipe = "default", name: str | None = None
) -> SteeringVector:
    """Fit the direction of a linear discriminant analysis with Ledoit-Wolf shrinkage.

    Raises:
        UsageError: no two sides, rows that are all the same, an unknown layer or recipe.
        NonFiniteError: selected rows that are not finite.
    """
    one_way(recipe, method=LDA)
    return fitted_vector(sel, whitened_formula(LDA), method=LDA, layers=layers, name=name, params={})


def mass_mean(
    sel: Selection, *, layers: Sequence[int] | None = None, recipe: Recipe = "default", name: str | None = None
) -> SteeringVector:
    """Fit the mass-mean probe of arXiv 2310.06824: the pseudo-inverse of the covariance times the difference of means.

    Raises:
        UsageError: no two sides, rows that are all the same, an unknown layer or recipe.
        NonFiniteError: selected rows that are not finite.
    """
    one_way(recipe, method=MASS_MEAN)
    return fitted_vector(
        sel,
        whitened_formula(MASS_MEAN),
        method=MASS_MEAN,
        layers=layers,
        name=name,
        params={"eigenvalues_from": EIGENVALUES_FROM},
    )


def whitened_formula(method: str) -> LayerFormula:
    """The formula of one of the two methods."""

    def formula(sel: Selection, sides: LabelledSides, layer: int) -> FloatArray:
        found = within_sides(sel, sides, layer)
        inside_r = found.basis_dr.T @ found.shift_d
        if method == MASS_MEAN:
            keep = found.values_r > EIGENVALUES_FROM
            if not keep.any():
                raise UsageError(
                    f"at layer {layer} no direction inside the sides has a variance above {EIGENVALUES_FROM:g}, and the"
                    " mass-mean probe leaves out those below",
                    hint="the method lda, which has no such bound",
                )
            direction = found.basis_dr[:, keep] @ (inside_r[keep] / found.values_r[keep])
        else:
            direction = _shrunk(found, inside_r)
        norm = float(np.linalg.norm(direction))
        if not norm > 0:
            raise all_the_same(layer)
        return (direction / norm).astype(np.float32)

    return formula


def _shrunk(found: Scatter, inside_r: DoubleArray) -> DoubleArray:
    s = found.shrinkage
    floor = s * float(found.values_r.sum()) / len(found.shift_d)
    scaled: DoubleArray = found.basis_dr @ (inside_r / ((1 - s) * found.values_r + floor))
    if floor > 0:
        scaled = scaled + (found.shift_d - found.basis_dr @ inside_r) / floor
    return scaled


def within_sides(sel: Selection, sides: LabelledSides, layer: int) -> Scatter:
    """Means, covariance and shrinkage at one layer. Memory: rows in float64, in a temporary memory map beyond 2 GiB, and the
    smaller of (n, n) and (d, d).

    Raises:
        UsageError: all rows of each side are the same.
    """
    counted = np.flatnonzero(sides.coef > 0)
    label, coef = sides.label[counted], sides.coef[counted].astype(np.float64)
    n, width = len(counted), width_of(sel)
    place = np.full(len(sel), -1, np.int64)
    place[counted] = np.arange(n)
    with scratch((n, width), memory_mib=MEMORY_MIB) as x_nd:
        for part, rows in iter_rows(sel, layer):
            kept = place[part] >= 0
            x_nd[place[part][kept]] = rows[kept]
        means = [coef[side] @ x_nd[side] / coef[side].sum() for side in (~label, label)]
        for side, mean in zip((~label, label), means, strict=True):
            x_nd[side] -= mean
        x_nd *= np.sqrt(coef / coef.sum())[:, None]
        gram = x_nd @ x_nd.T if n < width else x_nd.T @ x_nd
        fourth = float(n * (np.einsum("nd,nd->n", x_nd, x_nd) ** 2).sum())
        values, vectors = np.linalg.eigh(gram)
        keep = values > max(values[-1], 0.0) * _RANK_TOL
        if not keep.any():
            raise all_the_same(layer)
        values = values[keep]
        basis = x_nd.T @ (vectors[:, keep] / np.sqrt(values)) if n < width else vectors[:, keep]
    return Scatter(
        shift_d=means[1] - means[0],
        values_r=values,
        basis_dr=basis,
        shrinkage=ledoit_wolf(values, fourth=fourth, n_rows=n, width=width),
    )


def ledoit_wolf(values_r: DoubleArray, *, fourth: float, n_rows: int, width: int) -> float:
    """Ledoit and Wolf's shrinkage (2004) towards (tr S / d) I, from the eigenvalues (r,) of S and the mean fourth power of
    row norms."""
    square, mean = float((values_r**2).sum()), float(values_r.sum()) / width
    distance = square - width * mean**2
    noise = (fourth - square) / n_rows
    return float(np.clip(noise / distance, 0, 1)) if distance > 0 else 1.0
