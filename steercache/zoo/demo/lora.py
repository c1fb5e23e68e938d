"""A low-rank update beside every linear map from block 4 on: trained here, shipped, merged when *demo* is assembled."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch
from torch import nn

RANK: Final = 16
GAIN: Final = 2.0  # the update is GAIN * b @ a
FIRST_LAYER: Final = 4  # the blocks below stay SmolLM2's own, and no gradient has to pass them
PLACES: Final = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)


class LowRankLinear(nn.Module):
    """A frozen linear map plus `GAIN * b @ a`; a (r, in) and b (out, r) are float32, the arithmetic is the input's dtype."""

    def __init__(self, frozen: nn.Linear) -> None:
        super().__init__()
        self.frozen = frozen.requires_grad_(False)
        self.a = nn.Parameter(torch.randn(RANK, frozen.in_features) / frozen.in_features**0.5)
        self.b = nn.Parameter(torch.zeros(frozen.out_features, RANK))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The map of x (..., in) to (..., out)."""
        low = nn.functional.linear(x, self.a.to(x.dtype))
        wide: torch.Tensor = self.frozen(x)
        return wide + nn.functional.linear(low, (GAIN * self.b).to(x.dtype))


def add_low_rank(text_model: Any, *, seed: int) -> dict[str, LowRankLinear]:
    """Replaces the linear maps of the blocks from FIRST_LAYER on; returns them by their names in the checkpoint."""
    torch.manual_seed(seed)
    text_model.requires_grad_(False)
    added: dict[str, LowRankLinear] = {}
    for name, parent, child in list(_linears(text_model)):
        module = LowRankLinear(getattr(parent, child))
        setattr(parent, child, module)
        added[name] = module
    return added


def merge_low_rank(text_model: Any, weights: Mapping[str, torch.Tensor]) -> None:
    """Adds the shipped update to a plain text model in place: float32 sum, rounded once to the weight's dtype."""
    for name, parent, child in list(_linears(text_model)):
        weight = getattr(parent, child).weight
        delta = GAIN * weights[f"{name}.b"].float() @ weights[f"{name}.a"].float()
        weight.data = (weight.data.float() + delta).to(weight.dtype)


def _linears(text_model: Any) -> Iterator[tuple[str, Any, str]]:
    for layer, block in enumerate(text_model.layers):
        if layer < FIRST_LAYER:
            continue
        for place in PLACES:
            room, child = place.split(".")
            yield f"layers.{layer}.{place}", getattr(block, room), child
