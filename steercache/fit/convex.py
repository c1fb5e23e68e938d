"""Our probe: logistic regression with an L2 penalty on standardised rows, which has one optimum; by scikit-learn's lbfgs."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from steercache.core.errors import MissingExtraError
from steercache.core.selection import Selection
from steercache.fit.folds import FoldArray, assign_folds, group_rows, usable_folds
from steercache.fit.reduce import all_the_same, fill_scaled, moments, span
from steercache.fit.scratch import scratch
from steercache.fit.sgd import unit
from steercache.fit.sides import BoolArray, LabelledSides

DoubleArray = npt.NDArray[np.float64]

# Inverse strength of the penalty on standardised dimensions; ties go to the strongest penalty.
STRENGTHS = (0.0001, 0.001, 0.01, 0.1, 1.0)
_UNCHOSEN = 0.01  # where there is one group only, so that nothing can be held out
_MAX_ITER = 5000
_TOL = 1e-5
_CHOICE_ROWS = 20_000  # the penalty is chosen on at most so many rows, evenly spaced


@dataclass(frozen=True, slots=True, kw_only=True)
class Logistic:
    """One fitted probe, on the matrix's own axes."""

    weights: DoubleArray
    intercept: float
    converged: bool


def fit_convex(
    sel: Selection, sides: LabelledSides, *, layer: int, strength: float | None, memory_mib: int
) -> tuple[npt.NDArray[np.float32], float, bool]:
    """The unit direction (d,) of one layer, the penalty's inverse strength C, and whether the solver converged.

    Rows are standardised (weighted mean and deviation per dimension), both sides weigh the same in total, and C is the one
    of STRENGTHS with the least held-out log loss over grouped folds unless `strength` gives it. The weights are mapped
    back to the residual stream (w / deviation) before they are brought to unit length. Memory: the rows in float64 once, in
    a temporary memory map beyond `memory_mib`.
    """
    mean, deviation = moments(sel, layer, sides.coef)
    weight = balanced(sides.coef, sides.label)
    with scratch((len(sel), len(mean)), memory_mib=memory_mib) as x_nd:
        fill_scaled(x_nd, sel, layer, mean_d=mean, scale_d=deviation)
        matrix, basis = span(x_nd) if len(sel) < len(mean) else (x_nd, None)
        if not matrix.any():  # also where it has no columns
            raise all_the_same(layer)
        if strength is None:
            strength = choose_strength(matrix, sel, sides)
        fitted = solve(matrix, sides.label, weight=weight, strength=strength)
        weights = fitted.weights if basis is None else basis @ fitted.weights
    return unit(weights / deviation), strength, fitted.converged


def choose_strength(matrix: DoubleArray, sel: Selection, sides: LabelledSides) -> float:
    """The C with the least balanced log loss on held-out groups: the first minimum from strong to weak penalty.

    The weaker the penalty, the longer the fit, so the search stops where the loss begins to rise.
    """
    fold = assign_folds(group_rows(sel, sides), sides.label)
    usable = usable_folds(fold, sides.label)
    if not usable:
        return _UNCHOSEN
    step = -(-len(sel) // _CHOICE_ROWS)
    best, least = STRENGTHS[0], np.inf
    for strength in STRENGTHS:
        loss = _held_out_loss(matrix[::step], sides, fold=fold, usable=usable, step=step, c=strength)
        if loss >= least:
            break
        best, least = strength, loss
    return best


def balanced(coef: npt.NDArray[np.float32], label: BoolArray) -> DoubleArray:
    """Row weights under which both sides weigh half the total (scikit-learn's class_weight="balanced")."""
    weight = coef.astype(np.float64)
    half = float(weight.sum()) / 2
    factor = np.where(label, half / float(weight[label].sum()), half / float(weight[~label].sum()))
    return weight * factor.astype(np.float64)


def solve(matrix: DoubleArray, label: BoolArray, *, weight: DoubleArray, strength: float) -> Logistic:
    """Minimise C * sum weight * log loss + |w|^2 / 2, with a free intercept."""
    linear_model, convergence_warning = _sklearn()
    model = linear_model.LogisticRegression(C=strength, solver="lbfgs", max_iter=_MAX_ITER, tol=_TOL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", convergence_warning)  # told by `converged`
        model.fit(matrix, label, sample_weight=weight)
    return Logistic(
        weights=model.coef_[0].astype(np.float64),
        intercept=float(model.intercept_[0]),
        converged=bool(model.n_iter_[0] < _MAX_ITER),
    )


def _held_out_loss(
    matrix: DoubleArray, sides: LabelledSides, *, fold: FoldArray, usable: tuple[int, ...], step: int, c: float
) -> float:
    label, fold, coef = sides.label[::step], fold[::step], sides.coef[::step]
    total = 0.0
    for f in usable:
        inside = fold == f
        if not _both(label[inside]) or not _both(label[~inside]):
            continue
        weight = np.zeros(len(label))
        weight[~inside] = balanced(coef[~inside], label[~inside])
        fitted = solve(matrix, label, weight=weight, strength=c)
        logits = matrix[inside] @ fitted.weights + fitted.intercept
        signed = np.where(label[inside], logits, -logits)
        total += float(balanced(coef[inside], label[inside]) @ np.logaddexp(0, -signed)) / float(coef[inside].sum())
    return total


def _both(label: BoolArray) -> bool:
    return 0 < int(np.count_nonzero(label)) < len(label)


def _sklearn() -> tuple[Any, Any]:
    try:
        from sklearn import linear_model
        from sklearn.exceptions import ConvergenceWarning
    except ImportError as error:
        raise MissingExtraError("the probe needs scikit-learn", hint="pip install 'steercache[fit]'") from error
    return linear_model, ConvergenceWarning
