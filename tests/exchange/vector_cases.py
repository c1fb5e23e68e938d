"""Vectors to export: one with everything that a vector can say, and plain ones."""

from typing import Any

import numpy as np

from steercache.core.vector_use import VectorUse
from steercache.core.vectors import FittedOn, SteeringVector

FITTED_ON = FittedOn(name="tiny", fingerprint="f" * 64, modality="text", bos=True, chat="none")


def some_vector(
    *, layers: tuple[int, ...] = (1, 2, 4), width: int = 16, seed: int = 0, **changes: Any
) -> SteeringVector:
    """Random values that float16 could not hold, a provenance with letters of several scripts, diagnostics per layer."""
    values = np.random.default_rng(seed).standard_normal((len(layers), width)).astype(np.float32)
    said: dict[str, Any] = {
        "name": "counting",
        "method": "mean_shift",
        "concept": "counting",
        "site": "resid_post",
        "layers": layers,
        "values": values,
        "provenance": {"run_id": "a" * 64, "words": "zählen, 数"},
        "diagnostics": tuple({"layer": layer, "resid_norm": 10.0 + layer} for layer in layers),
        "fitted_on": FITTED_ON,
        "use": VectorUse(phase="both", layers=layers, strength=2.0, bos=True, chat="none"),
    }
    return SteeringVector(**(said | changes))
