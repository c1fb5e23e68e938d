"""One layer's direction at every layer, as directional ablation wants it (arXiv 2406.11717)."""

from dataclasses import replace
from typing import Final

import numpy as np

from steercache.core.errors import UsageError
from steercache.core.vectors import SteeringVector

SPREAD: Final = "spread_from"  # key of a provenance: the layer whose direction stands at all
RECIPE: Final = "recipe_name"  # key of a provenance: the paper's recipe that a vector was made by


def spread(vector: SteeringVector, layer: int) -> SteeringVector:
    """`vector` with the direction of `layer` at each of its layers; without diagnostics.

    Raises:
        UsageError: the vector has no such layer.
    """
    if layer not in vector.layers:
        raise UsageError(
            f"{vector.name!r} has no layer {layer}", hint=f"choose among: {', '.join(map(str, vector.layers))}"
        )
    values = np.repeat(vector.at(layer)[None], len(vector.layers), axis=0)
    made = dict(vector.provenance) | {SPREAD: layer}
    return replace(vector, values=values, provenance=made, diagnostics=())


def best_layer(vector: SteeringVector) -> int:
    """The layer with the highest held-out AUC, the lowest of equals.

    Raises:
        UsageError: it was not measured, or nothing could be held out.
    """
    measured = [(float(d["auc"]), -int(d["layer"])) for d in vector.diagnostics if d.get("auc") is not None]
    if not measured:
        raise UsageError(
            f"which layer of {vector.name!r} separates the sides best was not measured", hint="name the layer"
        )
    return -max(measured)[1]
