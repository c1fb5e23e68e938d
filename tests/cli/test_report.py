"""`steercache report` at the terminal, where it needs no model: what can go wrong says so, and nothing heavy is loaded."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.cli.small import RUN, Terminal

LOADED = (
    "import sys; from steercache.cli.main import run; run(sys.argv[1:]); print('torch' in sys.modules, file=sys.stderr)"
)


def test_a_run_compared_with_itself_has_not_moved(work: Path, terminal: Terminal) -> None:
    assert terminal("report", "drift", RUN, RUN, "--json") == 0, terminal.err
    shown = json.loads(terminal.out)
    assert {row["distance"] for row in shown["drift"]["rows"]} == {0.0}
    assert Path(shown["picture"]).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("drift", RUN, "none-such"), 4, "none-such"),
        (("drift", RUN, RUN, "--layer", "99"), 2, "no layer 99"),
        (("drift", RUN, RUN, "--out", "picture.gif"), 2, ".png or .svg"),
        (("patches", RUN, "0", "counting", "--layer", "2"), 2, "no picture"),
        (("patches", RUN, "9999", "counting", "--layer", "2"), 4, "no sample"),
        (("html", "none-such"), 4, "no sweep"),
        (("words", "none-such", "--layer", "1"), 4, "none-such"),
        (("words", "counting", "--layer", "99"), 2, "layer 99"),
        (("words", "counting", "--layer", "2", "--alpha", "much"), 2, "not a list of numbers"),
        (("words", "counting", "--layer", "2", "--words", "xylophone"), 2, "single token"),
        (("colours", "tiny", "--vector", "none-such", "--layer", "1"), 4, "none-such"),
        (("colours", "tiny", "--vector", "counting", "--layer", "1", "--alpha", "much"), 2, "not a list of numbers"),
        (("colours", "tiny", "--vector", "counting", "--word", "red", "--layer", "1"), 2, "wide"),
        (("own", "tiny", "scenes", "--concept", "counting", "--layer", "1"), 4, "tiny itself"),
    ],
)
def test_a_wrong_call_says_what_is_wrong(
    words: tuple[str, ...], code: int, message: str, work: Path, terminal: Terminal
) -> None:
    assert terminal("report", *words) == code, terminal.err
    assert message in terminal.err
    assert "try:" in terminal.err


def test_words_against_alpha_start_from_the_model_itself(work: Path, terminal: Terminal) -> None:
    prompts = ("the cat and two", "a red box is")
    asked = [part for prompt in prompts for part in ("--prompt", prompt)]
    line = ("report", "words", "counting", "--layer", "3", "--alpha", "1,4", "--words", "two,red", "--random", "3")
    assert terminal(*line, *asked, "--json") == 0, terminal.err
    shown = json.loads(terminal.out)
    assert [point["alpha"] for point in shown["points"]] == [0, 1, 4]
    assert Path(shown["picture"]).read_bytes().startswith(b"\x89PNG")
    plain = shown["points"][0]
    assert plain["mass"] == pytest.approx(np.mean([mass_after(prompt, "two", "red") for prompt in prompts]), abs=1e-5)
    assert plain["random_low"] == plain["random_high"] == pytest.approx(plain["mass"])
    assert shown["points"][2]["mass"] != pytest.approx(plain["mass"], abs=1e-4)
    count = f"select count(*) as n from answers where sweep_id = '{shown['sweep_id']}'"
    assert terminal("query", count, "--json") == 0, terminal.err
    assert json.loads(terminal.out)[0]["n"] > 0


def mass_after(prompt: str, *listed: str) -> float:
    """Probability of the words as the next token, from a plain forward pass."""
    tokenizer, model = AutoTokenizer.from_pretrained("model"), AutoModelForCausalLM.from_pretrained("model")
    with torch.no_grad():
        probabilities = model(**tokenizer(prompt, return_tensors="pt")).logits[0, -1].softmax(-1)
    return float(probabilities[tokenizer.convert_tokens_to_ids(list(listed))].sum())


def test_tables_and_pages_are_made_without_torch(work: Path) -> None:
    lines = (f"report drift {RUN} {RUN}", "report html none-such", "report patches --help")
    done = subprocess.run([sys.executable, "-c", LOADED, *lines], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "False"


def test_words_say_what_cannot_be_said(work: Path, terminal: Terminal) -> None:
    line = ("report", "words", "counting", "--layer", "3", "--words", "two,red", "--prompt", "the cat and two")
    assert terminal(*line, "--alpha", "0") == 2
    assert "no strength other than 0" in terminal.err
    assert terminal(*line, "--random", "0", "--json") == 0, terminal.err
    for point in json.loads(terminal.out, parse_constant=pytest.fail)["points"]:
        assert (point["p_random"], point["random_mean"]) == (None, None)
    assert terminal(*line, "--random", "2", "--alpha", "0.5") == 0, terminal.err
    assert "95 % interval" not in terminal.out
    assert any(said in terminal.out for said in ("no strength tried", "too few to tell", "as well at"))


def test_random_directions_of_words_are_kept_and_can_be_left_out(work: Path, terminal: Terminal) -> None:
    line = ("report", "words", "counting", "--layer", "3", "--alpha", "1", "--words", "two", "--random", "3")
    line = (*line, "--prompt", "the cat and two")
    assert terminal(*line) == 0, terminal.err
    told = next(each for each in terminal.err.splitlines() if "words_by_alpha" in each)
    assert terminal(*told.split()[1:], "--json") == 0, terminal.err
    rows = json.loads(terminal.out)
    assert rows
    assert {row.get("control_kind") for row in rows} == {None}
    count = "select count(distinct vector_id) as n from vectors where control_kind = 'random'"
    assert terminal("query", count, "--json") == 0, terminal.err
    assert json.loads(terminal.out)[0]["n"] == 3
