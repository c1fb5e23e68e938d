"""The same command again: everything is read from the cache, no model is loaded, and the output is the same."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.small import Terminal

STEER = (
    "steer",
    "counting",
    "the cat and two",
    "a red box",
    "--layer",
    "2",
    "--alpha",
    "1,40",
    "--max-new-tokens",
    "3",
)
WORDS = ("report", "words", "counting", "--layer", "3", "--alpha", "1,4", "--words", "two,red", "--random", "3")
WORDS = (*WORDS, "--prompt", "the cat and two", "--prompt", "a red box is near the table")
NONE_FITS = "a model was loaded"


def rounded(text: str) -> Any:
    """JSON with six digits of every number: scores are stored in float32."""
    return json.loads(text, parse_float=lambda number: round(float(number), 6))


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Called, it makes every later loading of a model an error."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError(NONE_FITS)

    def begin() -> None:
        monkeypatch.setattr("steercache.cells.vector_model.load_model", refuse)

    return begin


@pytest.mark.parametrize("line", [STEER, WORDS], ids=["steer", "words"])
def test_it_computes_nothing(line: tuple[str, ...], work: Path, terminal: Terminal, no_model: Any) -> None:
    assert terminal(*line, "--json") == 0, terminal.err
    first = rounded(terminal.out)
    assert terminal("query", "select count(*) as n from answers", "--json") == 0
    n_answers = json.loads(terminal.out)[0]["n"]
    assert n_answers > 0
    no_model()
    assert terminal(*line, "--json") == 0, terminal.err
    assert rounded(terminal.out) == first
    assert terminal(*line) == 0, terminal.err
    assert "0 computed" in terminal.out
    assert terminal("query", "select count(*) as n from answers", "--json") == 0
    assert json.loads(terminal.out)[0]["n"] == n_answers


def test_another_strength_or_prompt_is_computed(work: Path, terminal: Terminal, no_model: Any) -> None:
    for line in (STEER, WORDS):
        assert terminal(*line) == 0, terminal.err
        assert "0 computed" not in terminal.out
    no_model()
    for line in (STEER, WORDS):
        changed = tuple("2" if word in ("1,40", "1,4") else word for word in line)
        assert terminal(*changed) == 1
        assert NONE_FITS in terminal.err
