"""Module paths, depth and width of the real text models, at real size on the meta device, from their published configs."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from bench import gpu_models
from steercache.core.errors import NotFoundError
from steercache.models.families import FAMILIES, family_of
from steercache.models.family import find_module
from tests.models.tiny import N_LAYERS, PATHS, TEXT_FAMILIES, WIDTH, tiny_config

GEMMA_2_2B = {"model_type": "gemma2", **gpu_models.GEMMA_2_2B}
GEMMA_2_9B = {
    "model_type": "gemma2",
    "vocab_size": 256_000,
    "hidden_size": 3584,
    "intermediate_size": 14_336,
    "num_hidden_layers": 42,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 256,
}
LLAMA_3_1_8B = {"model_type": "llama", **gpu_models.LLAMA_3_1_8B}


def on_meta(config: dict[str, Any]) -> Any:
    fields = {key: value for key, value in config.items() if key != "model_type"}
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(config["model_type"], **fields))


@pytest.mark.parametrize(
    ("config", "n_layers", "width", "n_parameters"),
    [
        (GEMMA_2_2B, 26, 2304, 2_614_341_888),
        (GEMMA_2_9B, 42, 3584, 9_241_705_984),
        (LLAMA_3_1_8B, 32, 4096, 8_030_261_248),
    ],
    ids=["gemma-2-2b", "gemma-2-9b", "Llama-3.1-8B"],
)
def test_a_real_text_model_has_its_blocks_where_the_table_says(
    config: dict[str, Any], n_layers: int, width: int, n_parameters: int
) -> None:
    model = on_meta(config)
    assert sum(p.numel() for p in model.parameters()) == n_parameters  # the count its publisher gives
    family = family_of(config)
    blocks = find_module(model, family.blocks)
    assert len(blocks) == n_layers
    assert find_module(model, family.embed).weight.shape == (config["vocab_size"], width)
    assert find_module(model, family.final_norm).weight.shape == (width,)
    assert find_module(model, family.lm_head).weight.shape == (config["vocab_size"], width)
    out = torch.empty(1, 2, width, device="meta")
    positions = torch.zeros(1, 2, dtype=torch.long, device="meta")
    rotary = model.model.rotary_emb(out, positions)
    assert blocks[n_layers - 1](out, position_embeddings=rotary, position_ids=positions).shape == (1, 2, width)


@pytest.mark.parametrize("name", TEXT_FAMILIES)
def test_every_text_family_of_the_table_fits_its_class(name: str) -> None:
    config = tiny_config(name)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    family = family_of(config.to_dict())
    assert family.name == name
    assert (family.blocks, family.attn_out, family.mlp_out) == (
        PATHS[name].blocks,
        PATHS[name].attn_out,
        PATHS[name].mlp_out,
    )
    blocks = find_module(model, family.blocks)
    assert len(blocks) == N_LAYERS
    for block in blocks if family.attn_out else ():
        assert find_module(block, family.attn_out)
        assert find_module(block, family.mlp_out)
    assert find_module(model, family.embed).weight.shape[1] == WIDTH
    assert find_module(model, family.final_norm)
    assert find_module(model, family.lm_head)


def test_the_tests_know_every_text_family_of_the_table() -> None:
    assert {family.name for family in FAMILIES if family.modality == "text"} == set(TEXT_FAMILIES)


def test_no_model_type_stands_in_two_rows() -> None:
    types = [model_type for family in FAMILIES for model_type in family.model_types]
    assert len(types) == len(set(types))


def test_an_unknown_type_is_refused_with_the_list_of_those_that_are_known() -> None:
    with pytest.raises(NotFoundError, match=r"gemma2, gemma3, gemma3_text, .*gpt2") as caught:
        family_of({"model_type": "t5"})
    assert "'t5'" in caught.value.message
    with pytest.raises(NotFoundError, match="'mamba'"):
        family_of({"model_type": "llava", "text_config": {"model_type": "mamba"}})
    with pytest.raises(NotFoundError, match="None"):
        family_of({})


def test_a_module_that_is_not_there_is_named_with_the_place_where_the_path_breaks() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    with pytest.raises(NotFoundError, match=r"Sequential has no module '0\.layers'.*0 has no 'layers'"):
        find_module(model, "0.layers")
