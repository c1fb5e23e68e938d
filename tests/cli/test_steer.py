"""`steercache steer` at the terminal, and the options of `build` that say where and how a model computes."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from steercache.cache.handle import open_cache
from steercache.cache.vectors import load_vector
from tests.cli.small import RUN, Terminal

PROMPTS = ("the cat and two", "a red box is near the table")
LAYER, N_NEW = 2, 6


def continued(prompt: str, *, alpha: float, every: bool) -> str:
    """Greedy decoding of one prompt without a cache, adding at its own tokens but the first (and at generated ones)."""
    tokenizer, model = AutoTokenizer.from_pretrained("model"), AutoModelForCausalLM.from_pretrained("model").eval()
    delta = alpha * torch.from_numpy(load_vector(open_cache(Path("cache")), "counting").at(LAYER))
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    n_prompt = ids.shape[1]

    def add(module: object, args: object, out: torch.Tensor) -> torch.Tensor:
        out = out.clone()
        out[:, 1 : None if every else n_prompt] += delta
        return out

    model.model.layers[LAYER].register_forward_hook(add)
    for _ in range(N_NEW):
        with torch.no_grad():
            ids = torch.cat([ids, model(ids, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
    return str(tokenizer.decode(ids[0, n_prompt:], skip_special_tokens=True))


@pytest.mark.parametrize("when", ["prefill", "every"])
def test_texts_side_by_side_are_those_of_a_loop_by_hand(when: str, work: Path, terminal: Terminal) -> None:
    strength = ("--layer", str(LAYER), "--alpha", "40,400", "--when", when, "--skip-first")
    line = ("steer", "counting", *PROMPTS, *strength, "--max-new-tokens", str(N_NEW))
    assert terminal(*line, "--json") == 0, terminal.err
    shown = json.loads(terminal.out)
    assert [text["prompt"] for text in shown] == list(PROMPTS)
    for text in shown:
        assert [one["alpha"] for one in text["continuations"]] == [0, 40, 400]
        for one in text["continuations"]:
            assert one["text"] == continued(text["prompt"], alpha=one["alpha"], every=when == "every")
    assert any(len({one["text"] for one in text["continuations"]}) > 1 for text in shown), (
        "the vector changes something"
    )
    assert terminal(*line) == 0, terminal.err
    assert all(one["text"] in terminal.out for text in shown for one in text["continuations"] if len(one["text"]) < 20)


def test_a_build_computes_in_the_dtype_on_the_device_and_spread_as_asked(work: Path, terminal: Terminal) -> None:
    where = ("--dtype", "bfloat16", "--device", "cpu", "--device-map", "cpu", "--root", "other")
    assert terminal("build", "my-trace.yaml", *where, "--json") == 0, terminal.err
    built = json.loads(terminal.out)
    assert built["name"] == RUN
    asked = "select dtype, complete from runs"
    assert terminal("query", asked, "--root", "other", "--json") == 0, terminal.err
    assert json.loads(terminal.out) == [{"dtype": "bfloat16", "complete": True}]
    assert terminal("query", asked, "--json") == 0, terminal.err
    assert json.loads(terminal.out) == [{"dtype": "float32", "complete": True}]
