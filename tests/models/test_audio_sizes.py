"""Qwen2-Audio-7B at real size on the meta device, from its published sizes."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForMultimodalLM

from steercache.models.families import FAMILIES, family_of
from steercache.models.family import find_module

QWEN2_AUDIO_7B = {
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


def test_a_real_model_that_hears_has_its_parts_where_the_table_says() -> None:
    fields = {key: value for key, value in QWEN2_AUDIO_7B.items() if key != "model_type"}
    with torch.device("meta"):
        model = AutoModelForMultimodalLM.from_config(AutoConfig.for_model("qwen2_audio", **fields))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(8.4e9, rel=0.02)
    family = family_of(QWEN2_AUDIO_7B)
    blocks = find_module(model, family.blocks)
    assert len(blocks) == 32
    assert find_module(model, family.embed).weight.shape == (156_032, 4096)
    assert find_module(model, family.final_norm).weight.shape == (4096,)
    assert find_module(model, family.lm_head).weight.shape == (156_032, 4096)
    assert find_module(blocks[31], family.attn_out)
    assert find_module(blocks[31], family.mlp_out)
    assert model.config.audio_token_id == 151_646


def test_the_tests_know_every_family_that_hears() -> None:
    assert [family.name for family in FAMILIES if family.modality == "audio"] == ["qwen2_audio"]
