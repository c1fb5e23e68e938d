"""Numbers of a fit that tell beforehand how well a vector will steer: spread of training differences, distance of the sides.

Braun et al. 2025 (arXiv 2505.22637) find that vectors steer more reliably where the differences of the training pairs point the
same way and the two sides lie far apart along the vector; Tan et al. 2024 (arXiv 2407.12404) count the samples that move the
wrong way.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from steercache.core.selection import Selection
from steercache.fit.folds import FoldArray
from steercache.fit.pairs import differences, paired_units
from steercache.fit.sides import BoolArray, FloatArray, LabelledSides

DoubleArray = npt.NDArray[np.float64]
_MOST_UNITS = 2000  # pairs looked at, evenly spaced


def d_prime(scores: DoubleArray, label: BoolArray) -> float | None:
    """Discriminability d' = (m1 - m0) / sqrt((s1^2 + s0^2) / 2) of scores (n,): distance of the two sides' means in deviations.

    Green and Swets 1966; used for steering vectors by arXiv 2505.22637. None where neither side varies.

    >>> d_prime(np.array([3.0, 5.0, 0.0, 2.0]), np.array([True, True, False, False]))
    3.0
    """
    one, other = scores[label], scores[~label]
    spread = float(np.sqrt((one.var() + other.var()) / 2))
    return float(one.mean() - other.mean()) / spread if spread > 0 else None


def fold_d_prime(scores: DoubleArray, label: BoolArray, *, fold: FoldArray, usable: Sequence[int]) -> float | None:
    """Mean over usable folds of d' inside the fold, whose direction was fitted without it."""
    found = [d_prime(scores[fold == f], label[fold == f]) for f in usable]
    known = [one for one in found if one is not None]
    return float(np.mean(known)) if known else None


def difference_spread(
    sel: Selection, sides: LabelledSides, *, layer: int, fold: FoldArray, directions_fd: FloatArray
) -> dict[str, float | None]:
    """How alike the training differences are: a pair's difference d_i, and the direction v that was fitted without it.

    difference_cosine and difference_cosine_std: mean and standard deviation over pairs of cos(d_i, v) (arXiv 2505.22637,
    directional agreement); wrong_way: share of pairs with d_i . v < 0, a tie counting half (after arXiv 2407.12404, which
    counts samples whose answer moves the wrong way). Pairs are those of the selection, else sentences with rows of both sides;
    of more than 2,000 as many, evenly spaced. None where there is no such pair.
    """
    units = paired_units(sides)
    units = units[:: -(-len(units) // _MOST_UNITS)] if len(units) else units
    cosines: DoubleArray = np.empty(0)
    signs: DoubleArray = np.empty(0)
    if len(units):
        fold_of_unit = np.zeros(sides.n_units, np.int64)
        fold_of_unit[sides.unit] = fold
        values_pd = differences(sel, sides, layer, units=units).values_pd
        along_pd = directions_fd[fold_of_unit[units]].astype(np.float64)
        dots = np.einsum("pd,pd->p", values_pd, along_pd)
        norms = np.linalg.norm(values_pd, axis=1) * np.linalg.norm(along_pd, axis=1)
        cosines, signs = dots[norms > 0] / norms[norms > 0], np.sign(dots)
    return {
        "difference_cosine": float(cosines.mean()) if len(cosines) else None,
        "difference_cosine_std": float(cosines.std()) if len(cosines) else None,
        "wrong_way": float(((signs < 0) + (signs == 0) / 2).mean()) if len(signs) else None,
    }
