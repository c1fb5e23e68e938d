"""Random models of every text family, small enough to run a hundred times."""

from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from steercache.core.vectors import SteeringVector

WIDTH, N_LAYERS, VOCAB = 32, 3, 97
_DECODER = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": VOCAB,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_GPT2 = {"n_embd": WIDTH, "n_layer": N_LAYERS, "n_head": 4, "vocab_size": VOCAB, "n_positions": 64}
_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": _DECODER,
    "mistral": _DECODER,
    "qwen2": _DECODER,
    "qwen3": _DECODER,
    "gemma2": _DECODER | {"sliding_window": 4, "query_pre_attn_scalar": 8},
    "gemma3_text": _DECODER | {"sliding_window": 4, "query_pre_attn_scalar": 8},
    "gemma4_text": _DECODER
    | {
        "sliding_window": 4,
        "global_head_dim": 12,
        "layer_types": ["sliding_attention", "full_attention", "full_attention"],
        "num_kv_shared_layers": 1,
        "vocab_size_per_layer_input": VOCAB,
        "hidden_size_per_layer_input": 8,
    },
    "gemma3n_text": _DECODER
    | {
        "sliding_window": 4,
        "layer_types": ["sliding_attention", "full_attention", "full_attention"],
        "num_kv_shared_layers": 1,
        "vocab_size_per_layer_input": VOCAB,
        "hidden_size_per_layer_input": 8,
        "laurel_rank": 4,
        "activation_sparsity_pattern": [0.5, 0.0, 0.0],
    },
    "gpt2": _GPT2 | _IDS,
    "gpt_neox": {k: v for k, v in _DECODER.items() if k not in ("num_key_value_heads", "head_dim")},
}
BLOCKS = {"gpt2": "transformer.h", "gpt_neox": "gpt_neox.layers"}


def tiny_model(family: str, dtype: torch.dtype = torch.float32) -> Any:
    """A random model of one family, in eval mode."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **CONFIGS[family])
    return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def blocks_of(model: Any, family: str) -> Any:
    """The blocks, found by a path written here."""
    return model.get_submodule(BLOCKS.get(family, "model.layers"))


def vector(*layers: int, scale: float = 1.0, width: int = WIDTH, **fields: Any) -> SteeringVector:
    """A random vector for the given blocks."""
    values = np.random.default_rng(7).normal(size=(len(layers), width)).astype(np.float32) * np.float32(scale)
    known: dict[str, Any] = {"name": "v", "method": "random", "concept": None, "site": "resid_post"}
    return SteeringVector(layers=layers, values=values, **(known | fields))
