"""Greedy text is greedy whatever a checkpoint's generation config asks for, and says where it means nothing."""

from typing import Any

import numpy as np
import pytest
import torch
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import GenerationConfig

from steercache.core.vectors import SteeringVector
from steercache.models.spec import LoadedModel
from steercache.steering.branch import BranchOptions, branch
from steercache.steering.cells import NOT_FINITE, BranchCell
from steercache.steering.generate import SteeringSetting, generate_side_by_side
from tests.steering.small import WIDTH, directions, padded_batch, small_model

PROMPTS = ("w7 w31 w8 w44", "w12 w60")
ASKED: dict[str, dict[str, Any]] = {
    "repetition penalty": {"repetition_penalty": 5.0},
    "beams": {"num_beams": 3, "length_penalty": 4.0},
    "sampling": {"do_sample": True, "temperature": 9.0, "top_k": 40},
    "n-grams": {"no_repeat_ngram_size": 1},
    "as a dict": {"return_dict_in_generate": True, "output_scores": True},
    "several": {"num_return_sequences": 2, "num_beams": 2},
    "sampled several": {"num_return_sequences": 3, "do_sample": True},
    "forced": {"forced_eos_token_id": 2, "suppress_tokens": list(range(3, 60)), "min_new_tokens": 9},
}


def worded_model(dtype: torch.dtype = torch.float32) -> LoadedModel:
    """The small llama, whose tokenizer takes words apart."""
    loaded = small_model("llama", dtype)
    loaded.tokenizer.backend_tokenizer.pre_tokenizer = WhitespaceSplit()
    return loaded


def texts(loaded: LoadedModel, *, scale: float = 2.0) -> list[tuple[str, ...]]:
    v = SteeringVector(name="v", method="m", concept=None, site="resid_post", layers=(1,), values=directions(1))
    settings = [SteeringSetting(layer=1, alpha=alpha) for alpha in (0.0, scale)]
    found = generate_side_by_side(loaded, v, PROMPTS, settings=settings, max_new_tokens=8)
    return [tuple(c.text for c in one.continuations) for one in found]


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
def test_greedy_text_is_greedy_whatever_the_generation_config_asks_for(asked: dict[str, Any]) -> None:
    loaded = worded_model()
    plain = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=0)  # type: ignore[no-untyped-call]
    loaded.model.generation_config = plain
    expected = texts(loaded)
    loaded.model.generation_config = own = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=1, eos_token_id=2, pad_token_id=0, **asked
    )
    assert texts(loaded) == expected
    assert loaded.model.generation_config is own
    assert all(len(text.split()) > 2 for pair in expected for text in pair)


@pytest.mark.parametrize("asked", [ASKED["repetition penalty"], ASKED["n-grams"]])
def test_free_form_answers_are_greedy_whatever_the_generation_config_asks_for(asked: dict[str, Any]) -> None:
    loaded, batch = worded_model(), padded_batch("llama")
    cells = [BranchCell(key="v", layer=1, delta_d=directions(1)[0])]
    (expected,) = branch(loaded, batch, cells, BranchOptions(max_new_tokens=6))
    loaded.model.generation_config.update(**asked)
    (found,) = branch(loaded, batch, cells, BranchOptions(max_new_tokens=6))
    assert found.tokens == expected.tokens


def test_a_text_whose_forward_pass_is_not_finite_says_so() -> None:
    loaded = worded_model()
    values = np.full((1, WIDTH), 3e38, dtype=np.float32)
    v = SteeringVector(name="v", method="m", concept=None, site="resid_post", layers=(1,), values=values)
    settings = [SteeringSetting(layer=1, alpha=alpha) for alpha in (0.0, 1.0, 1e-38)]
    found = generate_side_by_side(loaded, v, PROMPTS, settings=settings, max_new_tokens=3)
    assert [[c.error for c in one.continuations] for one in found] == [[None, NOT_FINITE, None]] * 2


def test_one_prompt_that_overflows_leaves_the_other_alone() -> None:
    loaded = worded_model(torch.float16)
    values = np.full((1, WIDTH), 7e4, dtype=np.float32)  # beyond float16
    v = SteeringVector(name="v", method="m", concept=None, site="resid_post", layers=(1,), values=values)

    def on_w12(ids_bt: torch.Tensor) -> torch.Tensor:
        return ids_bt == 12

    setting = SteeringSetting(layer=1, alpha=1.0, target=on_w12)
    found = generate_side_by_side(loaded, v, PROMPTS, settings=[setting], max_new_tokens=3)
    assert [one.continuations[0].error for one in found] == [None, NOT_FINITE]
