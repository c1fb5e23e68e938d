"""The methods by name, and fitting a vector again from what it says about itself."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from steercache.core.errors import UsageError
from steercache.core.recorded_rows import SelectsRows, rows_of
from steercache.core.selection import Selection
from steercache.core.vectors import LOCATED, SteeringVector
from steercache.fit.catalogue import CATALOGUE
from steercache.fit.catalogue import METHODS as METHODS
from steercache.fit.spread import RECIPE, SPREAD, spread


def refit(vector: SteeringVector, session: SelectsRows) -> SteeringVector:
    """Fit `vector` again from its provenance: the query's text, its bindings, the run and the recipe.

    On the same machine with the same versions and rows the values are the same bytes. Where they are not, the provenance of
    both says why: `rows.digest` (labels were mended), `generation` and `lossy`, `versions`.

    The query came with the vector's file: unless it is one that ships, it runs in a process of its own, within limits.

    Raises:
        UsageError: the vector was not fitted by a method of this package (an imported or SAE vector), or
            its query no longer picks rows of its run.
        QueryError: the query is not allowed, or reached a limit.
    """
    if vector.method not in METHODS:
        raise UsageError(
            f"{vector.name!r} was made by {vector.method!r}, which cannot be fitted again from a query",
            hint=f"these can: {', '.join(METHODS)}",
        )
    return fit_again(vector, rows_of(vector, session))


def fit_again(vector: SteeringVector, sel: Selection) -> SteeringVector:
    """A vector of the same method, recipe and options, fitted on `sel`."""
    fitted, made = METHODS[vector.method](sel, **fit_options(vector)), vector.provenance
    if RECIPE in made:
        fitted = replace(fitted, provenance=dict(fitted.provenance) | {RECIPE: made[RECIPE]})
    return spread(fitted, int(made[SPREAD])) if SPREAD in made else fitted


def fit_options(vector: SteeringVector) -> dict[str, Any]:
    """What the fitting function of a vector's method was called with, besides the rows."""
    made = vector.provenance
    options: dict[str, Any] = {"layers": vector.layers, "recipe": made.get("recipe"), "name": vector.name}
    params = {"seed": made.get("seed")} | dict(made.get("params") or {})
    method = CATALOGUE.get(vector.method)
    kept = method.options if method is not None else ()
    return options | {name: params[name] for name in kept if params.get(name) is not None}


def differences(first: SteeringVector, second: SteeringVector) -> list[str]:
    """What differs between two fits, in words; [] when they are the same vector."""
    found = [] if first.values.tobytes() == second.values.tobytes() else ["values"]
    for key in sorted((set(first.provenance) | set(second.provenance)) - {LOCATED}):
        a, b = first.provenance.get(key), second.provenance.get(key)
        if key == "saes":
            a, b = _identities(a), _identities(b)
        if a != b:
            found.append(f"{key}: {a} -> {b}")
    return found


def _identities(saes: Any) -> Any:
    """The ids of a vector's SAEs by layer: vectors of earlier versions say their names and places there, too."""
    if not isinstance(saes, Mapping) or not all(isinstance(one, Mapping) for one in saes.values()):
        return saes
    return {layer: one.get("sae_id") for layer, one in saes.items()}
