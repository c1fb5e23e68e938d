"""The one place where a vector is added to a hidden state: live, replayed or branched, with the same rounding.

    delta = float32(alpha) * v                       one product, in float32
    h'    = round(float32(h) + delta)                one sum, in float32, rounded once to the hidden state's dtype

The usual h + (alpha * v).to(h.dtype) rounds twice in bfloat16 and half precision and differs from this in about one entry of
twenty. With float32 hidden states both are the same; float64 hidden states are added in float64.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from steercache.core.errors import UsageError
from steercache.core.trials import AlphaUnit
from steercache.core.vectors import SteeringVector


def add_vector(hidden_btd: torch.Tensor, delta: torch.Tensor, mask_bt: torch.Tensor) -> torch.Tensor:
    """`hidden_btd` with `delta` added where `mask_bt` is True; every other row keeps its bits.

    `delta` is float32 of shape (d,), or (b, 1, d) when every sequence gets its own. Differentiable in both. A mask of float32
    weights scales delta token by token, float32(weight) * delta, so that a weight of 1 is what True is.
    """
    exact = torch.promote_types(hidden_btd.dtype, torch.float32)
    if mask_bt.dtype == torch.bool:
        moved = (hidden_btd.to(exact) + delta.to(exact)).to(hidden_btd.dtype)
        return torch.where(mask_bt.unsqueeze(-1), moved, hidden_btd)
    own = mask_bt.unsqueeze(-1) * delta
    return torch.where(
        mask_bt.unsqueeze(-1) != 0, (hidden_btd.to(exact) + own.to(exact)).to(hidden_btd.dtype), hidden_btd
    )


def adds_finitely(deltas: torch.Tensor) -> torch.Tensor:
    """Which deltas (..., d) leave hidden states whose norm can be taken: a squared length that float32 holds; shape (...).

    The norm of a block divides a longer one by infinity: zeros, from which a model answers finitely and without meaning.
    """
    return deltas.float().square().sum(-1).isfinite()


def scale_direction(direction_d: npt.NDArray[np.float32], alpha: float) -> npt.NDArray[np.float32]:
    """float32(alpha) * direction, in float32. Raises UsageError for an alpha that is not finite or overflows."""
    if isinstance(alpha, bool) or not math.isfinite(alpha):
        raise UsageError(f"alpha must be a finite number, not {alpha!r}")
    with np.errstate(over="ignore"):
        delta: npt.NDArray[np.float32] = np.float32(alpha) * direction_d
    if not np.isfinite(delta).all():
        raise UsageError(f"alpha {alpha:g} times the vector (norm {np.linalg.norm(direction_d):.3g}) overflows float32")
    return delta


def direction_at(vector: SteeringVector, layer: int) -> npt.NDArray[np.float32]:
    """The vector's values at `layer`, shape (d,). Raises UsageError when it has none."""
    try:
        return vector.at(layer)
    except KeyError:
        raise UsageError(
            f"the vector {vector.name!r} has no layer {layer}", hint=f"it has: {', '.join(map(str, vector.layers))}"
        ) from None


def delta_of(
    vector: SteeringVector,
    layer: int,
    *,
    alpha: float,
    alpha_unit: AlphaUnit = "raw",
    row_norm: float | None = None,
) -> npt.NDArray[np.float32]:
    """What is added at `layer`, shape (d,), float32.

    "raw" is alpha * v. "resid_norm" is v brought to unit length, times alpha times the median norm of the rows it was fitted
    on (position 0 left out): `row_norm`, or without it what the vector's diagnostics hold. "target_norm" is the same with
    `row_norm`, the median norm of the rows that are steered.

    Raises:
        UsageError: the vector has no such layer, alpha is not finite, the unit is unknown, or it has no norm to go by.
    """
    direction = direction_at(vector, layer)
    if alpha_unit == "raw":
        return scale_direction(direction, alpha)
    if alpha_unit not in ("resid_norm", "target_norm"):
        raise UsageError(
            f"nothing is added in the alpha unit {alpha_unit!r}", hint="choose raw, resid_norm or target_norm"
        )
    norm = float(np.linalg.norm(direction))
    if norm == 0:
        raise UsageError(f"the vector {vector.name!r} is zero at layer {layer}: it has no direction")
    if alpha_unit == "resid_norm" and row_norm is None:
        row_norm = resid_norm(vector, layer)
    if row_norm is None:
        raise UsageError(
            "target_norm counts in norms of the rows that are steered, which were not measured here",
            hint="grid, screen and eval measure them; or give alpha in raw units or as resid_norm",
        )
    return scale_direction(direction, alpha * row_norm / norm)


def resid_norm(vector: SteeringVector, layer: int) -> float:
    """Median norm of the rows the vector was fitted on. Raises UsageError when its diagnostics do not say."""
    found: Mapping[str, Any] = next((d for d in vector.diagnostics if d.get("layer") == layer), {})
    value = found.get("resid_norm")
    if value is None:
        raise UsageError(
            f"the vector {vector.name!r} does not say how long its rows were at layer {layer}",
            hint="fit.diagnose(selection, vector) measures it; or give alpha in raw units",
        )
    return float(value)
