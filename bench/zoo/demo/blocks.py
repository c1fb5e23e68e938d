"""The blocks with low-rank maps, run by hand so that attention can be watched: float32, gradients through every token.

An earlier form sent gradients through the image, name, option and answer tokens only, which is cheaper where bfloat16 products
are fast. It does not train: the update moves every other token too, unseen, and after 60 steps the guided attention fell apart.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from steercache.zoo.demo.lora import FIRST_LAYER

Turn = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockStates:
    """States after some blocks and after the final norm (b, t, d), and the attention of watched blocks (b, h, t, t)."""

    states: Mapping[int, torch.Tensor]
    last: torch.Tensor
    looks: Mapping[int, torch.Tensor]


def run_blocks(
    taught: Any,
    *,
    embeds: torch.Tensor,
    mask: torch.Tensor,
    position_ids: torch.Tensor,
    read: Collection[int] = (),
    watch: Collection[int] = (),
) -> BlockStates:
    """The text model on embeds (b, t, d), mask (b, 1, t, t) additive, positions (b, t); blocks from FIRST_LAYER on train."""
    h, turn = embeds, taught.rotary_emb(embeds, position_ids)
    looks: dict[int, torch.Tensor] = {}
    states: dict[int, torch.Tensor] = {}
    for layer, block in enumerate(taught.layers):
        if layer < FIRST_LAYER:
            with torch.no_grad():
                h, _ = _block(block, h, mask, turn)
            continue
        h, probs = _block(block, h, mask, turn)
        if layer in watch:
            looks[layer] = probs
        if layer in read:
            states[layer] = h
    return BlockStates(states=states, last=taught.norm(h), looks=looks)


def _block(block: Any, h: torch.Tensor, mask: torch.Tensor, turn: Turn) -> tuple[torch.Tensor, torch.Tensor]:
    """One Llama block on h (b, t, d), and its attention (b, h, t, t)."""
    attention = block.self_attn
    b, t, _ = h.shape
    width = attention.head_dim
    x = block.input_layernorm(h)
    query = _turned(attention.q_proj(x).view(b, t, -1, width).transpose(1, 2), turn)
    key = _turned(attention.k_proj(x).view(b, t, -1, width).transpose(1, 2), turn)
    value = attention.v_proj(x).view(b, t, -1, width).transpose(1, 2)
    heads, groups = query.shape[1], key.shape[1]
    key, value = (part.repeat_interleave(heads // groups, dim=1) for part in (key, value))
    probs = functional.softmax(query @ key.transpose(2, 3) * attention.scaling + mask, dim=-1)
    mixed = (probs @ value).transpose(1, 2).reshape(b, t, heads * width)
    h = h + attention.o_proj(mixed)
    mlp = block.mlp
    x = block.post_attention_layernorm(h)
    return h + mlp.down_proj(functional.silu(mlp.gate_proj(x)) * mlp.up_proj(x)), probs


def _turned(x_bhtc: torch.Tensor, turn: Turn) -> torch.Tensor:
    """Rotary positions as Llama has them: halves, not pairs."""
    cos, sin = (part[:, None] for part in turn)
    first, second = x_bhtc.chunk(2, dim=-1)
    return x_bhtc * cos + torch.cat([-second, first], dim=-1) * sin
