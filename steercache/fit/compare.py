"""Cosines between vectors, layer by layer."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from steercache.core.errors import UsageError
from steercache.core.vectors import SteeringVector


def cosine(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float | None:
    """Cosine of two directions in float64; None when one of them is zero."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    norms = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(np.clip(x @ y / norms, -1, 1)) if norms > 0 else None


def compare(vectors: Sequence[SteeringVector]) -> list[dict[str, Any]]:
    """One row per layer that all have: {"layer", "cosines": {(first, second) as "first ~ second": cosine}}.

    Raises:
        UsageError: fewer than two vectors, other widths, or no layer in common.
    """
    if len(vectors) < 2:
        raise UsageError("a comparison needs at least two vectors", hint="steercache vectors list")
    if len({v.hidden_size for v in vectors}) > 1:
        widths = ", ".join(f"{v.name} {v.hidden_size}" for v in vectors)
        raise UsageError(f"the vectors live in spaces of different width: {widths}")
    shared = sorted(set.intersection(*(set(v.layers) for v in vectors)))
    if not shared:
        raise UsageError("the vectors have no layer in common")
    return [
        {
            "layer": layer,
            "cosines": {f"{a.name} ~ {b.name}": cosine(a.at(layer), b.at(layer)) for a, b in combinations(vectors, 2)},
        }
        for layer in shared
    ]
