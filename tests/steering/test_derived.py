"""Models that are not in the table of families, steered live, branched and in full: the same logits and the same answers."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from steercache.models.recognise import evidence_of
from steercache.models.spec import LoadedModel
from steercache.steering.branch import BranchOptions, branch, branch_from
from steercache.steering.cells import ROUNDING, BranchCell
from steercache.steering.prefill import run_prefill
from steercache.steering.recompute import obstacle_of, recompute
from steercache.steering.replay import replay
from steercache.trace.capture import capture, model_inputs, sites_of
from tests.models.derived import CLASSES, N_LAYERS, small
from tests.steering.small import DECODER, directions, padded_batch, small_model
from tests.steering.test_branch import N_NEW, full_logits, generated
from tests.steering.test_replay import stored

# One of each kind by default: experts, a second norm, logits that are scaled, other state.
COMMON = ("qwen3_moe", "olmo2", "cohere2", "qwen3_5_text")
KINDS = [kind if kind in COMMON else pytest.param(kind, marks=pytest.mark.slow) for kind in CLASSES]


def loaded_model(kind: str, dtype: torch.dtype = torch.float32) -> LoadedModel:
    """A small model of such a class with the tokenizer of `small_model`."""
    model = small(kind, dtype)
    like = small_model("llama", dtype)
    family, evidence = evidence_of(model)
    return LoadedModel(model=model, bundle=replace(like.bundle, config=model.config, family=family), evidence=evidence)


def _cells() -> list[BranchCell]:
    vector, other = directions(2)
    return [
        BranchCell(key=f"{target}@{layer}", layer=layer, delta_d=delta, target=target)
        for target, layer, delta in (("all", 0, vector), ("text", 1, other), ("last", 2, vector), ("last", 3, other))
    ]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", KINDS)
def test_captured_rows_are_those_of_a_plain_forward(kind: str, side: str) -> None:
    loaded = loaded_model(kind)
    batch = padded_batch("llama", side=side)
    with torch.inference_mode():
        own = loaded.model(**model_inputs(loaded, batch), output_hidden_states=True).hidden_states
    sites = sites_of(loaded.family)
    states = capture(loaded, batch, sites=sites, layers=range(N_LAYERS))
    real = batch.attention_mask.bool()
    for layer in range(N_LAYERS - 1):
        assert torch.equal(states["resid_post"][layer][real], own[layer + 1][real])
        assert torch.equal(states["resid_pre"][layer][real], own[layer][real])
    if "attn_out" in sites:
        for layer in range(N_LAYERS):
            total = sum(states[site][layer][real].double() for site in ("resid_pre", "attn_out", "mlp_out"))
            torch.testing.assert_close(total, states["resid_post"][layer][real].double(), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_branches_equal_the_steered_model(kind: str, dtype: torch.dtype) -> None:
    loaded = loaded_model(kind, dtype)
    batch = padded_batch("llama", dtype=dtype)
    reason = CLASSES[kind].full
    for same_batch in (True, False):
        options = BranchOptions(max_new_tokens=N_NEW, same_batch=same_batch, ends=frozenset({2}))
        answers = {one.key: one for one in branch(loaded, batch, _cells(), options)}
        for cell in _cells():
            got = answers[cell.key]
            assert got.mode == ("full" if reason else "branch")
            assert (got.reason or "").startswith(reason)
            wanted = full_logits(loaded, batch, cell)
            if same_batch or reason:
                assert torch.equal(got.logits_bv, wanted)
            else:
                assert (got.logits_bv - wanted).abs().max() <= ROUNDING[dtype] * wanted.abs().max()
            whole = next(recompute(loaded, batch, [cell], options))
            assert torch.equal(whole.logits_bv, wanted)
            assert whole.tokens == got.tokens or bool(got.near_tie_b.any())
            for i, tokens in enumerate(generated(loaded, batch, cell)):
                assert tuple(got.tokens[i]) == tokens or bool(got.near_tie_b[i])


def test_a_model_whose_blocks_remember_is_run_in_full() -> None:
    """Upper blocks that give other values when they run again: no argument shows it, only trying does."""
    loaded = loaded_model("olmo2")
    block = loaded.model.model.layers[-1]
    original, calls = block.forward, []

    def remembering(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return original(*args, **kwargs) * (1 + len(calls) / 100)

    remembering.__wrapped__ = original  # type: ignore[attr-defined]
    block.forward = remembering
    batch = padded_batch("llama")
    assert "give other values" in str(run_prefill(loaded, batch, layers=[0]).obstacle)
    assert "give other values" in str(obstacle_of(loaded, batch))


def test_zero_strength_is_the_model_itself() -> None:
    loaded, batch = loaded_model("qwen3_moe"), padded_batch("llama")
    cell = BranchCell(key="zero", layer=1, delta_d=directions(1)[0] * 0, target="all")
    plain = run_prefill(loaded, batch, layers=[1]).logits_bv
    for same_batch in (True, False):
        (got,) = branch(loaded, batch, [cell], BranchOptions(max_new_tokens=1, same_batch=same_batch))
        torch.testing.assert_close(got.logits_bv, plain, rtol=1e-6, atol=1e-5)


TEXT_MODELS = {
    "phi": DECODER,
    "phi3": DECODER,
    "qwen3_moe": DECODER | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "granite": DECODER | {"residual_multiplier": 0.5, "logits_scaling": 2.0},
}


@pytest.mark.parametrize(
    ("family", "text"), [("llava", "phi3"), ("llava", "phi"), ("internvl", "qwen3_moe"), ("llava_next", "granite")]
)
def test_pictures_before_a_derived_text_model_are_branched_and_replayed_exactly(family: str, text: str) -> None:
    loaded = small_model(family, text_config=TEXT_MODELS[text] | {"model_type": text})
    assert loaded.family.derived
    # Experts compute padding beside the tokens, and a run does not store it.
    batch = padded_batch(family, lengths=(12, 12) if text == "qwen3_moe" else (9, 12, 7))
    cells = [
        BranchCell(key=f"{target}@{layer}", layer=layer, delta_d=directions(1)[0], target=target)
        for target, layer in (("image", 0), ("both", 1), ("text", 2))
    ]
    prefill = run_prefill(loaded, batch, layers=range(N_LAYERS))
    assert prefill.obstacle is None
    rows = stored(loaded, batch)
    exact = BranchOptions(max_new_tokens=1, same_batch=True)
    branched = {a.key: a for a in branch_from(prefill, cells, exact)}
    replayed = {a.key: a for a in replay(loaded, batch, cells, stored=rows, options=exact)}
    for cell in cells:
        expected = full_logits(loaded, batch, cell)
        assert torch.equal(branched[cell.key].logits_bv, expected), cell.key
        assert torch.equal(replayed[cell.key].logits_bv, expected), cell.key
