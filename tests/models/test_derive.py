"""Decoders that are not in the table of families: found by structure, proven by value, or refused with what was seen."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig

from steercache.core.errors import NotFoundError
from steercache.models.derive import derive_family, family_of_model
from steercache.models.families import family_of, is_known
from steercache.models.family import find_module
from steercache.models.load import load_bundle, load_model
from steercache.models.proof import prove
from steercache.models.recognise import evidence_of, proven_family
from steercache.zoo.smollm2 import load_smollm2
from tests.models.derived import CLASSES, N_LAYERS, REFUSED, small
from tests.models.tiny import manifest_of, train_tokenizer


@pytest.mark.parametrize("kind", CLASSES)
def test_parts_are_where_a_person_reads_them_and_prove_right(kind: str) -> None:
    model, read = small(kind), CLASSES[kind]
    assert not is_known(model.config.to_dict())
    family, evidence = evidence_of(model)
    assert (family.blocks, family.embed, family.final_norm) == (read.blocks, read.embed, read.norm)
    assert (family.attn_out, family.mlp_out) == (read.attn_out, read.mlp_out)
    assert find_module(model, family.lm_head) is model.get_output_embeddings()
    assert family.derived
    assert len(evidence) == 8
    assert all(one.holds for one in evidence)


@pytest.mark.parametrize("kind", CLASSES)
def test_the_row_is_the_same_from_the_configuration_of_real_size_without_weights(kind: str) -> None:
    """As planning has it: names of parts come from the class alone, whatever its size."""
    proposed, read = derive_family(AutoConfig.for_model(kind)), CLASSES[kind]
    assert (proposed.blocks, proposed.embed, proposed.final_norm) == (read.blocks, read.embed, read.norm)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_does_not_fit_is_refused_with_what_was_seen(kind: str) -> None:
    with pytest.raises(NotFoundError, match="not in the table of families") as refused:
        proven_family(small(kind))
    assert REFUSED[kind][1] in str(refused.value)


@pytest.mark.parametrize("kind", ["t5", "bart", "whisper", "clip", "instructblip", "no-such-type"])
def test_encoders_and_models_that_read_more_than_text_are_not_derived(kind: str, tmp_path: Path) -> None:
    written = {"model_type": kind, "is_encoder_decoder": kind in ("bart", "t5", "whisper")}
    (tmp_path / "config.json").write_text(json.dumps(written))
    train_tokenizer(bos=False).save_pretrained(tmp_path)
    save_file({"weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(NotFoundError, match=kind):
        load_bundle(manifest_of(tmp_path), cache_dir=tmp_path / "cache")


def test_a_change_between_two_blocks_is_seen() -> None:
    model = small("olmo2")
    row = family_of_model(model)
    blocks = find_module(model, row.blocks)
    handle = blocks[2].register_forward_pre_hook(
        lambda module, args, kwargs: ((args[0] * 1.01, *args[1:]), kwargs), with_kwargs=True
    )
    with pytest.raises(NotFoundError, match=r"changed after blocks \[1\]"):
        prove(model, row)
    handle.remove()
    prove(model, row)


def test_a_wrong_norm_and_a_block_that_runs_twice_are_seen() -> None:
    model = small("qwen3_moe")
    row = family_of_model(model)
    with pytest.raises(NotFoundError, match="goes through the final norm: no"):
        prove(model, replace(row, final_norm="model.layers.0.input_layernorm"))
    model.model.layers[1].forward = lambda hidden_states, **kwargs: model.model.layers[2](hidden_states, **kwargs)
    with pytest.raises(NotFoundError, match=r"blocks run in order, each once: no, order \[0, 1, 2, 2, 3\]"):
        prove(model, row)


def test_one_weight_that_is_not_a_number_is_named_by_its_block() -> None:
    model = small("olmo2")
    model.model.layers[2].mlp.down_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(NotFoundError, match="hidden states are finite: no, NaN or infinity first behind block 2"):
        prove(model, family_of_model(model))


def test_a_model_that_looks_ahead_is_seen() -> None:
    """A block that hands every row the mean of all rows too."""
    model = small("mixtral")
    row = family_of_model(model)
    model.model.layers[2].register_forward_hook(lambda module, args, out: out + 0.1 * out.mean(1, keepdim=True))
    with pytest.raises(NotFoundError, match="a change of one row moves it and later ones only"):
        prove(model, row)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_summands_are_found_in_half_precision_too(dtype: torch.dtype) -> None:
    for kind in ("olmo2", "jamba", "phi"):
        family = proven_family(small(kind, dtype))
        assert (family.attn_out, family.mlp_out) == (CLASSES[kind].attn_out, CLASSES[kind].mlp_out)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_trained_weights_prove_right_and_give_the_row_of_the_table(dtype: torch.dtype) -> None:
    """A trained model's first row has values hundreds of times those of the others: rounding is counted row by row."""
    model = load_smollm2(dtype=dtype)
    proven, evidence = prove(model, family_of_model(model))
    assert all(one.holds for one in evidence)
    table = family_of(model.config.to_dict())
    assert replace(table, name="", derived=True) == replace(proven, name="")


def test_a_folder_of_such_a_model_loads_with_its_evidence(tmp_path: Path) -> None:
    small("olmo2").save_pretrained(tmp_path / "model")
    train_tokenizer(bos=True).save_pretrained(tmp_path / "model")
    manifest = manifest_of(tmp_path / "model")
    bundle = load_bundle(manifest, cache_dir=tmp_path)
    assert bundle.family.derived
    assert bundle.spec.family == "olmo2"
    assert bundle.spec.n_layers == N_LAYERS
    loaded = load_model(manifest, cache_dir=tmp_path, device="cpu")
    assert loaded.family.attn_out == "post_attention_layernorm"
    assert {one.claim for one in loaded.evidence} >= {"blocks run in order, each once"}
