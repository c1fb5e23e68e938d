"""A steered object stands in for its model: the same values as `steer`, in its own calls and its own thread only."""

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, PreTrainedModel

import steercache
from steercache.core.errors import NotFoundError, UsageError
from steercache.core.vector_use import VectorUse
from steercache.steering.watch import ForwardWatch
from tests.steering.small import padded_batch, small_model
from tests.steering.tiny import N_LAYERS, blocks_of, tiny_model, vector

V = vector(*range(N_LAYERS), scale=2.0)
IDS = torch.randint(3, 90, (3, 7), generator=torch.Generator().manual_seed(1))
MASKS = {side: torch.ones(3, 7, dtype=torch.long) for side in ("left", "right")}
MASKS["left"][1, :3] = 0
MASKS["right"][1, 4:] = 0


def n_hooks(model: Any) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def outputs_of(model: Any, call: Any, layer: int) -> list[torch.Tensor]:
    """What block `layer` gives out in every pass of a call, behind all hooks but this one."""
    seen: list[torch.Tensor] = []

    handle = blocks_of(model, "llama")[layer + 1].register_forward_pre_hook(
        lambda module, args: seen.append(args[0].clone())
    )
    try:
        call()
    finally:
        handle.remove()
    return seen


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
@torch.inference_mode()
def test_a_pass_of_the_object_is_a_steered_pass_and_the_model_stays_as_it_is(family: str, side: str) -> None:
    model = tiny_model(family)
    inputs = {"input_ids": IDS, "attention_mask": MASKS[side]}
    before = model(**inputs).logits
    made = steercache.steered(model, V, layer=[0, 1], alpha=1.5)
    with steercache.steer(model, V, layer=[0, 1], alpha=1.5):
        expected = model(**inputs).logits

    assert isinstance(made, PreTrainedModel)
    assert type(made).__name__ == type(model).__name__
    for given in (made(**inputs).logits, made.forward(**inputs).logits):
        assert torch.equal(given, expected)
    assert torch.equal(model(**inputs).logits, before)
    assert not torch.equal(expected, before)
    assert n_hooks(model) == 0


@pytest.mark.parametrize(
    ("phase", "passes"), [("prompt", (True, False)), ("generated", (False, True)), ("both", (True, True))]
)
@torch.inference_mode()
def test_exactly_the_tokens_of_a_phase_are_moved_in_generation_with_a_cache(
    phase: Any, passes: tuple[bool, bool]
) -> None:
    model, layer = tiny_model("llama"), 1
    delta = np.float32(3.0) * V.at(layer)
    made = steercache.steered(model, V, layer=layer, alpha=3.0, phase=phase)
    moved: list[torch.Tensor] = []

    def before(module: Any, args: Any, out: Any) -> None:
        moved.append(-out)

    first = blocks_of(model, "llama")[layer].register_forward_hook(before)  # runs before the hooks that steer
    inputs = {"input_ids": IDS, "attention_mask": MASKS["left"]}
    after = outputs_of(model, lambda: made.generate(**inputs, max_new_tokens=4, do_sample=False), layer)
    first.remove()

    assert [x.shape[1] for x in after] == [7, 1, 1, 1]
    for i, (plain, steered) in enumerate(zip(moved, after, strict=True)):
        real = MASKS["left"].bool() if i == 0 else torch.ones(3, 1, dtype=torch.bool)
        expected = torch.where((real & passes[min(i, 1)])[..., None], -plain + torch.from_numpy(delta), -plain)
        assert torch.equal(steered, expected)


@torch.inference_mode()
def test_as_a_context_it_steers_the_model_itself_in_every_thread_and_not_twice() -> None:
    model = tiny_model("llama")
    inputs = {"input_ids": IDS, "attention_mask": MASKS["left"]}
    plain = model(**inputs).logits
    made = steercache.steered(model, V, layer=1, alpha=2.0)
    expected = made(**inputs).logits
    seen: list[torch.Tensor] = []
    with made as same:
        assert same is made
        thread = threading.Thread(target=torch.inference_mode(lambda: seen.append(model(**inputs).logits)))
        thread.start()
        thread.join()
        seen += [model(**inputs).logits, made(**inputs).logits]
        with pytest.raises(UsageError, match="open already"):
            made.__enter__()
    assert all(torch.equal(one, expected) for one in seen)
    assert torch.equal(model(**inputs).logits, plain)
    with pytest.raises(RuntimeError, match="inside"), made:
        raise RuntimeError("inside")
    assert n_hooks(model) == 0


def test_threads_that_call_the_model_and_two_objects_at_once_do_not_see_each_other() -> None:
    model = tiny_model("llama")
    inputs = {"input_ids": IDS, "attention_mask": MASKS["right"]}
    objects = [model, *(steercache.steered(model, V, layer=i, alpha=2.0) for i in (0, 1))]
    with torch.inference_mode():
        expected = [one(**inputs).logits for one in objects]
    wrong: list[int] = []

    def run(i: int) -> None:
        with torch.inference_mode():
            wrong.extend(i for _ in range(30) if not torch.equal(objects[i](**inputs).logits, expected[i]))

    threads = [threading.Thread(target=run, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert n_hooks(model) == 0


def test_a_pass_that_begins_while_another_thread_puts_its_hooks_in_place_is_left_alone() -> None:
    model = tiny_model("llama")
    elsewhere = ForwardWatch(thread=-1)
    model.register_forward_pre_hook(
        elsewhere.enter
    )  # torch has the hook, and not yet that it wants the keyword arguments
    with torch.inference_mode():
        assert model(input_ids=IDS, attention_mask=MASKS["left"]).logits.shape[0] == 3
    assert elsewhere.parts == ()


@torch.inference_mode()
def test_objects_nest_and_strength_zero_is_the_model_bit_for_bit() -> None:
    model = tiny_model("llama", torch.bfloat16)
    inputs = {"input_ids": IDS, "attention_mask": MASKS["left"]}
    none = steercache.steered(model, V, layer=1, alpha=0.0)
    assert torch.equal(none(**inputs).logits, model(**inputs).logits)
    both = steercache.steered(steercache.steered(model, V, layer=0, alpha=2.0), V, layer=2, alpha=-1.0)
    with steercache.steer(model, V, layer=0, alpha=2.0), steercache.steer(model, V, layer=2, alpha=-1.0):
        expected = model(**inputs).logits
    assert torch.equal(both(**inputs).logits, expected)


@torch.inference_mode()
def test_picture_tokens_of_a_loaded_model_are_steered() -> None:
    loaded, batch = small_model("llava"), padded_batch("llava")
    made = steercache.steered(loaded, vector(1, scale=2.0), layer=1, alpha=2.0, target="image")
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, **batch.pixels}
    with steercache.steer(loaded, vector(1, scale=2.0), layer=1, alpha=2.0, target="image"):
        expected = loaded.model(**inputs).logits
    assert torch.equal(made(**inputs).logits, expected)
    assert not torch.equal(loaded.model(**inputs).logits, expected)


@torch.inference_mode()
def test_what_a_vector_carries_is_the_default() -> None:
    model = tiny_model("llama")
    inputs = {"input_ids": IDS, "attention_mask": MASKS["left"]}
    use = VectorUse(layers=(1,), strength=2.0, phase="both", skip_first=True)
    made = steercache.steered(model, vector(0, 1, 2, use=use))
    with steercache.steer(model, vector(0, 1, 2), layer=1, alpha=2.0, when="every", skip_first=True):
        expected = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert torch.equal(made.generate(**inputs, max_new_tokens=3, do_sample=False), expected)
    use = replace(use, target="sql: position % 2 = 1", n_generated=1)
    made = steercache.steered(model, vector(0, 1, 2, use=use))
    how: dict[str, Any] = {"when": "every", "skip_first": True, "target": "sql: position % 2 = 1", "n_generated": 1}
    with steercache.steer(model, vector(0, 1, 2), layer=1, alpha=2.0, **how):
        expected = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert torch.equal(made.generate(**inputs, max_new_tokens=3, do_sample=False), expected)
    assert VectorUse.from_json(use.to_json()) == use
    clamped = vector(0, 1, 2, use=VectorUse(operation="clamp", parameters={"value": 2}, layers=(1,)))
    with steercache.steer(model, vector(0, 1, 2), layer=1, alpha=1.0, operation="clamp:value=2"):
        set_to_two = model(**inputs).logits
    assert torch.equal(steercache.steered(model, clamped)(**inputs).logits, set_to_two)
    with pytest.raises(UsageError, match="no layer was given"):
        steercache.steered(model, V, alpha=1.0)
    with pytest.raises(UsageError, match="no strength was given"):
        steercache.steered(model, V, layer=1)


def test_errors_come_before_the_first_pass() -> None:
    model = tiny_model("llama")
    for wrong, message in (
        ({"layer": 9, "alpha": 1.0}, "no layer 9"),
        ({"layer": 1, "alpha": float("nan")}, "finite"),
        ({"layer": 1, "alpha": 1.0, "phase": "later"}, "no phase named"),
        ({"layer": 1, "alpha": 1.0, "target": "text"}, "special tokens"),
    ):
        with pytest.raises(UsageError, match=message):
            steercache.steered(model, V, **wrong)
    with pytest.raises(UsageError, match="16 wide and the model 32"):
        steercache.steered(model, vector(1, width=16), layer=1, alpha=1.0)
    with pytest.raises(UsageError, match="cannot be steered"):
        steercache.steered(torch.nn.Linear(2, 2), V, layer=1, alpha=1.0)
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "vocab_size": 9,
    }
    with pytest.raises(NotFoundError, match="BertModel"):
        steercache.steered(BertModel(BertConfig(**sizes)), V, layer=1, alpha=1.0)


@torch.inference_mode()
def test_a_batch_that_does_not_say_its_padding_is_refused_where_it_matters() -> None:
    model = tiny_model("llama")
    made = steercache.steered(model, V, layer=1, alpha=1.0, target="last")
    with pytest.raises(UsageError, match="no attention mask"):
        made(input_ids=IDS)
    assert n_hooks(model) == 0
    assert made(input_ids=IDS[:1]).logits.shape[0] == 1
    assert steercache.steered(model, V, layer=1, alpha=1.0)(input_ids=IDS).logits.shape[0] == 3
