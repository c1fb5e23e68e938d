"""The features that an SAE vector's fit considered, as rows of the index: made from the vector's file alone."""

from collections.abc import Mapping
from typing import Any, Final

from steercache.core.vectors import SteeringVector

_TYPES: Final[Mapping[str, tuple[str, type]]] = {  # column of the index: column of the provenance, and its type
    "feature_idx": ("feature", int),
    "rank": ("rank", int),
    "score": ("score", float),
    "hits": ("n_sentences", int),
    "n_sentences": ("n_sentences", int),
    "rate_anchor": ("rate_anchor", float),
    "rate_control": ("rate_control", float),
    "p": ("p", float),
    "q": ("q", float),
    "picked": ("picked", bool),
    "selected": ("selected", bool),
    "verdict": ("verdict", str),
    "judge": ("judge", str),
    "prompt_version": ("prompt_version", int),
    "verdict_digest": ("verdict_digest", str),
    "explanation": ("explanation", str),
    "reason": ("reason", str),
}
_INTEGER: Final = 2**31  # of the index's columns
_FLOAT: Final = 3.4e38  # theirs are of 32 bits


def feature_rows(vector: SteeringVector) -> list[dict[str, Any]]:
    """A vector as rows of `features`, one per layer and feature; [] for a vector that is of no SAE.

    Provenance is free JSON, of other programs too: what is of another shape or type than here is left out.
    """
    made = vector.provenance
    by_layer, saes, params = (made.get(name) for name in ("features", "saes", "params"))
    if vector.method != "sae" or not isinstance(by_layer, Mapping) or not isinstance(saes, Mapping):
        return []
    head = {
        "vector_id": vector.vector_id,
        "concept": typed(vector.concept, str),
        "run_id": typed(made.get("run_id"), str),
        "selection": typed(params.get("selection"), str) if isinstance(params, Mapping) else None,
    }
    rows = []
    for layer, columns in by_layer.items():
        spec = saes.get(layer)
        sae_id = typed(spec.get("sae_id"), str) if isinstance(spec, Mapping) else None
        if sae_id is None or not layer.isdecimal() or int(layer) >= _INTEGER or not isinstance(columns, Mapping):
            continue
        of_layer = [head | {"sae_id": sae_id, "layer": int(layer)} | row for row in _rows(columns)]
        n_selected = sum(row["selected"] is True for row in of_layer)
        rows += [row | {"weight": 1 / n_selected if row["selected"] is True else None} for row in of_layer]
    return rows


def _rows(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The columns of one layer as rows; those without a feature's number are left out."""
    features = columns.get("feature")
    n = len(features) if isinstance(features, list) else 0
    found = {
        name: values if isinstance(values := columns.get(source), list) and len(values) == n else [None] * n
        for name, (source, _) in _TYPES.items()
    }
    rows = [{name: _value(found[name][at], kind) for name, (_, kind) in _TYPES.items()} for at in range(n)]
    return [row for row in rows if row["feature_idx"] is not None and row["feature_idx"] >= 0]


def _value(value: Any, kind: type) -> Any:
    if kind is bool:
        return value if isinstance(value, bool) else None
    plain = typed(value, kind)
    return None if kind is int and plain is not None and abs(plain) >= _INTEGER else plain


def typed(value: Any, kind: type) -> Any:
    """The value if a column of `kind` can hold it, else None; a whole number is a float too."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value if kind in (int, float) and -(2**63) <= value < 2**63 else None
    if isinstance(value, float) and not abs(value) <= _FLOAT:
        return None
    return value if isinstance(value, kind) else None
