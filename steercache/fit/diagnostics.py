"""Diagnostics of a fitted vector from its rows: separation (AUC), that of the token identity alone, norm, stability."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from steercache.core.errors import UsageError
from steercache.core.ids import SHORT_ID
from steercache.core.selection import Selection
from steercache.core.vectors import SteeringVector
from steercache.fit import heads, probe, shift
from steercache.fit.blocks import iter_rows, refuse_non_finite
from steercache.fit.bootstrap import Fit, draw_counts, refit_draws, shift_draws
from steercache.fit.catalogue import CATALOGUE
from steercache.fit.compare import cosine
from steercache.fit.convex import fit_convex
from steercache.fit.fitted import values_of
from steercache.fit.folds import FoldArray, assign_folds, group_rows, usable_folds, without
from steercache.fit.provenance import rows_digest
from steercache.fit.scores import fold_aucs, fold_interval, token_scores
from steercache.fit.separation import difference_spread, fold_d_prime
from steercache.fit.sgd import fit_paper
from steercache.fit.sides import FloatArray, LabelledSides, check_recipe, split_sides
from steercache.fit.spread import SPREAD
from steercache.fit.threads import fitting_threads

DoubleArray = npt.NDArray[np.float64]
_INTERVAL = (2.5, 97.5)


def diagnose(
    sel: Selection,
    vector: SteeringVector,
    *,
    others: Sequence[SteeringVector] = (),
    n_draws: int | None = None,
    seed: int = 0,
) -> SteeringVector:
    """`vector` with diagnostics per layer; `sel` is the selection it was fitted on.

    auc: mean over folds of the AUC on held-out groups, of a direction fitted without them (`held_out` False: the method
    cannot be fitted here, so the finished vector is scored on all rows); auc_low, auc_high: its 95 % interval over folds
    (`scores.fold_interval`). d_prime: distance of the sides' held-out means in deviations (`separation.d_prime`).
    difference_cosine, difference_cosine_std and wrong_way: how alike the differences within pairs are, held out too
    (`separation.difference_spread`). token_auc: AUC of a classifier that knows only the token id. norm, resid_norm (median row,
    position 0 left out): Euclidean; norm_ratio: their quotient. stability: mean cosine between the vector and fits on
    sentences drawn again, with a 95 % interval. cosine: to each of `others` that has the layer.
    A number that cannot be had is None. A probe keeps the penalty that was chosen on all rows.

    Raises:
        UsageError: the vector was not fitted on this selection (another run, site or rows, or layers that it lacks).
    """
    if sel.run_id != vector.provenance.get("run_id", sel.run_id) or sel.site != vector.site:
        raise UsageError(f"the selection is of run {sel.run_id}, {sel.site}; {vector.name!r} was not fitted on it")
    if (fitted_on := (vector.provenance.get("rows") or {}).get("digest")) not in (None, rows_digest(sel)):
        raise UsageError(
            f"{vector.name!r} was fitted on other rows of this run ({str(fitted_on)[:SHORT_ID]})",
            hint="give the selection that it was fitted on",
        )
    shift.wanted_layers(sel, vector.layers)
    refuse_non_finite(sel, vector.layers)
    recipe = check_recipe(vector.provenance.get("recipe", "default"))
    sides = split_sides(sel, recipe=recipe)
    fit = fold_fit(sel, vector)
    groups = group_rows(sel, sides)
    fold = assign_folds(groups, sides.label)
    usable = usable_folds(fold, sides.label)
    token_aucs = fold_aucs(token_scores(sel.token_id, sides.label, fold=fold), sides.label, fold=fold, usable=usable)
    with fitting_threads(len(sel), vector.hidden_size):
        directions_fld = fold_directions(vector, sides, fit=fit, fold=fold)
        stability = _stability(sel, sides, vector=vector, fit=fit, draws=(n_draws, seed))
    measured = []
    for i, layer in enumerate(vector.layers):
        scores, norms = _scores_and_norms(sel, layer, fold=fold, directions_fd=directions_fld[:, i])
        resid_norm = _median(norms[sel.position != 0])
        norm = float(vector.norms[i])
        aucs = fold_aucs(scores, sides.label, fold=fold, usable=usable)
        low, high = fold_interval(aucs)
        measured.append(
            {
                "layer": layer,
                "auc": _mean(aucs),
                "auc_low": low,
                "auc_high": high,
                "d_prime": fold_d_prime(scores, sides.label, fold=fold, usable=usable),
                "token_auc": _mean(token_aucs),
                "held_out": fit is not None,
                "n_folds": len(usable),
                "n_groups": int(groups.max()) + 1,
                "norm": norm,
                "resid_norm": resid_norm,
                "norm_ratio": norm / resid_norm if resid_norm else None,
                **difference_spread(sel, sides, layer=layer, fold=fold, directions_fd=directions_fld[:, i]),
                **stability[i],
                "cosine": {o.name: cosine(vector.at(layer), o.at(layer)) for o in others if layer in o.layers},
            }
        )
    return replace(vector, diagnostics=tuple(measured))


def fold_fit(sel: Selection, vector: SteeringVector) -> Fit | None:
    """The vector's own way of fitting, as a function of the sides; None for a method that is not one of `fit`."""
    made: Mapping[str, Any] = vector.provenance
    params: Mapping[str, Any] = made.get("params") or {}
    if SPREAD in made:
        one = fold_fit(sel, _layer_alone(vector, int(made[SPREAD])))
        return None if one is None else lambda sides: np.repeat(one(sides), len(vector.layers), axis=0)
    if vector.method == shift.METHOD:
        return lambda sides: shift.shift_values(sel, sides, layers=vector.layers)
    method = CATALOGUE.get(vector.method)
    if method is not None and method.formula_of is not None:
        formula = method.formula_of(int(made.get("seed") or 0))
        return lambda sides: values_of(sel, sides, layers=vector.layers, formula=formula)
    if vector.method == heads.METHOD:  # the heads were chosen on all rows, as a probe's penalty is
        best, n_heads = heads.heads_of_provenance(made)
        return lambda sides: heads.head_values(sel, sides, layers=vector.layers, heads=best, n_heads=n_heads)
    if vector.method != probe.METHOD:
        return None
    if made.get("recipe") == "paper":
        seed = int(made.get("seed") or 0)
        return lambda sides: fit_paper(sel, sides, layers=vector.layers, seed=seed, memory_mib=probe.MEMORY_MIB)
    strengths = dict(zip(vector.layers, params["strength"], strict=True))
    return lambda sides: np.stack(
        [
            fit_convex(sel, sides, layer=layer, strength=c, memory_mib=probe.MEMORY_MIB)[0]
            for layer, c in strengths.items()
        ]
    )


def _layer_alone(vector: SteeringVector, layer: int) -> SteeringVector:
    made = {key: value for key, value in vector.provenance.items() if key != SPREAD}
    return replace(vector, layers=(layer,), values=vector.at(layer)[None], provenance=made, use=None)


def fold_directions(vector: SteeringVector, sides: LabelledSides, *, fit: Fit | None, fold: FoldArray) -> FloatArray:
    """The direction that scores each fold, shape (folds, l, d): fitted on the other folds where that can be."""
    rows = []
    for f in range(int(fold.max()) + 1):
        rest = without(sides, fold == f)
        can = fit is not None and rest.coef[rest.label].any() and rest.coef[~rest.label].any()
        rows.append(fit(rest) if fit is not None and can else vector.values)
    return np.stack(rows)


def _scores_and_norms(
    sel: Selection, layer: int, *, fold: FoldArray, directions_fd: FloatArray
) -> tuple[DoubleArray, DoubleArray]:
    """Each row's projection on the direction of its fold, and its norm; both (n,)."""
    scores, norms = np.empty(len(sel)), np.empty(len(sel))
    for part, rows in iter_rows(sel, layer):
        scores[part] = (rows @ directions_fd.T)[np.arange(len(rows)), fold[part]]
        norms[part] = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
    return scores, norms


def _stability(
    sel: Selection, sides: LabelledSides, *, vector: SteeringVector, fit: Fit | None, draws: tuple[int | None, int]
) -> list[dict[str, Any]]:
    wanted, seed = draws
    usual = CATALOGUE[vector.method].n_draws if vector.method in CATALOGUE else 0
    n_draws = usual if wanted is None else wanted
    if fit is None or n_draws == 0:
        return [_summary([], vector.at(layer)) for layer in vector.layers]
    counts = draw_counts(sides.n_units, n_draws=n_draws, seed=seed)
    if vector.method == shift.METHOD:
        spread_from = vector.provenance.get(SPREAD)
        layers = vector.layers if spread_from is None else (int(spread_from),)
        found = [
            _summary(list(shift_draws(sel, sides, layer=layer, counts_bu=counts)), vector.at(layer)) for layer in layers
        ]
        return found if spread_from is None else found * len(vector.layers)
    drawn = refit_draws(sides, counts_bu=counts, fit=fit)
    return [_summary([d[i] for d in drawn], vector.at(layer)) for i, layer in enumerate(vector.layers)]


def _summary(drawn: Sequence[npt.NDArray[Any]], direction: FloatArray) -> dict[str, Any]:
    cosines = [c for d in drawn if (c := cosine(d.astype(np.float32), direction)) is not None]
    low, high = np.percentile(cosines, _INTERVAL) if cosines else (None, None)
    return {
        "stability": _mean(cosines),
        "stability_low": None if low is None else float(low),
        "stability_high": None if high is None else float(high),
        "n_draws": len(cosines),
    }


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _median(values: DoubleArray) -> float | None:
    return float(np.median(values)) if len(values) else None
