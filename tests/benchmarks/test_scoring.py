"""Awkward answers, one by one, against a table; and what no answer may do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steercache.benchmarks.numerals import first_integer, integers
from steercache.benchmarks.scoring import PARSERS, Score, score_answer
from steercache.core.errors import UsageError

TABLE = [json.loads(line) for line in (Path(__file__).parent / "awkward_answers.jsonl").read_text().splitlines()]


def test_the_table_is_not_small() -> None:
    assert len(TABLE) >= 80
    assert sum(row["parsed"] is None for row in TABLE) >= 20


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row['kind']} {row['raw']!r}")
def test_an_awkward_answer_is_read_as_the_table_says(row: dict[str, Any]) -> None:
    assert PARSERS[row["kind"]](row["raw"], row.get("choices", [])) == row["parsed"]


def test_right_wrong_unreadable_and_missing_answers_differ() -> None:
    ask = {"kind": "choice", "answer": "(B)", "choices": ["left", "right"]}
    assert score_answer("b", **ask) == Score(parsed="B", correct=True)  # type: ignore[arg-type]
    assert score_answer("left", **ask) == Score(parsed="A", correct=False)  # type: ignore[arg-type]
    assert score_answer("who knows", **ask) == Score(parsed=None, correct=False)  # type: ignore[arg-type]
    assert score_answer(None, **ask) == Score(parsed=None, correct=None)  # type: ignore[arg-type]


def test_a_count_is_compared_as_a_number() -> None:
    assert score_answer("There are three.", kind="count", answer="03").correct
    assert not score_answer("13", kind="count", answer="3").correct


def test_an_unreadable_right_answer_is_an_error_of_the_set() -> None:
    with pytest.raises(UsageError, match="many"):
        score_answer("3", kind="count", answer="many")
    with pytest.raises(UsageError, match="essay"):
        score_answer("3", kind="essay", answer="3")


@given(st.integers(0, 999_999), st.sampled_from(["{}", "There are {}.", "({})", "Answer: {}", "**{}**", "{} things"]))
def test_every_integer_in_a_frame_is_found(number: int, frame: str) -> None:
    assert first_integer(frame.format(number)) == number
    assert first_integer(frame.format(f"{number:,}")) == number


UNITS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def spelt(n: int) -> str:
    """A number in English words, by the rules of school."""
    for size, name in ((1_000_000, "million"), (1000, "thousand"), (100, "hundred")):
        if n >= size:
            rest = f" and {spelt(n % size)}" if 0 < n % size < 100 else f" {spelt(n % size)}" if n % size else ""
            return f"{spelt(n // size)} {name}{rest}"
    return UNITS[n] if n < 20 else TENS[n // 10 - 2] + (f"-{UNITS[n % 10]}" if n % 10 else "")


@given(st.integers(0, 10**9 - 1), st.sampled_from([str, str.title, lambda text: text.replace("-", " ")]))
def test_every_integer_in_words_is_read_whole(number: int, written: Callable[[str], str]) -> None:
    assert integers(f"There are {written(spelt(number))} balls") == (number,)


@given(st.lists(st.integers(0, 999_999), min_size=1, max_size=4))
def test_every_number_of_a_sentence_is_found_in_its_order(numbers: list[int]) -> None:
    said = "; ".join(spelt(n) if i % 2 else str(n) for i, n in enumerate(numbers))
    assert integers(said) == tuple(numbers)


@given(st.text(max_size=80), st.lists(st.text(max_size=12), min_size=1, max_size=6))
def test_no_text_breaks_a_parser_and_a_letter_is_always_one_of_the_choices(raw: str, choices: list[str]) -> None:
    letter = PARSERS["choice"](raw, choices)
    assert letter is None or letter in "ABCDEF"[: len(choices)]
    number = PARSERS["count"](raw, ())
    assert number is None or str(int(number)) == number
    word = PARSERS["text"](raw, ())
    assert word is None or word == word.strip()


@given(st.integers(2, 6), st.data())
def test_every_way_of_writing_a_letter_gives_that_letter(n: int, data: st.DataObject) -> None:
    idx = data.draw(st.integers(0, n - 1))
    letter = "ABCDEF"[idx]
    frame = data.draw(st.sampled_from(["{}", "({})", "{}.", "{})", "Answer: {}", "The answer is ({}).", "**{}**"]))
    choices = [f"thing{i}" for i in range(n)]
    assert PARSERS["choice"](frame.format(letter), choices) == letter
    assert PARSERS["choice"](frame.format(letter.lower()), choices) == letter
