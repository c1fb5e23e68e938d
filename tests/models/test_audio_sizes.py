"""Models that hear at real size on the meta device, from their published sizes."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForMultimodalLM

from steercache.models.families import FAMILIES, family_of
from steercache.models.family import find_module

QWEN2_AUDIO_7B: dict[str, Any] = {
    "model_type": "qwen2_audio",
    "audio_config": {"num_mel_bins": 128},  # the encoder of Whisper large v3, which the class has by default
    "text_config": {
        "model_type": "qwen2",
        "vocab_size": 156_032,
        "hidden_size": 4096,
        "intermediate_size": 11_008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
    },
    "audio_token_index": 151_646,
}
VOXTRAL_MINI_3B: dict[str, Any] = {
    "model_type": "voxtral",
    "audio_config": {},  # the same encoder, and four of its rows side by side
    "text_config": {
        "model_type": "llama",
        "vocab_size": 131_072,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 30,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
    },
    "audio_token_id": 24,
}
VOXTRAL_SMALL_24B = VOXTRAL_MINI_3B | {
    "text_config": VOXTRAL_MINI_3B["text_config"]
    | {"hidden_size": 5120, "intermediate_size": 32_768, "num_hidden_layers": 40}
}


@pytest.mark.parametrize(
    ("config", "billions", "n_layers", "width", "vocabulary"),
    [
        (QWEN2_AUDIO_7B, 8.4, 32, 4096, 156_032),
        (VOXTRAL_MINI_3B, 4.68, 30, 3072, 131_072),
        (VOXTRAL_SMALL_24B, 24.3, 40, 5120, 131_072),
    ],
    ids=["Qwen2-Audio-7B", "Voxtral-Mini-3B", "Voxtral-Small-24B"],
)
def test_a_real_model_that_hears_has_its_parts_where_the_table_says(
    config: dict[str, Any], billions: float, n_layers: int, width: int, vocabulary: int
) -> None:
    fields = {key: value for key, value in config.items() if key != "model_type"}
    with torch.device("meta"):
        model = AutoModelForMultimodalLM.from_config(AutoConfig.for_model(config["model_type"], **fields))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(billions * 1e9, rel=0.02)
    family = family_of(config)
    blocks = find_module(model, family.blocks)
    assert len(blocks) == n_layers
    assert find_module(model, family.embed).weight.shape == (vocabulary, width)
    assert find_module(model, family.final_norm).weight.shape == (width,)
    assert find_module(model, family.lm_head).weight.shape == (vocabulary, width)
    assert find_module(blocks[n_layers - 1], family.attn_out)
    assert find_module(blocks[n_layers - 1], family.mlp_out)
    assert model.config.audio_token_id == config.get("audio_token_index", 24)


def test_the_tests_know_every_family_that_hears() -> None:
    assert [family.name for family in FAMILIES if family.modality == "audio"] == ["qwen2_audio", "voxtral"]
    assert {family.name for family in FAMILIES if family.audio} == {"qwen2_audio", "voxtral", "gemma3n", "gemma4"}
