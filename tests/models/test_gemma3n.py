"""Gemma 3n: parts at real size on the meta device (without its vision tower, 294 million, of timm), and its four streams."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as tf
from transformers.models.auto.modeling_auto import MODEL_MAPPING
from transformers.models.gemma3n.configuration_gemma3n import Gemma3nVisionConfig

from steercache.answers.replays import find_replay
from steercache.core.errors import MissingExtraError
from steercache.models.families import family_of
from steercache.models.family import find_module
from steercache.models.load import load_model
from steercache.models.sharing import KeySharing, key_sharing
from steercache.models.streams import active_stream, merged
from steercache.steering.branch import BranchOptions, branch
from steercache.steering.cells import BranchCell
from tests.models import tiny_gemma3n, tiny_images
from tests.models.gemma4_sizes import layers_of
from tests.models.tiny import manifest_of, tiny_config
from tests.steering.small import directions, padded_batch, small_model
from tests.steering.test_branch import full_logits

TOWER = 0.294e9


def config_of(n_layers: int, inner: int, n_shared: int) -> Any:
    text = {
        "num_hidden_layers": n_layers,
        "intermediate_size": inner,
        "num_kv_shared_layers": n_shared,
        "layer_types": layers_of(4, n_layers // 5),
        "activation_sparsity_pattern": [0.95] * 10 + [0.0] * (n_layers - 10),
    }
    vision = tiny_gemma3n.vision(hidden_size=2048, patch=48, vocab_offset=262_144) | {"vocab_size": 128}
    return tf.Gemma3nConfig(text_config=text, vision_config=vision)


@pytest.mark.parametrize(
    ("sizes", "billions"), [((30, 8192, 10), 5.44), ((35, 16_384, 15), 7.85)], ids=["gemma-3n-E2B", "gemma-3n-E4B"]
)
def test_a_real_gemma_3n_has_its_parts_where_the_table_says(sizes: tuple[int, int, int], billions: float) -> None:
    config = config_of(*sizes)
    with torch.device("meta"):
        model = tf.AutoModelForImageTextToText.from_config(config)
        streams = torch.empty(4, 1, 3, 2048)
        positions = torch.zeros(1, 3, dtype=torch.long)
        hidden_by_layer = torch.empty(1, 3, 256)
    n = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("model.vision_tower"))
    assert n + TOWER == pytest.approx(billions * 1e9, rel=0.01)
    family = family_of(config.to_dict())
    blocks, decoder = find_module(model, family.blocks), model.model.language_model
    assert len(blocks) == sizes[0]
    assert find_module(model, family.embed).weight.shape == (262_400, 2048)
    assert find_module(model, family.final_norm).weight.shape == (2048,)
    assert find_module(model, family.lm_head).weight.shape == (262_400, 2048)
    assert find_module(model, family.connector or "").weight.shape == (2048,)
    assert (family.attn_out, family.mlp_out, active_stream(family, config)) == ("", "", 0)
    rotary = decoder.rotary_emb(streams, positions, "full_attention")
    out = blocks[19](streams, rotary, hidden_by_layer, shared_kv_states={})
    assert out.shape == streams.shape
    assert merged(decoder, out, 0).shape == (1, 3, 2048)
    assert key_sharing(config) == KeySharing(n_own=20, sources={"sliding_attention": 18, "full_attention": 19})


def test_without_timm_a_checkpoint_with_pictures_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_images.write_tiny_images("gemma3n", tmp_path / "model")
    monkeypatch.delitem(MODEL_MAPPING._extra_content, Gemma3nVisionConfig)  # the tests' own tower
    with pytest.raises(MissingExtraError, match="timm"):
        load_model(manifest_of(folder), cache_dir=tmp_path, device="cpu")


def test_what_the_last_norm_gets_is_what_the_model_gives_it() -> None:
    torch.manual_seed(0)
    model = tf.AutoModelForCausalLM.from_config(tiny_config("gemma3n_text")).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    seen: list[torch.Tensor] = []
    model.model.norm.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model.model.layers[-1].register_forward_hook(lambda module, args, out: seen.append(out))
    with torch.no_grad():
        model(input_ids=torch.arange(3, 12)[None])
        whole, normed = seen
        assert torch.equal(merged(model.model, whole, 0), normed)
    assert not torch.equal(whole[0], normed)


def test_a_branch_carries_all_streams_and_is_the_full_steered_forward() -> None:
    """In other dtypes, with longer answers and with pictures among the slow tests."""
    loaded, batch = small_model("gemma3n_text"), padded_batch("gemma3n_text")
    cells = [
        BranchCell(key=f"{target}@{layer}", layer=layer, delta_d=directions(1)[0], target=target)
        for target, layer in (("all", 0), ("last", 2), ("text", 1), ("last", 3))
    ]
    for answer in branch(loaded, batch, cells, BranchOptions(max_new_tokens=1, same_batch=True)):
        cell = next(one for one in cells if one.key == answer.key)
        assert answer.mode == "branch"
        assert torch.equal(answer.logits_bv, full_logits(loaded, batch, cell)), answer.key


def test_no_run_is_looked_for_whose_rows_could_not_be_replayed() -> None:
    asked: Any = [SimpleNamespace(encoded=SimpleNamespace(sample_id="a" * 64))]
    cache: Any = SimpleNamespace(documents=list)
    assert find_replay(cache, small_model("gemma3n_text"), asked, [0]) == (
        None,
        "its blocks hand on 4 residual streams (AltUp), and a run keeps the active one alone",
    )
    assert find_replay(cache, small_model("llama"), asked, [0])[1] == "no run has rows of small"
