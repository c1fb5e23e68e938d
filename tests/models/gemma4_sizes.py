"""Published sizes of Gemma 4, as transformers' conversion script has them."""

from typing import Any

_SMALL_VISION = {"hidden_size": 768, "num_hidden_layers": 16, "num_attention_heads": 12, "use_clipped_linears": True}
_LARGE_VISION = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": 72,
    "standardize": True,
}
_SMALL = {"model_type": "gemma4_text", "num_attention_heads": 8, "final_logit_softcapping": 30.0}
_LARGE = _SMALL | {
    "hidden_size_per_layer_input": 0,
    "attention_k_eq_v": True,
    "use_bidirectional_attention": "vision",
    "sliding_window": 1024,
}


def layers_of(n_sliding: int, times: int) -> list[str]:
    """Kinds of attention, block by block."""
    return [*["sliding_attention"] * n_sliding, "full_attention"] * times


def _model(text: dict[str, Any], vision: dict[str, Any], audio: dict[str, Any] | None) -> dict[str, Any]:
    return {"model_type": "gemma4", "text_config": text, "vision_config": vision, "audio_config": audio}


E2B = _model(
    _SMALL
    | {
        "hidden_size": 1536,
        "intermediate_size": 6144,
        "num_hidden_layers": 35,
        "layer_types": layers_of(4, 7),
        "num_key_value_heads": 1,
        "num_kv_shared_layers": 20,
        "use_double_wide_mlp": True,
    },
    _SMALL_VISION,
    {},
)
E4B = _model(
    _SMALL
    | {
        "hidden_size": 2560,
        "intermediate_size": 10_240,
        "num_hidden_layers": 42,
        "layer_types": layers_of(5, 7),
        "num_key_value_heads": 2,
        "num_kv_shared_layers": 18,
    },
    _SMALL_VISION,
    {},
)
DENSE_31B = _model(
    _LARGE
    | {
        "hidden_size": 5376,
        "intermediate_size": 21_504,
        "num_hidden_layers": 60,
        "layer_types": layers_of(5, 10),
        "num_attention_heads": 32,
        "num_key_value_heads": 16,
        "num_global_key_value_heads": 4,
    },
    _LARGE_VISION,
    None,
)
EXPERTS_26B = _model(
    _LARGE
    | {
        "hidden_size": 2816,
        "intermediate_size": 2112,
        "num_hidden_layers": 30,
        "layer_types": layers_of(5, 5),
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "num_global_key_value_heads": 2,
        "enable_moe_block": True,
        "num_experts": 128,
        "top_k_experts": 8,
        "moe_intermediate_size": 704,
    },
    _LARGE_VISION,
    None,
)
