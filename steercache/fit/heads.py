"""Inference-time intervention (arXiv 2306.03341): directions at the attention heads that tell the two sides apart best.

Rows are of the site `head_out`: the outputs of a block's heads side by side. At every head of every layer a logistic regression
is fitted (scikit-learn's, C = 1, as in the paper's code) and scored by its accuracy on held-out rows; here these are grouped
folds, and both sides weigh the same. The `top` heads with the highest accuracy are kept. At a head with rows x, u is the
difference of the sides' means at length 1 and s the standard deviation of x . u over all rows; the vector holds s u at the kept
heads and 0 at the others, so that strength 15 is the paper's alpha = 15.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from steercache.core.errors import UsageError
from steercache.core.selection import Selection
from steercache.core.vectors import SteeringVector
from steercache.fit.blocks import refuse_non_finite, width_of
from steercache.fit.convex import Logistic, balanced, solve
from steercache.fit.fitted import one_way
from steercache.fit.folds import assign_folds, group_rows, usable_folds
from steercache.fit.provenance import describe
from steercache.fit.shift import vector_name, wanted_layers
from steercache.fit.sides import BoolArray, FloatArray, LabelledSides, Recipe, split_sides
from steercache.fit.threads import fitting_threads

METHOD = "head_probes"
SITE: Final = "head_out"
TOP = 48
DoubleArray = npt.NDArray[np.float64]


def head_probes(
    sel: Selection,
    *,
    layers: Sequence[int] | None = None,
    recipe: Recipe = "default",
    name: str | None = None,
    top: int = TOP,
    n_heads: int | None = None,
) -> SteeringVector:
    """Fit directions at the `top` heads; the vector has the layers that hold one of them.

    `n_heads` is how many heads a block has, by default what the run says. The heads with their held-out accuracy stand in the
    provenance: `params.heads`, [layer, head, accuracy], best first.

    Raises:
        UsageError: rows of another site, a number of heads that is not known or does not divide their width, nothing that can
            be held out, no two sides, an unknown layer or recipe. NonFiniteError: selected rows that are not finite.
        MissingExtraError: scikit-learn is not installed.
    """
    one_way(recipe, method=METHOD)
    n_heads = _checked_heads(sel, n_heads)
    if top < 1:
        raise UsageError(f"the best {top} heads", hint="at least 1")
    wanted = wanted_layers(sel, layers)
    sides = split_sides(sel)
    refuse_non_finite(sel, wanted)
    with fitting_threads(len(sel), width_of(sel)):
        accuracy_lh = np.stack([head_accuracies(sel, sides, layer, n_heads=n_heads) for layer in wanted])
        order = np.argsort(-accuracy_lh, axis=None, kind="stable")[:top]
        best = [(wanted[at // n_heads], int(at % n_heads), float(accuracy_lh.flat[at])) for at in order]
        kept = tuple(sorted({layer for layer, _, _ in best}))
        values = head_values(sel, sides, layers=kept, heads=best, n_heads=n_heads)
    params = {"top": top, "n_heads": n_heads, "heads": [list(one) for one in best]}
    return SteeringVector(
        name=name or vector_name(sel, METHOD, "default"),
        method=METHOD,
        concept=sel.concept,
        site=sel.site,
        layers=kept,
        values=values,
        provenance=describe(
            sel, sides, recipe="default", params=params, needs=("numpy", "ml_dtypes", "scipy", "scikit-learn")
        ),
        fitted_on=sel.fitted_on,
    )


def head_accuracies(sel: Selection, sides: LabelledSides, layer: int, *, n_heads: int) -> DoubleArray:
    """Held-out accuracy of a probe at every head of one layer, shape (h,): mean over folds, both sides weighing the same.

    Raises:
        UsageError: nothing can be held out.
    """
    fold = assign_folds(group_rows(sel, sides), sides.label)
    usable = usable_folds(fold, sides.label)
    if not usable:
        raise UsageError(
            "no rows can be held out, so heads cannot be compared: all sentences share an anchor word, or there is one pair",
            hint="more sentences or pairs",
        )
    x_nhw = _by_head(sel.gather(layer), n_heads)
    accuracy = np.zeros((len(usable), n_heads))
    for at, f in enumerate(usable):
        train, test = fold != f, fold == f
        weight = balanced(sides.coef[test], sides.label[test])
        for head in range(n_heads):
            probe = _probe(x_nhw[:, head], sides, train)
            predicted = x_nhw[test, head] @ probe.weights + probe.intercept > 0
            accuracy[at, head] = weight @ (predicted == sides.label[test]) / weight.sum()
    mean: DoubleArray = accuracy.mean(axis=0)
    return mean


def head_values(
    sel: Selection,
    sides: LabelledSides,
    *,
    layers: Sequence[int],
    heads: Sequence[tuple[int, int, float]],
    n_heads: int,
) -> FloatArray:
    """s u at each of the `heads` (layer, head, accuracy), 0 elsewhere; shape (l, d)."""
    values = np.zeros((len(layers), width_of(sel)))
    coef_2n = sides.coef_2n().astype(np.float64)
    share = coef_2n / coef_2n.sum(axis=1, keepdims=True)
    for i, layer in enumerate(layers):
        x_nhw = _by_head(sel.gather(layer).astype(np.float64), n_heads)
        for head in (head for at, head, _ in heads if at == layer):
            x_nw = x_nhw[:, head]
            shift = share[0] @ x_nw - share[1] @ x_nw
            norm = float(np.linalg.norm(shift))
            if norm > 0:
                unit = shift / norm
                _by_head(values[i : i + 1], n_heads)[0, head] = (x_nw[sides.coef > 0] @ unit).std() * unit
    return values.astype(np.float32)


def heads_of_provenance(made: Mapping[str, Any]) -> tuple[list[tuple[int, int, float]], int]:
    """The heads (layer, head, accuracy) of a vector, and how many a block has."""
    params = made.get("params") or {}
    return [(int(a), int(b), float(c)) for a, b, c in params["heads"]], int(params["n_heads"])


def _checked_heads(sel: Selection, n_heads: int | None) -> int:
    if sel.site != SITE:
        raise UsageError(
            f"heads are probed on rows of the site {SITE}, and these are of {sel.site}",
            place=f"run {sel.run_id}",
            hint=f"trace with the site {SITE}, and select its rows",
        )
    n_heads = n_heads or sel.n_heads
    if n_heads is None:
        raise UsageError("how many attention heads a block has is not known", hint="give n_heads")
    if n_heads < 1 or width_of(sel) % n_heads:
        raise UsageError(f"rows of {width_of(sel)} values are not the outputs of {n_heads} heads of one width")
    return n_heads


def _by_head(x_nd: npt.NDArray[Any], n_heads: int) -> npt.NDArray[Any]:
    return x_nd.reshape(len(x_nd), n_heads, -1)


def _probe(x_nw: npt.NDArray[Any], sides: LabelledSides, train: BoolArray) -> Logistic:
    """The logistic regression of one head on some rows."""
    weight = balanced(np.where(train, sides.coef, 0).astype(np.float32), sides.label)
    rows = np.flatnonzero(weight > 0)
    return solve(x_nw[rows].astype(np.float64), sides.label[rows], weight=weight[rows], strength=1.0)
