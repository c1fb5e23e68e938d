"""`steercache eval` and `steercache zoo` at the terminal."""

import json
from pathlib import Path

import pytest

from tests.cli.small import Terminal


def test_an_evaluation_prints_a_table_or_json_and_keeps_every_answer(work: Path, terminal: Terminal) -> None:
    words = ("eval", "tiny", "scenes", "--task", "Count", "--form", "number", "--n", "6", "--split", "search")
    assert terminal(*words) == 0, terminal.err
    assert "prompting" in terminal.out
    assert "12 answers computed" in terminal.err
    assert terminal(*words, "--json") == 0
    found = json.loads(terminal.out)
    assert (found["n_computed"], found["n_reused"], found["n_samples"]) == (0, 12, {"search": 6})
    assert terminal("query", f"select count(*) as n from answers where sweep_id = '{found['sweep_id']}'") == 0
    assert "12" in terminal.out


def test_how_answers_are_computed_is_said_and_can_be_forced(work: Path, terminal: Terminal) -> None:
    words = ("eval", "tiny", "scenes", "--task", "Count", "--form", "number", "--n", "4", "--split", "search")
    assert terminal(*words, "--mode", "full") == 0, terminal.err
    assert "search split: recomputing in full as asked for: about" in terminal.err
    assert "branching about" in terminal.err
    assert "no replaying: more than first tokens are asked for" in terminal.err
    assert terminal(*words, "--json") == 0
    found = json.loads(terminal.out)["modes"]["search"]
    assert (found["mode"], found["reason"]) == ("read", "all 4 answers are in the cache")
    assert terminal(*words, "--n", "5", "--mode", "replay") == 2
    assert "--mode auto" in terminal.err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("tiny", "cv-bunch"), 2, "cv-bunch"),
        (("nobody", "scenes"), 4, "nobody"),
        (("tiny-backbone", "scenes"), 2, "text model"),
        (("tiny", "scenes", "--vector", "counting"), 2, "which layer"),
        (("tiny", "scenes", "--vector", "none-such", "--layer", "1"), 4, "none-such"),
        (("tiny", "scenes", "--vector", "counting", "--layer", "1"), 2, "wide"),
        (("tiny", "scenes", "--alpha", "much"), 2, "no list of numbers"),
        (("tiny", "scenes", "--target", "sky"), 2, "sky"),
        (("tiny", "scenes", "--task", "Depth"), 2, "no task"),
        (("tiny", "scenes", "--folder", "nowhere"), 4, "nowhere"),
    ],
)
def test_a_wrong_call_says_what_is_wrong(
    words: tuple[str, ...], code: int, message: str, work: Path, terminal: Terminal
) -> None:
    assert terminal("eval", *words) == code, terminal.err
    assert message in terminal.err
    assert "try:" in terminal.err


def test_the_zoo_lists_builds_and_shows_its_cards(work: Path, terminal: Terminal) -> None:
    assert terminal("zoo", "list", "--json") == 0
    assert {row["name"] for row in json.loads(terminal.out)} == {"tiny", "tiny-backbone", "demo", "demo-backbone"}
    assert terminal("zoo", "build", "tiny", "here", "--json") == 0
    assert "model.safetensors" in json.loads(terminal.out)["files"]
    assert terminal("zoo", "card", "tiny") == 0
    assert terminal.out.startswith("# tiny")
    assert terminal("zoo", "card", "huge") == 4
