"""Places inside a block: what is applied there against hooks and weights written here."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import steercache
from steercache.core.errors import UsageError
from steercache.core.vector_use import VectorUse
from tests.models.derived import small
from tests.models.tiny import PATHS
from tests.steering.tiny import CONFIGS, N_LAYERS, VOCAB, blocks_of, tiny_model, vector

IDS = torch.tensor([[3, 14, 15, 9, 26, 5], [35, 8, 9, 7, 9, 3]])
PLACES = ("resid_pre", "head_out", "attn_out", "mlp_out", "resid_post")


@contextmanager
def plainly_added(module: Any, delta: torch.Tensor, *, before: bool) -> Iterator[None]:
    def add(module: Any, args: Any, output: Any = None) -> Any:
        value = args if before else output
        first = value[0] if isinstance(value, tuple) else value
        moved = (
            first + delta if first.ndim == 3 else torch.cat([first[:1] + delta, first[1:]])
        )  # Gemma 3n: four streams
        return (moved, *value[1:]) if isinstance(value, tuple) else moved

    handle = module.register_forward_pre_hook(add) if before else module.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
@pytest.mark.parametrize("family", CONFIGS)
def test_a_vector_is_added_at_its_place_in_the_block(family: str) -> None:
    model, paths = tiny_model(family), PATHS[family]
    plain = model(IDS).logits
    block = blocks_of(model, family)[1]
    for place in PLACES if paths.attn_out else ("resid_pre", "resid_post"):
        v = vector(1, scale=3.0, site="head_out" if place == "head_out" else "resid_post")
        module = block.get_submodule(getattr(paths, place, "")) if place.endswith("_out") else block
        delta = 0.7 * torch.from_numpy(v.at(1))
        with plainly_added(module, delta, before=place in ("resid_pre", "head_out")):
            expected = model(input_ids=IDS).logits
        with steercache.steer(model, v, layer=1, alpha=0.7, place=place):
            found = model(input_ids=IDS).logits
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        assert (found - plain).abs().max() > 1e-2, place
        with steercache.steer(model, v, layer=1, alpha=0.0, place=place):
            assert torch.equal(model(input_ids=IDS).logits, plain)


@torch.no_grad()
def test_heads_narrower_or_wider_than_the_model_are_steered_and_their_projection_is_what_attention_gains() -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", **(CONFIGS["llama"] | {"head_dim": 12}))
    model = AutoModelForCausalLM.from_config(config).eval()
    v = vector(1, scale=2.0, width=48, site="head_out")
    projected = model.model.layers[1].self_attn.o_proj.weight @ torch.from_numpy(v.at(1))
    as_sum = replace(vector(1), values=projected.numpy()[None])
    with steercache.steer(model, v, layer=1, alpha=1.5):
        at_heads = model(IDS).logits
    with steercache.steer(model, as_sum, layer=1, alpha=1.5, place="attn_out"):
        at_attention = model(IDS).logits
    torch.testing.assert_close(at_heads, at_attention, rtol=1e-4, atol=1e-5)
    with pytest.raises(UsageError, match="48 wide and the model 32"):
        steercache.steered(model, v, layer=1, alpha=1.0, place="attn_out")


@torch.no_grad()
def test_a_direction_projected_out_wherever_it_is_written_is_the_model_with_orthogonalised_weights() -> None:
    model, v = tiny_model("llama"), vector(*range(N_LAYERS))
    v = replace(v, values=v.values[:1].repeat(N_LAYERS, axis=0))  # one direction, every layer
    u = torch.nn.functional.normalize(torch.from_numpy(v.at(0)), dim=0)
    layers = range(N_LAYERS)
    on: Any = model
    for place, at in (("resid_pre", [0]), ("attn_out", layers), ("mlp_out", layers)):
        on = steercache.steered(on, v, layer=list(at), alpha=1.0, operation="project_out", place=place, phase="both")
    found = on(IDS).logits
    ablated = tiny_model("llama")
    ablated.model.embed_tokens.weight.data -= torch.outer(ablated.model.embed_tokens.weight @ u, u)
    for block in ablated.model.layers:
        for weight in (block.self_attn.o_proj.weight, block.mlp.down_proj.weight):
            weight.data -= torch.outer(u, u @ weight)
    torch.testing.assert_close(found, ablated(IDS).logits, rtol=1e-4, atol=1e-5)
    assert (found - model(IDS).logits).abs().max() > 1e-2


@torch.no_grad()
def test_a_vectors_use_says_its_place() -> None:
    model, v = tiny_model("qwen3"), vector(1, scale=3.0)
    used = replace(v, use=VectorUse(place="mlp_out", layers=(1,), strength=0.5))
    with steercache.steer(model, v, layer=1, alpha=0.5, place="mlp_out"):
        expected = model(IDS).logits
    assert torch.equal(steercache.steered(model, used)(IDS).logits, expected)
    at_heads = replace(v, site="head_out")
    with steercache.steer(model, at_heads, layer=1, alpha=0.5, place="head_out"):
        expected = model(IDS).logits
    assert torch.equal(steercache.steered(model, at_heads, layer=1, alpha=0.5)(IDS).logits, expected)


@torch.no_grad()
def test_generated_tokens_are_steered_at_heads_too() -> None:
    model, v = tiny_model("llama"), vector(1, scale=4.0, site="head_out")
    ids = IDS[:1]
    o_proj = model.model.layers[1].self_attn.o_proj
    with plainly_added(o_proj, torch.from_numpy(v.at(1)), before=True):
        for _ in range(4):
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
    with steercache.steer(model, v, layer=1, alpha=1.0, when="every"):
        assert torch.equal(model.generate(IDS[:1], max_new_tokens=4, do_sample=False), ids)


@pytest.mark.parametrize(
    ("site", "place", "message"),
    [
        ("head_out", "resid_post", "cannot be applied at resid_post"),
        ("resid_post", "head_out", "cannot be applied at head_out"),
        ("resid_post", "elsewhere", "no place named 'elsewhere'"),
    ],
)
def test_places_that_do_not_fit_are_refused(site: str, place: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        steercache.steered(tiny_model("llama"), vector(1, site=site), layer=1, alpha=1.0, place=place)


def test_blocks_without_heads_are_refused_by_their_number() -> None:
    """Qwen3-Next: most of its blocks have linear attention, the last of four heads with one projection."""
    model = small("qwen3_next")
    heads = vector(0, 3, site="head_out")
    with pytest.raises(UsageError, match="block 0 has no attention with one output projection"):
        steercache.steered(model, heads, layer=0, alpha=1.0)
    plain = model(IDS % VOCAB).logits
    steered = steercache.steered(model, heads, layer=3, alpha=5.0)(IDS % VOCAB).logits
    assert not torch.allclose(plain, steered)


@torch.no_grad()
def test_a_target_that_looks_at_the_output_of_a_block_cannot_be_decided_inside_it() -> None:
    model, v = tiny_model("llama"), vector(1, 2)
    target = "sql: list_inner_product(activation(1), vector('v', 1)) > 0"
    with pytest.raises(UsageError, match="reaches after attn_out of layer 1"):
        steercache.steered(model, v, layer=1, alpha=1.0, target=target, place="attn_out")
    for layer, place in ((2, "attn_out"), (1, "resid_post")):
        steercache.steered(model, v, layer=layer, alpha=1.0, target=target, place=place)
