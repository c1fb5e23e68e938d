"""Cells inside a block: the bits of a live pass, branched and in full; replayed from the output of the block below."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import steercache
from steercache.core.errors import UsageError
from steercache.core.operations import read_operation
from steercache.core.vectors import SteeringVector
from steercache.models.spec import LoadedModel
from steercache.steering.branch import BranchOptions, branch
from steercache.steering.cells import ROUNDING, BranchCell, BranchPart, combined
from steercache.steering.operations.change import change_of
from steercache.steering.places import PLACES, width_of_place
from steercache.steering.recompute import recompute
from steercache.steering.replay import replay
from steercache.trace.capture import model_inputs
from tests.steering.small import N_LAYERS, padded_batch, small_model
from tests.steering.test_replay import stored
from tests.steering.tiny import vector

EXACT, FIRST = BranchOptions(max_new_tokens=1, same_batch=True), BranchOptions(max_new_tokens=1)
OPERATIONS = {"add": 1.5, "project_out": 1.0, "rotate": 50.0}


def vector_at(place: str, *, width: int = 32) -> SteeringVector:
    made = vector(*range(N_LAYERS), width=width, site="head_out" if place == "head_out" else "resid_post")
    made.values[:] = np.random.default_rng(len(place)).normal(size=made.values.shape)
    return made


def cell_at(place: Any, layer: int, text: str, *, target: str = "text", width: int = 32) -> BranchCell:
    change = change_of(vector_at(place, width=width), layer, alpha=OPERATIONS[text], operation=read_operation(text))
    key = f"{place} {layer} {text}"
    return BranchCell(key=key, layer=layer, delta_d=change.delta_d, target=target, change=change, place=place)  # type: ignore[arg-type]


@torch.inference_mode()
def live(loaded: LoadedModel, batch: Any, place: str, layer: int, text: str, *, width: int = 32) -> torch.Tensor:
    v = vector_at(place, width=width)
    with steercache.steer(loaded, v, layer=layer, alpha=OPERATIONS[text], operation=text, target="text", place=place):
        logits: torch.Tensor = loaded.model(**model_inputs(loaded, batch), logits_to_keep=1).logits[:, -1].float()
    return logits


def places_of(loaded: LoadedModel) -> list[str]:
    has_heads = loaded.family.name not in ("gemma4", "gemma4_text")  # heads of two widths
    has_parts = {"attn_out": loaded.family.attn_out, "mlp_out": loaded.family.mlp_out, "head_out": has_heads}
    return [place for place in PLACES if has_parts.get(place, True)]


SLOW = pytest.mark.slow
CASES = [
    ("llama", torch.float32),
    ("qwen3_vl", torch.bfloat16),
    *(
        pytest.param(name, torch.float32, marks=SLOW)
        for name in ("gpt2", "gemma2", "gemma4_text", "paligemma", "idefics3")
    ),
    pytest.param("llama", torch.bfloat16, marks=SLOW),
]


@pytest.mark.parametrize(("family", "dtype"), CASES)
def test_live_branch_and_full_have_the_same_bits_at_every_place_and_a_replay_above_block_0(
    family: str, dtype: torch.dtype
) -> None:
    loaded, batch = small_model(family, dtype), padded_batch(family, dtype=dtype)
    wanted = [(p, layer, "add") for p in places_of(loaded) for layer in range(N_LAYERS)]
    wanted += [(p, 1, text) for p in places_of(loaded) for text in ("project_out", "rotate")]
    cells = {cell.key: (cell, one) for one in wanted for cell in [cell_at(*one)]}
    only = [cell for cell, _ in cells.values()]
    shared = getattr(loaded.model.config.get_text_config(), "num_kv_shared_layers", None) or 0
    own_keys = N_LAYERS - 1 - shared  # the last block that computes keys of its own: what others see of a token
    branched = {a.key: a for a in branch(loaded, batch, only, EXACT)}
    full = {a.key: a for a in recompute(loaded, batch, only, EXACT)}
    together = {a.key: a for a in branch(loaded, batch, only, FIRST)}
    stand = [cell for cell in only if cell.below >= 0]
    replayed = {a.key: a for a in replay(loaded, batch, stand, stored=stored(loaded, batch), options=EXACT)}
    assert len(branched) == len(full) == len(together) == len(cells) > len(replayed) > len(cells) // 2
    plain = loaded.model(**model_inputs(loaded, batch), logits_to_keep=1).logits[:, -1].float()
    for key, (_, one) in cells.items():
        expected = live(loaded, batch, *one)
        assert torch.equal(full[key].logits_bv, expected), key
        assert torch.equal(branched[key].logits_bv, expected), key
        assert branched[key].mode == "branch"
        if key in replayed:
            assert torch.equal(replayed[key].logits_bv, expected), key
        worst = (together[key].logits_bv - expected).abs().amax(1)
        assert (worst <= ROUNDING[dtype] * expected.abs().amax(1)).all(), key
        reaches = one[1] <= own_keys if one[0] == "resid_pre" else one[1] < own_keys  # "text" leaves out the last token
        assert bool((expected - plain).abs().max() > 1e-3) == reaches, key


def test_answers_of_several_tokens_go_on_from_the_keys_of_the_block_that_is_steered() -> None:
    loaded, batch = small_model("llama"), padded_batch("llama")
    for place in PLACES:
        cells = [cell_at(place, layer, "add", target="all") for layer in (0, 1, 3)]
        options = BranchOptions(max_new_tokens=5, ends=frozenset())
        branched = {a.key: a.tokens for a in branch(loaded, batch, cells, options)}
        assert branched == {a.key: a.tokens for a in recompute(loaded, batch, cells, options)}, place
        (plain,) = branch(loaded, batch, [replace(cells[0], delta_d=0 * cells[0].delta_d, change=None)], options)
        assert any(tokens != plain.tokens for tokens in branched.values())


def test_heads_wider_than_the_model_are_branched() -> None:
    loaded, batch = small_model("llama", head_dim=12), padded_batch("llama")
    assert width_of_place(loaded.model, "head_out") == 48
    cell = cell_at("head_out", 1, "add", width=48)
    (answer,) = branch(loaded, batch, [cell], EXACT)
    assert torch.equal(answer.logits_bv, live(loaded, batch, "head_out", 1, "add", width=48))
    with pytest.raises(UsageError, match=r"shape \(32,\) and the model is 48 wide at head_out"):
        list(branch(loaded, batch, [cell_at("head_out", 1, "add")], EXACT))


@torch.inference_mode()
def test_changes_at_several_places_of_one_block_act_in_the_order_of_the_pass() -> None:
    loaded, batch = small_model("qwen3"), padded_batch("qwen3")
    order = ("resid_post", "mlp_out", "resid_pre", "attn_out")
    parts = [
        BranchPart(layer=layer, what=cell_at(place, layer, text).what, target="text", place=place)  # type: ignore[arg-type]
        for layer, text in ((2, "project_out"), (1, "add"))
        for place in order
    ]
    both = combined("both", parts)
    assert [one.place for one in both.parts[:4]] == ["resid_pre", "attn_out", "mlp_out", "resid_post"]
    assert both.below == 0
    on: Any = loaded.model
    for one in parts:
        text = "add" if one.layer == 1 else "project_out"
        on = steercache.steered(
            on,
            vector_at(one.place),
            layer=one.layer,
            alpha=OPERATIONS[text],
            operation=text,
            target="text",
            place=one.place,
            tokenizer=loaded.tokenizer,
        )
    expected = on(**model_inputs(loaded, batch), logits_to_keep=1).logits[:, -1]
    for found in (branch(loaded, batch, [both], EXACT), recompute(loaded, batch, [both], EXACT)):
        (answer,) = found
        assert torch.equal(answer.logits_bv, expected)


def test_what_lies_below_block_0_is_no_replay_and_what_a_model_lacks_no_cell() -> None:
    loaded, batch = small_model("llama"), padded_batch("llama")
    with pytest.raises(UsageError, match="attn_out of block 0 lies below the first"):
        list(replay(loaded, batch, [cell_at("attn_out", 0, "add")], stored=stored(loaded, batch)))
    with pytest.raises(UsageError, match="no layer 9"):
        list(branch(loaded, batch, [replace(cell_at("attn_out", 1, "add"), layer=9)], EXACT))
    parallel = small_model("gpt_neox")
    if not parallel.family.attn_out:
        with pytest.raises(UsageError, match="no attn_out in this model"):
            list(branch(parallel, padded_batch("gpt_neox"), [cell_at("attn_out", 1, "add")], EXACT))
