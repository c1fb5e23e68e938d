"""`steercache steer` at the terminal, and the options of `build` that say where and how a model computes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from steercache.cache.handle import open_cache
from steercache.cache.vector_files import write_vector
from steercache.cache.vectors import load_vector
from steercache.steering.foreign import ForeignVectorWarning
from steercache.steering.plan_target import UnsteeredPromptWarning
from tests.cli.small import RUN, Terminal
from tests.tiny import write_tiny_model

PROMPTS = ("the cat and two", "a red box is near the table")
LAYER, N_NEW = 2, 6


def continued(prompt: str, *, alpha: float, start: int = 1, stop: int | None = None) -> str:
    """Greedy decoding of one prompt without a cache, adding at tokens `start` to `stop` (None: its last one)."""
    tokenizer, model = AutoTokenizer.from_pretrained("model"), AutoModelForCausalLM.from_pretrained("model").eval()
    delta = alpha * torch.from_numpy(load_vector(open_cache(Path("cache")), "counting").at(LAYER))
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    n_prompt = ids.shape[1]

    def add(module: object, args: object, out: torch.Tensor) -> torch.Tensor:
        out = out.clone()
        out[:, start : n_prompt if stop is None else stop] += delta
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
            assert one["text"] == continued(text["prompt"], alpha=one["alpha"], stop=99 if when == "every" else None)
    assert any(len({one["text"] for one in text["continuations"]}) > 1 for text in shown), (
        "the vector changes something"
    )
    assert terminal(*line) == 0, terminal.err
    assert all(one["text"] in terminal.out for text in shown for one in text["continuations"] if len(one["text"]) < 20)


@pytest.mark.parametrize(
    ("how", "ends"),
    [
        (("--when", "generated"), (0, 99)),
        (("--when", "generated", "--n-generated", "2"), (0, 2)),
        (("--target", "sql: word = 'two' or from_end = 0"), (-1, 0)),
        (("--target", "sql: from_end < 2", "--when", "every", "--n-generated", "1"), (-2, 0)),
    ],
)
def test_phases_and_targets_as_sql_are_those_of_a_loop_by_hand(
    how: tuple[str, ...], ends: tuple[int, int], work: Path, terminal: Terminal
) -> None:
    line = ("steer", "counting", PROMPTS[0], "--layer", str(LAYER), "--alpha", "400", *how)
    assert terminal(*line, "--max-new-tokens", str(N_NEW), "--json") == 0, terminal.err
    (text,) = json.loads(terminal.out)
    n_prompt = AutoTokenizer.from_pretrained("model")(PROMPTS[0], return_tensors="pt").input_ids.shape[1]
    for one in text["continuations"]:
        by_hand = continued(PROMPTS[0], alpha=one["alpha"], start=n_prompt + ends[0], stop=n_prompt + ends[1])
        assert one["text"] == by_hand
    assert terminal(*line, "--max-new-tokens", str(N_NEW)) == 0, terminal.err
    assert "0 computed" in terminal.out


def test_a_prompt_in_which_a_target_selects_nothing_is_unsteered_and_reported(work: Path, terminal: Terminal) -> None:
    line = ("steer", "counting", *PROMPTS, "--layer", str(LAYER), "--alpha", "400", "--target", "sql: word = 'two'")
    with pytest.warns(UnsteeredPromptWarning, match=r"no token of 1 of 2 prompts, which are not steered \(number 2\)"):
        assert terminal(*line, "--max-new-tokens", str(N_NEW), "--json") == 0, terminal.err
    (_, second) = json.loads(terminal.out)
    assert len({one["text"] for one in second["continuations"]}) == 1


def test_sql_that_is_wrong_or_selects_nothing_is_refused(work: Path, terminal: Terminal) -> None:
    line = ("steer", "counting", PROMPTS[0], "--layer", str(LAYER))
    assert terminal(*line, "--target", "sql: position < 0") == 2
    assert "selects no token of any prompt" in terminal.err
    assert terminal(*line, "--target", "sql: colour = 'red'") == 3
    assert "patch_row" in terminal.err
    assert terminal(*line, "--target", "picture") == 2


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


STEER = ("steer", "counting", "the cat and two", "--layer", "2", "--max-new-tokens", "2")
WORDS = (
    "report",
    "words",
    "counting",
    "--layer",
    "2",
    "--words",
    "two,three",
    "--prompt",
    "the cat",
    "--random",
    "0",
    "--tokens",
    "all",
)


def forget_source(work: Path) -> None:
    """As a run of an earlier version, which does not say where its model's manifest was: it is looked up by name."""
    (path,) = work.glob("cache/runs/*/run.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_source": None}))


@pytest.mark.parametrize("line", [STEER, WORDS])
def test_a_vector_is_refused_on_a_folder_that_was_overwritten_since(
    line: tuple[str, ...], work: Path, terminal: Terminal
) -> None:
    forget_source(work)
    assert terminal(*line) == 0, terminal.err
    assert "note:" not in terminal.err
    write_tiny_model(work / "model", n_layers=8, seed=1)
    assert terminal(*line) == 2
    assert "the vector 'counting' was fitted on other weights of the name tiny" in terminal.err
    assert "--allow-foreign" in terminal.err
    with pytest.warns(ForeignVectorWarning, match="the vector 'counting' was fitted on other weights"):
        assert terminal(*line, "--allow-foreign") == 0, terminal.err


@pytest.mark.parametrize("line", [STEER, WORDS])
def test_a_vector_is_refused_on_another_model_of_equal_width(
    line: tuple[str, ...], work: Path, terminal: Terminal
) -> None:
    write_tiny_model(work / "another", n_layers=8, seed=1)
    Path("another.yaml").write_text(
        Path("tiny.yaml").read_text().replace("name: tiny", "name: another").replace("folder: model", "folder: another")
    )
    assert terminal(*line, "--model", "another") == 2
    assert "comes from a model that this one does not descend from: tiny, not another" in terminal.err


def test_the_runs_model_is_found_by_its_weights_where_a_nearer_manifest_has_its_name(
    work: Path, terminal: Terminal
) -> None:
    forget_source(work)
    assert terminal(*STEER, "--json") == 0, terminal.err
    expected = terminal.out
    write_tiny_model(work / "another", n_layers=8, seed=1)
    right = Path("tiny.yaml").read_text()
    Path("models").mkdir()
    Path("models/tiny.yaml").write_text(right.replace("folder: model", f"folder: {work / 'model'}"))
    Path("tiny.yaml").write_text(right.replace("folder: model", "folder: another"))  # looked up first
    assert terminal(*STEER, "--json") == 0, terminal.err
    assert terminal.out == expected
    Path("models/tiny.yaml").unlink()  # what is left is another model of that name, and the shipped tiny
    assert terminal(*STEER) == 2
    assert "other weights of the name tiny" in terminal.err


def test_a_run_of_a_model_that_cannot_use_the_default_attention_has_its_model_loaded_again(
    work: Path, terminal: Terminal
) -> None:
    trace = yaml.safe_load(Path("my-trace.yaml").read_text())
    for model in ("tiny-backbone", {"kind": "model", "version": 1, "source": {"type": "zoo", "name": "tiny-backbone"}}):
        name = "named" if isinstance(model, str) else "written-out"
        model = model if isinstance(model, str) else model | {"name": "gemma2"}
        Path("other.yaml").write_text(yaml.safe_dump(trace | {"name": name, "model": model}))
        assert terminal("build", "other.yaml", "--root", f"{name}/cache") == 0, terminal.err
        fit = ("fit", "mean-shift", "--concept", "counting", "--no-diagnose", "--root", f"{name}/cache")
        assert terminal(*fit) == 0, terminal.err
        for _ in range(2):
            line = ("steer", "counting", "the cat", "--layer", "1", "--max-new-tokens", "2", "--root", f"{name}/cache")
            assert terminal(*line) == 0, terminal.err
            forget_source(work / name)


def test_a_vector_of_an_earlier_version_is_compared_by_its_run(work: Path, terminal: Terminal) -> None:
    forget_source(work)
    cache = open_cache(Path("cache"))
    known = load_vector(cache, "counting")
    write_vector(cache.paths.vector(known.vector_id), replace(known, fitted_on=None))
    assert load_vector(cache, "counting").fitted_on == known.fitted_on is not None
    write_tiny_model(work / "model", n_layers=8, seed=1)
    assert terminal(*STEER) == 2
    assert "other weights" in terminal.err
