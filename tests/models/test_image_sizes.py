"""The multimodal models of the seed at real size on the meta device, from their published configs."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from steercache.models.families import FAMILIES
from steercache.models.family import find_module, find_part
from steercache.models.recognise import family_of_config
from steercache.models.sharing import KeySharing, key_sharing
from steercache.trace.tower import tower_width
from tests.models import gemma4_sizes
from tests.models.test_sizes import GEMMA_2_2B, GEMMA_2_9B, LLAMA_3_1_8B
from tests.models.tiny_images import GRIDS, MAKERS, WITHOUT_PROCESSOR

SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "patch_size": 14,
    "vision_use_head": False,
}


@dataclass(frozen=True)
class Real:
    """A published model: `patches` of one view as its tower gives them, and the image tokens made of them."""

    config: dict[str, Any]
    n_layers: int
    width: int
    vision: int
    patches: int
    tokens: int
    billions: float
    added: tuple[str, str] = ("self_attn", "mlp")


NORMS = ("post_attention_layernorm", "post_feedforward_layernorm")


def paligemma2(text: dict[str, Any]) -> dict[str, Any]:
    return {
        "model_type": "paligemma",
        "vision_config": SIGLIP | {"image_size": 448, "projection_dim": text["hidden_size"]},
        "text_config": text | {"vocab_size": 257_216},
        "projection_dim": text["hidden_size"],
        "image_token_index": 257_152,
    }


IDEFICS3 = {
    "model_type": "idefics3",
    "vision_config": {k: v for k, v in SIGLIP.items() if k not in ("model_type", "vision_use_head")}
    | {"image_size": 364},
    "text_config": LLAMA_3_1_8B | {"vocab_size": 128_259},
    "scale_factor": 2,
    "image_token_id": 128_257,
    "pad_token_id": 128_002,
}
GEMMA_3_4B = {
    "model_type": "gemma3",
    "vision_config": SIGLIP | {"image_size": 896},
    "text_config": {
        "model_type": "gemma3_text",
        "vocab_size": 262_208,
        "hidden_size": 2560,
        "intermediate_size": 10_240,
        "num_hidden_layers": 34,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
    },
    "mm_tokens_per_image": 256,
}
LLAVA_1_5 = {
    "model_type": "llava",
    "vision_config": {
        "model_type": "clip_vision_model",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 336,
        "patch_size": 14,
        "projection_dim": 768,
    },
    "text_config": {
        "model_type": "llama",
        "vocab_size": 32_064,
        "hidden_size": 4096,
        "intermediate_size": 11_008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
    },
    "image_token_index": 32_000,
}
QWEN_2_5_VL = {
    "model_type": "qwen2_5_vl",
    "vision_config": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 3584,
        "patch_size": 14,
        "spatial_merge_size": 2,
    },
    "text_config": {
        "vocab_size": 152_064,
        "hidden_size": 3584,
        "intermediate_size": 18_944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
    },
    "image_token_id": 151_655,
    "tie_word_embeddings": False,
}


def qwen3_vl(vision: dict[str, Any], text: dict[str, Any], *, tied: bool = False) -> dict[str, Any]:
    """A published configuration of Qwen3-VL; what its sizes share."""
    return {
        "model_type": "qwen3_vl_moe" if "num_experts" in text else "qwen3_vl",
        "vision_config": {
            "depth": 27,
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_heads": 16,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "num_position_embeddings": 2304,
            "deepstack_visual_indexes": [8, 16, 24],
            "out_hidden_size": text["hidden_size"],
        }
        | vision,
        "text_config": {"vocab_size": 151_936, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128}
        | text
        | {"tie_word_embeddings": tied},
        "image_token_id": 151_655,
        "tie_word_embeddings": tied,
    }


QWEN_2_5_VL_3B = QWEN_2_5_VL | {
    "vision_config": QWEN_2_5_VL["vision_config"] | {"out_hidden_size": 2048},
    "text_config": {
        "vocab_size": 151_936,
        "hidden_size": 2048,
        "intermediate_size": 11_008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "tie_word_embeddings": True,
}
_NARROW = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "deepstack_visual_indexes": [5, 11, 17]}
QWEN_3_VL_2B = qwen3_vl(
    _NARROW,
    {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16},
    tied=True,
)
QWEN_3_VL_4B = qwen3_vl(_NARROW, {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36}, tied=True)
QWEN_3_VL_8B = qwen3_vl({}, {"hidden_size": 4096, "intermediate_size": 12_288, "num_hidden_layers": 36})
QWEN_3_VL_30B_A3B = qwen3_vl(
    {},
    {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 48, "num_key_value_heads": 4}
    | {"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768},
)
MISTRAL_7B = {
    "model_type": "mistral",
    "vocab_size": 32_064,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
NEMO = MISTRAL_7B | {"vocab_size": 131_072, "hidden_size": 5120, "num_hidden_layers": 40, "head_dim": 128}
PIXTRAL = {"model_type": "pixtral", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}
LLAVA_NEXT = LLAVA_1_5 | {"model_type": "llava_next", "text_config": MISTRAL_7B}
PIXTRAL_12B = {
    "model_type": "llava",
    "vision_config": PIXTRAL | {"num_attention_heads": 16, "image_size": 1024, "patch_size": 16},
    "text_config": NEMO,
    "image_token_index": 10,
    "vision_feature_layer": -1,
    "vision_feature_select_strategy": "full",
}
MISTRAL_SMALL_3_1 = {
    "model_type": "mistral3",
    "vision_config": PIXTRAL | {"num_attention_heads": 16, "image_size": 1540, "patch_size": 14},
    "text_config": NEMO | {"intermediate_size": 32_768},
    "image_token_index": 10,
    "tie_word_embeddings": False,
}
INTERNVL3_8B = {
    "model_type": "internvl",
    "vision_config": {
        "model_type": "internvl_vision",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "attention_bias": True,
        "image_size": [448, 448],
        "patch_size": [14, 14],
    },
    "text_config": {"model_type": "qwen2", **QWEN_2_5_VL["text_config"], "vocab_size": 151_674},
    "image_token_id": 151_667,
    "tie_word_embeddings": False,
}
SO400M = {k: v for k, v in SIGLIP.items() if k not in ("model_type", "vision_use_head")}
IDEFICS2_8B = {
    "model_type": "idefics2",
    "vision_config": SO400M | {"image_size": 980},
    "text_config": MISTRAL_7B | {"vocab_size": 32_003},
    "image_token_id": 32_001,
    "tie_word_embeddings": False,
}
SMOLVLM2_2B = {
    "model_type": "smolvlm",
    "vision_config": SO400M | {"image_size": 384},
    "text_config": {
        "model_type": "llama",
        "vocab_size": 49_280,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 24,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
    },
    "scale_factor": 3,
    "image_token_id": 49_190,
}
AYA_VISION_8B = {
    "model_type": "aya_vision",
    "vision_config": SIGLIP | {"image_size": 364},
    "text_config": MISTRAL_7B | {"model_type": "cohere2", "vocab_size": 256_000, "head_dim": 128},
    "image_token_index": 255_036,
    "alignment_intermediate_size": 28_672,
}

QWEN_2_VL_7B = QWEN_2_5_VL | {"model_type": "qwen2_vl", "vision_config": {"hidden_size": 3584}}
QWEN_2_VL_2B = QWEN_2_VL_7B | {
    "vision_config": {"hidden_size": 1536},
    "text_config": {
        "vocab_size": 151_936,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "tie_word_embeddings": True,
}
# The configuration classes' own sizes are those of these five.
QWEN_3_5_9B = {"model_type": "qwen3_5", "vision_config": {"out_hidden_size": 4096}, "tie_word_embeddings": False}
GLM_4_1V_9B = {"model_type": "glm4v"}
GLM_4_6V_FLASH = {"model_type": "glm46v"}
GLM_4_5V = {"model_type": "glm4v_moe"}
QWEN_3_5_35B_A3B = {
    "model_type": "qwen3_5_moe",
    "vision_config": {"out_hidden_size": 2048},
    "tie_word_embeddings": False,
}
GLM_NORMS = ("post_self_attn_layernorm", "post_mlp_layernorm")
# Around text models that are derived.
LLAVA_PHI_3_MINI = LLAVA_1_5 | {
    "text_config": {
        "model_type": "phi3",
        "vocab_size": 32_064,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
    },
}
INTERNVL3_5_30B_A3B = INTERNVL3_8B | {
    "text_config": {"model_type": "qwen3_moe", **QWEN_3_VL_30B_A3B["text_config"]},
}
GRANITE_VISION_3_3_2B = {
    "model_type": "llava_next",
    "vision_config": SIGLIP | {"image_size": 384},
    "text_config": {
        "model_type": "granite",
        "vocab_size": 49_156,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 40,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "tie_word_embeddings": True,
    },
    "image_token_index": 49_155,
    "vision_feature_layer": [-24, -20, -12, -1],
    "vision_feature_select_strategy": "full",
    "tie_word_embeddings": True,
}

LLAMA_4_SCOUT = {
    "model_type": "llama4",
    "vision_config": {
        "hidden_size": 1408,
        "num_hidden_layers": 34,
        "num_attention_heads": 16,
        "intermediate_size": 5632,
        "image_size": 336,
        "vision_output_dim": 4096,
    },
    "text_config": {
        "model_type": "llama4_text",
        "vocab_size": 202_048,
        "hidden_size": 5120,
        "intermediate_size": 8192,
        "intermediate_size_mlp": 16_384,
        "num_hidden_layers": 48,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "num_local_experts": 16,
        "interleave_moe_layer_step": 1,
    },
}
MOLMO2_8B = {  # its class has the published sizes by default, but for the adapter's
    "model_type": "molmo2",
    "text_config": {"model_type": "molmo2_text"},
    "adapter_config": {"text_hidden_size": 4096, "intermediate_size": 12_288},
}

REAL = {
    "paligemma2-3b-mix-448": Real(paligemma2(GEMMA_2_2B), 26, 2304, 1152, 1024, 1024, 3.03, NORMS),
    "paligemma2-10b-mix-448": Real(paligemma2(GEMMA_2_9B), 42, 3584, 1152, 1024, 1024, 9.66, NORMS),
    "Idefics3-8B-Llama3": Real(IDEFICS3, 32, 4096, 1152, 676, 169, 8.46),
    "gemma-3-4b-it": Real(GEMMA_3_4B, 34, 2560, 1152, 4096, 256, 4.30, NORMS),
    "llava-1.5-7b": Real(LLAVA_1_5, 32, 4096, 1024, 576, 576, 7.06),
    "Qwen2.5-VL-7B": Real(QWEN_2_5_VL, 28, 3584, 1280, 1024, 256, 8.29),
    "Qwen2.5-VL-3B": Real(QWEN_2_5_VL_3B, 36, 2048, 1280, 1024, 256, 3.75),
    "Qwen2-VL-2B": Real(QWEN_2_VL_2B, 28, 1536, 1280, 1024, 256, 2.21),
    "Qwen2-VL-7B": Real(QWEN_2_VL_7B, 28, 3584, 1280, 1024, 256, 8.29),
    "Qwen3.5-9B": Real(QWEN_3_5_9B, 32, 4096, 1152, 1024, 256, 9.41, ("linear_attn|self_attn", "mlp")),
    "GLM-4.1V-9B": Real(GLM_4_1V_9B, 40, 4096, 4096, 256, 256, 10.29, GLM_NORMS),
    "Qwen3.5-35B-A3B": Real(QWEN_3_5_35B_A3B, 40, 2048, 1152, 1024, 256, 35.1, ("linear_attn|self_attn", "mlp")),
    "GLM-4.5V": Real(GLM_4_5V, 46, 4096, 4096, 256, 256, 104.4),
    "GLM-4.6V-Flash": Real(GLM_4_6V_FLASH, 40, 4096, 4096, 256, 256, 10.29, GLM_NORMS),
    "Qwen3-VL-2B": Real(QWEN_3_VL_2B, 28, 2048, 1024, 1024, 256, 2.13),
    "Qwen3-VL-4B": Real(QWEN_3_VL_4B, 36, 2560, 1024, 1024, 256, 4.44),
    "Qwen3-VL-8B": Real(QWEN_3_VL_8B, 36, 4096, 1152, 1024, 256, 8.77),
    "Qwen3-VL-30B-A3B": Real(QWEN_3_VL_30B_A3B, 48, 2048, 1152, 1024, 256, 31.1),
    "Llama-4-Scout-17B-16E": Real(LLAMA_4_SCOUT, 48, 5120, 4096, 144, 144, 109, ("", "")),
    # two of its tower's blocks side by side, pooled by fours
    "Molmo2-8B": Real(MOLMO2_8B, 36, 4096, 2 * 1152, 729, 196, 8.66),
    # Gemma 4's tower pools its patches itself
    "gemma-4-E2B-it": Real(gemma4_sizes.E2B, 35, 1536, 768, 280, 280, 5.1, ("", "")),
    "gemma-4-E4B-it": Real(gemma4_sizes.E4B, 42, 2560, 768, 280, 280, 8.0, ("", "")),
    "gemma-4-31B-it": Real(gemma4_sizes.DENSE_31B, 60, 5376, 1152, 280, 280, 31.3, ("", "")),
    "gemma-4-26B-A4B-it": Real(gemma4_sizes.EXPERTS_26B, 30, 2816, 1152, 280, 280, 25.8, ("", "")),
    "llava-v1.6-mistral-7b": Real(LLAVA_NEXT, 32, 4096, 1024, 576, 576, 7.57),
    "pixtral-12b": Real(PIXTRAL_12B, 40, 5120, 1024, 784, 784, 12.68),
    "Mistral-Small-3.1-24B": Real(MISTRAL_SMALL_3_1, 40, 5120, 1024, 784, 196, 24.01),
    "InternVL3-8B": Real(INTERNVL3_8B, 28, 3584, 4 * 1024, 256, 256, 7.94),
    "idefics2-8b": Real(IDEFICS2_8B, 32, 4096, 1152, 4900, 64, 8.40),
    "SmolVLM2-2.2B": Real(SMOLVLM2_2B, 24, 2048, 1152, 729, 81, 2.25),
    "llava-phi-3-mini": Real(LLAVA_PHI_3_MINI, 32, 3072, 1024, 576, 576, 4.14),
    "InternVL3.5-30B-A3B": Real(INTERNVL3_5_30B_A3B, 48, 2048, 4 * 1024, 256, 256, 30.85),
    "granite-vision-3.3-2b": Real(GRANITE_VISION_3_3_2B, 40, 2048, 4 * 1152, 729, 729, 2.98),
    "aya-vision-8b": Real(AYA_VISION_8B, 32, 4096, 1152, 676, 169, 8.63),
}


@pytest.mark.parametrize("name", REAL)
def test_a_real_multimodal_model_has_its_parts_where_the_table_says(name: str) -> None:
    real = REAL[name]
    fields = {key: value for key, value in real.config.items() if key != "model_type"}
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(real.config["model_type"], **fields))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(real.billions * 1e9, rel=0.02)
    family = family_of_config(model.config)
    blocks = find_module(model, family.blocks)
    assert len(blocks) == real.n_layers
    assert find_module(model, family.embed).weight.shape[1] == real.width
    assert find_module(model, family.final_norm).weight.shape == (real.width,)
    assert find_module(model, family.lm_head).weight.shape[1] == real.width
    assert (family.attn_out, family.mlp_out) == real.added
    for block in blocks:
        assert all(find_part(block, part) for part in real.added if part)
    assert tower_width(model.config, getattr(model.config.vision_config, family.tower_width)) == real.vision
    assert find_module(model, family.vision or "")
    patches = torch.empty(1, real.patches, real.vision, device="meta", dtype=model.dtype)
    connector = find_module(model, family.connector or "")
    if family.name == "idefics2":  # its masks want values
        assert connector.modality_projection(patches).shape == (1, real.patches, real.width)
        rows = connector.perceiver_resampler.latents
    elif family.name == "molmo2":
        pooled = torch.empty(real.tokens, 4, real.vision, device="meta", dtype=model.dtype)  # its masks want values
        rows = connector.image_projector(connector.image_pooling_2d(pooled[:, :1], pooled)[0])
    elif family.name == "mistral3":
        rows = connector(patches[0], [(28 * 14, 28 * 14)])
    else:
        rows = connector(patches[0] if family.name in GRIDS else patches)
    assert rows.flatten(0, -2).shape == (real.tokens, real.width)
    if family.deepstack is not None:
        assert len(model.model.visual.deepstack_merger_list) == len(
            getattr(model.config.vision_config, family.deepstack)
        )
    assert model.config.image_token_id < find_module(model, family.embed).weight.shape[0]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (gemma4_sizes.E2B, KeySharing(n_own=15, sources={"sliding_attention": 13, "full_attention": 14})),
        (gemma4_sizes.E4B, KeySharing(n_own=24, sources={"sliding_attention": 22, "full_attention": 23})),
        (gemma4_sizes.DENSE_31B, KeySharing(n_own=60)),
        (GEMMA_3_4B, KeySharing(n_own=34)),
    ],
    ids=["E2B", "E4B", "31B", "gemma-3-4b"],
)
def test_the_blocks_that_make_keys_of_their_own_are_known(config: dict[str, Any], expected: KeySharing) -> None:
    fields = {key: value for key, value in config.items() if key != "model_type"}
    assert key_sharing(AutoConfig.for_model(config["model_type"], **fields)) == expected


def test_the_tests_know_every_multimodal_family_of_the_table() -> None:
    assert {family.name for family in FAMILIES if family.modality == "image"} == {*MAKERS, *WITHOUT_PROCESSOR}
