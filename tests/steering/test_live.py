"""Steering a running model: exact at the target rows, gone afterwards, the same as loops written by hand."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import steercache
from steercache.core.errors import NotFoundError, UsageError
from steercache.models.families import FAMILIES
from tests.steering.tiny import BLOCKS, CONFIGS, N_LAYERS, VOCAB, blocks_of, tiny_model, vector

IDS = torch.tensor([[0, 0, 5, 6, 7, 8], [9, 10, 11, 12, 13, 14]])
MASK = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
PROMPT = {"input_ids": IDS, "attention_mask": MASK}
REAL = MASK.bool()


TOKENIZER = SimpleNamespace(all_special_ids=[0, 1, 2], added_tokens_decoder={})


@pytest.fixture(params=CONFIGS)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def outputs_of(model: Any, family: str, run: Callable[[], Any]) -> list[list[torch.Tensor]]:
    """The output of every block in every forward pass of `run`, seen from the next block's input (hooks run after ours)."""
    seen: list[list[torch.Tensor]] = [[] for _ in range(N_LAYERS)]
    blocks = blocks_of(model, family)
    handles = [
        block.register_forward_hook(
            lambda m, a, out, i=i: seen[i].append((out[0] if isinstance(out, tuple) or out.ndim == 4 else out).clone())
        )
        for i, block in enumerate(blocks)
    ]
    run()
    for handle in handles:
        handle.remove()
    return seen


def n_hooks(model: Any) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_exactly_alpha_times_v_is_added_at_the_target_and_nothing_elsewhere(family: str, dtype: torch.dtype) -> None:
    model, v = tiny_model(family, dtype), vector(1)
    plain = outputs_of(model, family, lambda: model(**PROMPT))
    with steercache.steer(model, v, layer=1, alpha=0.7):
        steered = outputs_of(model, family, lambda: model(**PROMPT))
    assert torch.equal(steered[0][0], plain[0][0])
    delta = torch.from_numpy(np.float32(0.7) * v.at(1))
    expected = (plain[1][0].float() + delta).to(dtype)
    assert torch.equal(steered[1][0][REAL], expected[REAL])
    assert torch.equal(steered[1][0][~REAL], plain[1][0][~REAL])
    assert not torch.equal(steered[2][0][REAL], plain[2][0][REAL])


@torch.no_grad()
def by_hand(model: Any, family: str, v: Any, *, alpha: float, every: bool, n_new: int) -> torch.Tensor:
    """Greedy decoding without a cache, adding at the prompt's tokens (and the generated ones) by a hook of its own."""
    ids, mask = IDS.clone(), MASK.clone()
    delta = torch.from_numpy(np.float32(alpha) * v.at(1))

    def add(module: Any, args: Any, out: Any) -> Any:
        hidden = (out[0] if isinstance(out, tuple) else out).clone()
        where = mask.bool().clone()
        if not every:
            where[:, IDS.shape[1] :] = False
        (hidden[0] if hidden.ndim == 4 else hidden)[where] += delta  # Gemma 3n hands on four streams
        return (hidden, *out[1:]) if isinstance(out, tuple) else hidden

    handle = blocks_of(model, family)[1].register_forward_hook(add)
    for _ in range(n_new):
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        logits = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits[:, -1]
        ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], dim=1)
        mask = torch.cat([mask, torch.ones(2, 1, dtype=mask.dtype)], dim=1)
    handle.remove()
    return ids


@pytest.mark.parametrize("when", ["prefill", "every"])
@pytest.mark.parametrize("use_cache", [True, False])
@torch.no_grad()
def test_generation_equals_a_loop_written_by_hand(family: str, when: Any, use_cache: bool) -> None:
    model, v = tiny_model(family), vector(1, scale=3.0)
    expected = by_hand(model, family, v, alpha=1.5, every=when == "every", n_new=7)
    settings = {"max_new_tokens": 7, "do_sample": False, "use_cache": use_cache, "eos_token_id": VOCAB + 1}
    with steercache.steer(model, v, layer=1, alpha=1.5, when=when):
        got = model.generate(**PROMPT, **settings)
        again = model.generate(**PROMPT, **settings)
    assert torch.equal(got, expected)
    assert torch.equal(again, expected)
    assert not torch.equal(model.generate(**PROMPT, **settings), expected)


@torch.no_grad()
def test_prefill_and_every_step_differ() -> None:
    model, v = tiny_model("llama"), vector(1, scale=3.0)
    loops = [by_hand(model, "llama", v, alpha=1.5, every=every, n_new=7) for every in (False, True)]
    assert not torch.equal(*loops)


@pytest.mark.parametrize(
    ("target", "hit"),
    [
        ("all", [[2, 3, 4, 5], [0, 1, 2, 3, 4, 5]]),
        ("last", [[5], [5]]),
        ("text", [[2, 3, 4], [0, 1, 2, 3, 4]]),
        (lambda ids: (ids == 6) | (ids == 13) | (ids == 0), [[3], [4]]),
        ((IDS == 7) | (IDS == 9), [[4], [0]]),
    ],
)
@pytest.mark.parametrize("skip_first", [False, True])
@torch.no_grad()
def test_targets_hit_the_tokens_they_name(target: Any, hit: list[list[int]], skip_first: bool) -> None:
    model = tiny_model("llama")
    plain = outputs_of(model, "llama", lambda: model(**PROMPT))[1][0]
    with steercache.steer(
        model, vector(1), layer=1, alpha=1.0, target=target, skip_first=skip_first, tokenizer=TOKENIZER
    ):
        steered = outputs_of(model, "llama", lambda: model(**PROMPT))[1][0]
    changed = (steered != plain).any(-1)
    firsts = (2, 0)
    for row, positions in enumerate(hit):
        wanted = [p for p in positions if not (skip_first and p == firsts[row])]
        assert changed[row].nonzero().flatten().tolist() == wanted


@torch.no_grad()
def test_last_follows_right_padding_and_special_tokens_are_no_text() -> None:
    model = tiny_model("llama")
    ids = torch.tensor([[1, 5, 6, 2, 7, 8, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 1, 0, 0]])
    run = {"input_ids": ids, "attention_mask": mask}
    plain = outputs_of(model, "llama", lambda: model(**run))[1][0]
    for target, hit in (("last", [5]), ("text", [1, 2, 4])):
        with steercache.steer(model, vector(1), layer=1, alpha=1.0, target=target, tokenizer=TOKENIZER):
            steered = outputs_of(model, "llama", lambda: model(**run))[1][0]
        assert (steered != plain).any(-1)[0].nonzero().flatten().tolist() == hit


@torch.no_grad()
def test_contexts_nest_and_add_up_in_their_order() -> None:
    model = tiny_model("llama")
    a, b = vector(1), vector(0, 1, scale=0.3)
    plain = outputs_of(model, "llama", lambda: model(**PROMPT))
    with steercache.steer(model, a, layer=1, alpha=2.0), steercache.steer(model, b, layer=1, alpha=1.0, target="last"):
        both = outputs_of(model, "llama", lambda: model(**PROMPT))[1][0]
    expected = plain[1][0] + 2.0 * torch.from_numpy(a.at(1))
    assert torch.equal(both[1, :5], expected[1, :5])
    assert torch.equal(both[:, 5], expected[:, 5] + torch.from_numpy(b.at(1)))


@torch.no_grad()
def test_several_layers_are_steered_by_their_own_directions() -> None:
    model, v = tiny_model("llama"), vector(0, 2)
    plain = outputs_of(model, "llama", lambda: model(**PROMPT))
    with steercache.steer(model, v, layer=[0, 2], alpha=1.0):
        steered = outputs_of(model, "llama", lambda: model(**PROMPT))
    assert torch.equal(steered[0][0][1], plain[0][0][1] + torch.from_numpy(v.at(0)))
    with steercache.steer(model, v, layer=0, alpha=1.0), steercache.steer(model, v, layer=2, alpha=1.0):
        nested = outputs_of(model, "llama", lambda: model(**PROMPT))
    assert torch.equal(nested[2][0], steered[2][0])


@torch.no_grad()
def test_hooks_are_gone_after_the_context_and_after_exceptions(family: str) -> None:
    model, v = tiny_model(family), vector(1)
    before = n_hooks(model)
    plain = model(**PROMPT).logits
    with pytest.raises(ZeroDivisionError), steercache.steer(model, v, layer=1, alpha=1.0):
        n_hooks(model) / (before - before)
    assert n_hooks(model) == before
    with (
        pytest.raises(UsageError, match="selects no token"),
        steercache.steer(model, v, layer=1, alpha=1.0, target=lambda ids: ids == 96),
    ):
        model(**PROMPT)
    assert n_hooks(model) == before
    assert torch.equal(model(**PROMPT).logits, plain)


@torch.no_grad()
def test_a_pass_that_failed_leaves_the_context_usable() -> None:
    model = tiny_model("llama")
    with steercache.steer(model, vector(1), layer=1, alpha=1.0):
        expected = model(**PROMPT).logits
        with pytest.raises(IndexError):
            model(input_ids=torch.tensor([[VOCAB + 5]]))
        assert torch.equal(model(**PROMPT).logits, expected)


@torch.no_grad()
def test_the_next_turn_of_a_chat_is_a_prompt_too() -> None:
    model, v = tiny_model("llama"), vector(1)
    more = torch.tensor([[20, 21], [22, 23]])
    both = torch.cat([MASK, torch.ones_like(more)], dim=1)
    with steercache.steer(model, v, layer=1, alpha=1.0):
        cache = model(**PROMPT).past_key_values
        seen = outputs_of(
            model, "llama", lambda: model(input_ids=more, attention_mask=both, past_key_values=cache, use_cache=True)
        )[1][0]
        whole = outputs_of(model, "llama", lambda: model(input_ids=torch.cat([IDS, more], dim=1), attention_mask=both))[
            1
        ][0]
    torch.testing.assert_close(seen, whole[:, 6:], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_decoder_called_alone_and_embeddings_are_steered_too() -> None:
    model, v = tiny_model("llama"), vector(1)
    with steercache.steer(model, v, layer=1, alpha=1.0):
        expected = model(**PROMPT, output_hidden_states=True).hidden_states[-1]
        alone = model.model(**PROMPT).last_hidden_state
        embedded = model.model(inputs_embeds=model.model.embed_tokens(IDS), attention_mask=MASK).last_hidden_state
    assert torch.equal(alone, expected)
    assert torch.equal(embedded, expected)


@torch.no_grad()
def test_alpha_zero_is_the_model_itself() -> None:
    model = tiny_model("llama", torch.bfloat16)
    before = n_hooks(model)
    with steercache.steer(model, vector(1), layer=1, alpha=0.0):
        assert n_hooks(model) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer": 3}, "no layer 3"),
        ({"layer": -1}, "no layer -1"),
        ({"layer": 1.5}, "layer must be"),
        ({"layer": []}, "layer must be"),
        ({"alpha": float("nan")}, "finite"),
        ({"target": "verbs"}, "no target named"),
        ({"target": "image"}, "no image tokens"),
        ({"target": torch.ones(3, 3, dtype=torch.bool)}, "mask must be bool, or weights, of shape"),
        ({"target": torch.ones(2, 6).long()}, "mask must be bool"),
        ({"target": torch.ones(2, 6, dtype=torch.bool), "when": "every"}, "tokens of the prompt only"),
        ({"when": "sometimes"}, "no time named"),
        ({"vector": vector(1, width=16)}, "16 wide and the model 32"),
        ({"vector": vector(1, site="resid_pre")}, "blocks' input"),
    ],
)
def test_what_cannot_be_steered_is_refused(changes: dict[str, Any], message: str) -> None:
    model = tiny_model("llama")
    call: dict[str, Any] = {"vector": vector(1, 3, -1), "layer": 1, "alpha": 1.0} | changes
    with pytest.raises(UsageError, match=message), steercache.steer(model, call.pop("vector"), **call):
        model(**PROMPT)


def test_a_mask_of_another_kind_and_models_that_are_none_are_refused() -> None:
    model, v = tiny_model("llama"), vector(1)
    with steercache.steer(model, v, layer=1, alpha=1.0), pytest.raises(UsageError, match=r"\(sequence, token\)"):
        model(input_ids=IDS, attention_mask=torch.zeros(2, 1, 6, 6))
    with (
        pytest.raises(UsageError, match="cannot be steered"),
        steercache.steer(torch.nn.Linear(2, 2), v, layer=1, alpha=1),
    ):
        pass
    mamba = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("mamba", hidden_size=8, num_hidden_layers=1, vocab_size=9)
    )
    with pytest.raises(NotFoundError, match="mamba"), steercache.steer(mamba, v, layer=1, alpha=1.0):
        pass


def test_every_text_family_of_the_table_is_tried_here() -> None:
    text = {f.name for f in FAMILIES if f.modality == "text"} - {"gemma"}  # PaliGemma's, with the layout of gemma2
    assert text == set(CONFIGS)
    assert set(BLOCKS) <= text


@torch.no_grad()
def test_a_prompt_that_a_named_target_misses_is_named_and_a_mask_may_leave_one_alone() -> None:
    model = tiny_model("llama")
    ids = torch.tensor([[1, 5, 6, 7], [0, 0, 0, 8]])
    run = {"input_ids": ids, "attention_mask": torch.tensor([[1, 1, 1, 1], [0, 0, 0, 1]])}
    with (
        pytest.raises(UsageError, match="'text' selects no token of prompt 2 of 2"),
        steercache.steer(model, vector(1), layer=1, alpha=1.0, target="text", tokenizer=TOKENIZER),
    ):
        model(**run)
    plain = outputs_of(model, "llama", lambda: model(**run))[1][0]
    with steercache.steer(model, vector(1), layer=1, alpha=1.0, target=ids == 6):
        steered = outputs_of(model, "llama", lambda: model(**run))[1][0]
    assert (steered != plain).any(-1).nonzero().tolist() == [[0, 2]]


def test_special_tokens_are_not_guessed_and_what_is_no_vector_is_named() -> None:
    model = tiny_model("llama")
    with (
        pytest.raises(UsageError, match="does not know which those are"),
        steercache.steer(model, vector(1), layer=1, alpha=1.0, target="text"),
    ):
        pass
    with (
        pytest.raises(UsageError, match="expected a SteeringVector, not 'counting'"),
        steercache.steer(model, "counting", layer=1, alpha=1.0),
    ):
        pass
    with steercache.steer(model, vector(1), layer=np.array([1]), alpha=1.0):
        pass
