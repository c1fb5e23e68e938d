"""Small random models of classes that are not in the table of families; where parts are, read off transformers' source."""

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

WIDTH, N_LAYERS, VOCAB = 32, 4, 97
_DECODER: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "vocab_size": VOCAB,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_LOCAL = {"sliding_window": 4}
_LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "shared_expert_intermediate_size": 16,
}
_DEEPSEEK = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
    "head_dim": 4,
}
_JAMBA = {
    "num_experts": 2,
    "mamba_d_state": 8,
    "mamba_dt_rank": 4,
    "use_mamba_kernels": False,
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
    "expert_layer_period": 2,
    "expert_layer_offset": 1,
}
_FALCON_H1 = {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1}


def _without(*names: str, **more: Any) -> dict[str, Any]:
    return {name: value for name, value in _DECODER.items() if name not in names} | more


@dataclass(frozen=True)
class Class:
    """A class of transformers: sizes of a small one, and what a person reads off its source. `full` begins the reason why its
    blocks cannot be run alone; "" where they can."""

    sizes: dict[str, Any] = field(default_factory=lambda: dict(_DECODER))
    blocks: str = "model.layers"
    embed: str = "model.embed_tokens"
    norm: str = "model.norm"
    attn_out: str = "self_attn"
    mlp_out: str = "mlp"
    full: str = ""


_STATE = "its blocks keep other state than keys and values"
_POST = {"attn_out": "post_attention_layernorm", "mlp_out": "post_feedforward_layernorm"}
_NO_SUM = {"attn_out": "", "mlp_out": ""}  # the residual is added inside the parts, scaled, or has three summands
_OLDER = {"blocks": "transformer.h", "norm": "transformer.ln_f"}

CLASSES: dict[str, Class] = {
    "qwen3_moe": Class(_DECODER | _EXPERTS),
    "qwen3_next": Class(_DECODER | _EXPERTS | _LINEAR, attn_out="linear_attn|self_attn", full=_STATE),
    "qwen3_5_text": Class(_DECODER | _LINEAR, attn_out="linear_attn|self_attn", full=_STATE),
    "qwen3_5_moe_text": Class(_DECODER | _EXPERTS | _LINEAR, attn_out="linear_attn|self_attn", full=_STATE),
    "gpt_oss": Class(_DECODER | _EXPERTS | _LOCAL),
    "llama4_text": Class(_DECODER | _EXPERTS | {"intermediate_size_mlp": 48, "attention_chunk_size": 8}, **_NO_SUM),
    "mixtral": Class(_DECODER | _EXPERTS),
    "olmo2": Class(**_POST),
    "olmo3": Class(_DECODER | _LOCAL, **_POST),
    "phi": Class(norm="model.final_layernorm"),
    "phi3": Class(),
    "smollm3": Class(),
    "granite": Class(
        _DECODER | {"residual_multiplier": 0.5, "logits_scaling": 2.0, "embedding_multiplier": 3.0}, **_NO_SUM
    ),
    "glm4": Class(attn_out="post_self_attn_layernorm", mlp_out="post_mlp_layernorm"),
    "deepseek_v3": Class(_DECODER | _DEEPSEEK),
    "cohere2": Class(_DECODER | _LOCAL),
    "falcon_h1": Class(_DECODER | _FALCON_H1, norm="model.final_layernorm", **_NO_SUM, full=_STATE),
    "jamba": Class(
        _DECODER | _JAMBA,
        norm="model.final_layernorm",
        attn_out="mamba|self_attn",
        mlp_out="feed_forward",
        full=_STATE,
    ),
    "lfm2": Class(
        _DECODER | {"full_attn_idxs": [1, 3]},
        norm="model.embedding_norm",
        attn_out="conv|self_attn",
        mlp_out="feed_forward",
        full=_STATE,
    ),
    "opt": Class(
        _DECODER | {"ffn_dim": 48, "word_embed_proj_dim": WIDTH},
        blocks="model.decoder.layers",
        embed="model.decoder.embed_tokens",
        norm="model.decoder.final_layer_norm",
        **_NO_SUM,
    ),
    "falcon": Class(_without("head_dim"), **_OLDER, embed="transformer.word_embeddings", **_NO_SUM),
    "gptj": Class(
        {"n_embd": WIDTH, "n_layer": N_LAYERS, "n_head": 4, "n_positions": 64, "rotary_dim": 4, "vocab_size": VOCAB}
        | {"bos_token_id": 1, "eos_token_id": 2},
        **_OLDER,
        embed="transformer.wte",
        attn_out="attn",
    ),
}
# Rows of the table whose blocks cannot be run alone, and the beginning of the reason.
FULL = {"qwen3_5": _STATE, "qwen3_5_moe": _STATE}
# Refused, and a part of the reason.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "bert": (_DECODER, "one norm"),
    "xlnet": (
        {"d_model": WIDTH, "n_layer": N_LAYERS, "n_head": 4, "d_inner": 48, "vocab_size": VOCAB},
        "past_key_values",
    ),
    "openai-gpt": (
        {"n_embd": WIDTH, "n_layer": N_LAYERS, "n_head": 4, "n_positions": 64, "vocab_size": VOCAB},
        "past_key_values",
    ),
    "mamba": (_DECODER | {"state_size": 8, "time_step_rank": 4}, "past_key_values"),
    "recurrent_gemma": (_DECODER | {"lru_width": WIDTH, "attention_window_size": 8}, "padding on the left"),
}


def small(kind: str, dtype: torch.dtype = torch.float32, *, seed: int = 0) -> Any:
    """A random model in eval mode, norms and biases too."""
    torch.manual_seed(seed)
    sizes = CLASSES[kind].sizes if kind in CLASSES else REFUSED[kind][0]
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes))
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.to(dtype).eval().requires_grad_(False)
