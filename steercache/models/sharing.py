"""Blocks that attend to the keys and values of an earlier block and make none of their own (Gemma 3n, Gemma 4)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySharing:
    """The first `n_own` blocks make keys and values; those above read them from the block that `sources` names by kind of
    attention ("full_attention", "sliding_attention"). {} where every block has its own."""

    n_own: int
    sources: Mapping[str, int] = field(default_factory=dict)


def key_sharing(config: Any) -> KeySharing:
    """What transformers' configuration of a model says about shared keys and values."""
    text = config.get_text_config()
    modes = getattr(text, "kv_sharing_modes", None) or []
    if "reuse" not in modes:
        return KeySharing(n_own=int(text.num_hidden_layers))
    sources = {text.layer_types[layer]: layer for layer, mode in enumerate(modes) if mode == "store"}
    return KeySharing(n_own=modes.index("reuse"), sources=sources)


def feeds_pictures_to_blocks(config: Any) -> bool:
    """Whether blocks receive, beside hidden states, something that is made from the picture (Gemma's per-layer inputs)."""
    return bool(getattr(config.get_text_config(), "hidden_size_per_layer_input", 0))
