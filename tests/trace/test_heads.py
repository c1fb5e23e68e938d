"""Outputs of attention heads: against hooks at modules named here, attention computed by hand, and through cache and SQL."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

import steercache
from steercache.core.errors import UsageError
from steercache.models.heads import heads_of
from steercache.models.spec import LoadedModel
from steercache.trace.capture import capture, make_capture, model_inputs
from tests.models.derived import CLASSES
from tests.steering.small import IMAGE, N_LAYERS, padded_batch, small_model
from tests.steering.test_derived import COMMON, loaded_model
from tests.tiny import write_tiny_model
from tests.tracing import SmallTrace, write_small_trace

O_PROJ = "self_attn.o_proj"
PATHS = {  # where it is not `self_attn.o_proj`, read off transformers' source by a person
    "phi": "self_attn.dense",
    "lfm2": "self_attn.out_proj",
    "opt": "self_attn.out_proj",
    "falcon": "self_attention.dense",
    "gptj": "attn.out_proj",
}
LAYERS = {
    "qwen3_next": (3,),
    "qwen3_5_text": (3,),
    "qwen3_5_moe_text": (3,),
    "jamba": (1, 3),
    "lfm2": (1, 3),
}
QUICK = (*COMMON, "deepseek_v3", "jamba", "paligemma", "idefics3")
KINDS = [k if k in QUICK else pytest.param(k, marks=pytest.mark.slow) for k in (*CLASSES, *IMAGE)]


def made(kind: str) -> tuple[LoadedModel, Any]:
    if kind in CLASSES:
        return loaded_model(kind), padded_batch("llama")
    return small_model(kind), padded_batch(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_what_heads_give_is_what_their_projection_reads(kind: str) -> None:
    loaded, batch = made(kind)
    layers = LAYERS.get(kind, tuple(range(N_LAYERS)))
    if kind.startswith("qwen3_5"):
        kinds = loaded.config.get_text_config().layer_types
        layers = tuple(layer for layer, one in enumerate(kinds) if one == "full_attention")
    blocks = loaded.model.get_submodule(loaded.family.blocks)
    seen: dict[int, torch.Tensor] = {}
    for layer in layers:
        module = blocks[layer].get_submodule(PATHS.get(kind, O_PROJ))
        module.register_forward_pre_hook(lambda m, args, layer=layer: seen.__setitem__(layer, args[0].clone()))
    with torch.inference_mode():
        loaded.model(**model_inputs(loaded, batch))
    expected = dict(seen)
    found = capture(loaded, batch, sites=["head_out"], layers=layers)["head_out"]
    for layer, rows in zip(layers, found, strict=True):
        assert rows.shape == (*batch.input_ids.shape, heads_of(loaded.config).joined)
        assert torch.equal(rows, expected[layer])
    for layer in set(range(N_LAYERS)) - set(layers):
        with pytest.raises(UsageError, match=f"block {layer} has no attention with one output projection"):
            make_capture(loaded, sites=["head_out"], layers=[layer])


def test_the_heads_lie_side_by_side_in_the_order_of_their_attention() -> None:
    loaded = small_model("llama")
    loaded.model.set_attn_implementation("eager")
    batch = padded_batch("llama", side="right")
    states = capture(loaded, batch, sites=["resid_pre", "head_out"], layers=[1])
    block, config = loaded.model.model.layers[1], loaded.config
    with torch.inference_mode():
        weights = loaded.model(**model_inputs(loaded, batch), output_attentions=True).attentions[1]
        values = block.self_attn.v_proj(block.input_layernorm(states["resid_pre"][0]))
    n, width = config.num_attention_heads, config.head_dim
    each = values.unflatten(-1, (-1, width)).transpose(1, 2).repeat_interleave(n // config.num_key_value_heads, dim=1)
    by_hand = (weights @ each).transpose(1, 2).flatten(-2)
    real = batch.attention_mask.bool()
    torch.testing.assert_close(states["head_out"][0][real], by_hand[real], atol=1e-6, rtol=1e-5)


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> SmallTrace:
    """Heads that are together wider than the model."""
    folder = tmp_path_factory.mktemp("heads") / "t"
    write_tiny_model(folder / "model")
    torch.manual_seed(0)
    config = LlamaConfig.from_pretrained(folder / "model", head_dim=12)
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    trace = write_small_trace(folder, n=12, sites=["resid_post", "head_out"], layers=[0, 2])
    trace.build(folder / "root")
    return trace


def test_rows_of_heads_in_the_cache_and_in_sql_are_those_of_a_plain_forward(trace: SmallTrace) -> None:
    cache = steercache.open(trace.folder / "root")
    model = AutoModelForCausalLM.from_pretrained(trace.folder / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(trace.folder / "model")
    seen: list[torch.Tensor] = []
    model.model.layers[2].self_attn.o_proj.register_forward_pre_hook(lambda m, args: seen.append(args[0][0]))
    for line in (trace.folder / "data.jsonl").read_text().splitlines():
        with torch.no_grad():
            model(**tokenizer(json.loads(line)["text"], return_tensors="pt"))
    expected = torch.cat(seen).numpy()

    run = cache.run("small")
    sel = cache.select("all_rows", run="small", site="head_out", first_position=True)
    rows = sel.gather(2)
    assert rows.shape == (len(expected), 48)
    np.testing.assert_allclose(rows, expected, atol=2e-6)
    asked = f"select row_idx, activation(run_id, 'head_out', 2, row_idx) as a from tokens where run_id = '{run.run_id}'"
    table = cache.sql(f"{asked} order by row_idx").df()
    assert np.array_equal(np.stack(table["a"].to_list()).astype(np.float32), rows)
    assert run.sites == {"resid_post": (0, 2), "head_out": (0, 2)}
    document = json.loads((trace.folder / "root" / "runs" / run.run_id / "run.json").read_text())
    assert document["model"]["n_heads"] == 4


def test_a_model_whose_configuration_names_no_heads_has_no_such_site(trace: SmallTrace) -> None:
    config = LlamaConfig.from_pretrained(trace.folder / "model")
    assert heads_of(config).joined == 48
    config.num_attention_heads = 0
    with pytest.raises(UsageError, match="names no number of attention heads"):
        heads_of(config)


def test_a_model_whose_layers_have_heads_of_different_widths_has_no_such_site() -> None:
    for width, differs in ((8, False), (16, True)):
        config = AutoConfig.for_model("gemma4_text", head_dim=8, num_attention_heads=4, global_head_dim=width)
        if differs:
            with pytest.raises(UsageError, match="heads of different widths"):
                heads_of(config)
        else:
            assert heads_of(config).joined == 32


def test_directions_fitted_at_heads_steer_there_and_are_fitted_again_from_what_they_say(trace: SmallTrace) -> None:
    cache = steercache.open(trace.folder / "root")
    query = "select run_id, row_idx, position % 2 as label, sample_idx as pair from tokens where run_id = $run and position > 0"
    (vector,) = cache.fit("head_probes", run="small", site="head_out", query=query, top=3, name="truth")
    assert vector.site == "head_out"
    assert vector.provenance["params"]["n_heads"] == 4
    assert cache.refit("truth").values.tobytes() == vector.values.tobytes()

    model = AutoModelForCausalLM.from_pretrained(trace.folder / "model").eval()
    ids = torch.tensor([[3, 5, 7, 9]])
    layer, head, _ = vector.provenance["params"]["heads"][0]
    states = []
    block = model.model.layers[layer].self_attn.o_proj
    handle = block.register_forward_pre_hook(lambda m, args: states.append(args[0].clone()), prepend=False)
    steered = steercache.steered(model, vector, layer=layer, alpha=15.0)
    with torch.no_grad():
        model(ids)
    handle.remove()
    with torch.no_grad(), steered:
        handle = block.register_forward_pre_hook(lambda m, args: states.append(args[0].clone()))
        model(ids)
        handle.remove()
    moved = (states[1] - states[0]).unflatten(-1, (4, 12))
    assert moved[..., head, :].norm(dim=-1).min() > 0
    np.testing.assert_allclose(moved[0, 0].flatten().numpy(), 15 * vector.at(layer), rtol=1e-3, atol=1e-4)
