"""The methods by name, and fitting a vector again from what it says about itself."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from steercache.core.errors import UsageError
from steercache.core.selection import QueryRecord, Selection
from steercache.core.vectors import SteeringVector
from steercache.fit import probe, shift
from steercache.fit.probe import linear_probe
from steercache.fit.shift import mean_shift

METHODS: dict[str, Callable[..., SteeringVector]] = {shift.METHOD: mean_shift, probe.METHOD: linear_probe}
"""The fitting functions by the name that a vector's `method` and its provenance keep."""


class SelectsRows(Protocol):
    """What `refit` needs of a session: `steercache.open(root)` has it."""

    def select(
        self, query: str, /, *, run: str | None = None, site: str = "resid_post", **bindings: Any
    ) -> Selection: ...


def refit(vector: SteeringVector, session: SelectsRows) -> SteeringVector:
    """Fit `vector` again from its provenance: the query's text, its bindings, the run and the recipe.

    On the same machine with the same versions and rows the values are the same bytes. Where they are not, the provenance of
    both says why: `rows.digest` (labels were mended), `generation` and `lossy`, `versions`.

    Raises:
        UsageError: the vector was not fitted by a method of this package (an imported or SAE vector), or
            its query no longer picks rows of its run.
    """
    made = vector.provenance
    if vector.method not in METHODS or not isinstance(made.get("query"), Mapping):
        raise UsageError(
            f"{vector.name!r} was made by {vector.method!r}, which cannot be fitted again from a query",
            hint=f"these can: {', '.join(METHODS)}",
        )
    query = made["query"]
    bindings = dict(query["bindings"])
    run = bindings.pop("run", None)  # bound only where the query's text asks for it
    sel = session.select(query["text"], run=run, site=vector.site, **bindings)
    if sel.run_id != made["run_id"]:
        raise UsageError(f"the query now selects rows of run {sel.run_id}, not of {made['run_id']}")
    record = QueryRecord(name=query["name"], text=query["text"], bindings=query["bindings"])
    sel = replace(sel, query=record, concept=vector.concept)
    options: dict[str, Any] = {"layers": vector.layers, "recipe": made["recipe"], "name": vector.name}
    if made.get("seed") is not None:
        options["seed"] = made["seed"]
    return METHODS[vector.method](sel, **options)


def differences(first: SteeringVector, second: SteeringVector) -> list[str]:
    """What differs between two fits, in words; [] when they are the same vector."""
    found = [] if first.values.tobytes() == second.values.tobytes() else ["values"]
    for key in sorted(set(first.provenance) | set(second.provenance)):
        a, b = first.provenance.get(key), second.provenance.get(key)
        if a != b:
            found.append(f"{key}: {a} -> {b}")
    return found
