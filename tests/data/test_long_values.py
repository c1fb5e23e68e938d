"""A value of 200,000 characters where something is wrong with it: the message quotes the beginning, never the whole."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steercache.core import errors
from steercache.core.errors import ManifestError, Problem, SteercacheError
from steercache.core.excerpts import excerpt, first_line_of, reason_of, without_middle
from steercache.data.benchmarks import open_benchmark
from tests.data.tables import dataset

LONG = "long words " * 20_000
SHOWN = 1000  # characters of a message in which no more than pieces of a value can stand


def as_csv(path: Path, header: list[str], row: list[str]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, row])


def header_without_the_column(folder: Path) -> None:
    as_csv(folder / "d.csv", [LONG, "other"], ["1", "2"])
    list(dataset(folder, {"type": "csv", "path": "d.csv"}))


def row_of_another_length(folder: Path) -> None:
    as_csv(folder / "d.csv", ["text", "other"], [LONG, LONG, LONG])
    list(dataset(folder, {"type": "csv", "path": "d.csv"}))


def anchor_that_is_not_there(folder: Path) -> None:
    as_csv(folder / "d.csv", ["text", "anchor"], [LONG, LONG[::-1]])
    columns = {"text": "text", "anchor": "anchor"}
    list(dataset(folder, {"type": "csv", "path": "d.csv", "columns": columns}, concept="counting"))


def key_that_stands_twice(folder: Path) -> None:
    (folder / "d.jsonl").write_text(f'{{"{LONG}": 1, "{LONG}": 2}}\n')
    list(dataset(folder, {"type": "jsonl", "path": "d.jsonl"}))


def picture_of_a_long_name(folder: Path) -> None:
    (folder / "d.jsonl").write_text(json.dumps({"text": "a", "image": LONG}) + "\n")
    columns = {"text": "text", "image": "image"}
    list(dataset(folder, {"type": "jsonl", "path": "d.jsonl", "columns": columns}))


def group_in_both_splits(folder: Path) -> None:
    rows = [{"question": q, "answer": "2", "group": LONG, "split": s} for q, s in (("a", "search"), ("b", "test"))]
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    open_benchmark(str(folder / "q.jsonl"))


@pytest.mark.parametrize(
    "read",
    [
        header_without_the_column,
        row_of_another_length,
        anchor_that_is_not_there,
        key_that_stands_twice,
        picture_of_a_long_name,
        group_in_both_splits,
    ],
)
def test_a_long_value_is_not_printed_whole(read: Callable[[Path], None], tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as caught:
        read(tmp_path)
    assert len(str(caught.value)) < SHOWN + 2 * len(str(tmp_path))


@pytest.mark.parametrize("wrong", [{"answer": LONG}, {"split": LONG}, {"image": LONG}])
def test_a_question_that_cannot_be_asked_is_named_in_short(wrong: dict[str, Any], tmp_path: Path) -> None:
    good = {"question": "which", "choices": ["cat", "dog"], "answer": "dog"}
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (good, {**good, **wrong})))
    failed = open_benchmark(str(tmp_path / "q.jsonl")).failures
    assert failed
    assert all(len(row.message) < SHOWN for row in failed)


@pytest.mark.parametrize("kind", [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, Exception)])
def test_no_error_is_longer_than_a_screen_whatever_it_quotes(kind: type[Exception]) -> None:
    if issubclass(kind, SteercacheError):
        error = kind(f"{'x' * 10**6} is wrong", place="p" * 10**6)
        assert len(str(error)) < 10_000
        assert "is wrong" in str(error)


@given(loc=st.text(max_size=3000), message=st.text(max_size=5000))
def test_a_problem_keeps_the_beginning_and_the_end_of_what_it_says(loc: str, message: str) -> None:
    problem = Problem(loc=loc, kind="k", message=message)
    assert len(problem.message) <= 1100
    assert problem.message[:700] == message[:700]
    assert problem.message[-200:] == message[-200:]


@given(st.text(max_size=400), st.integers(8, 200))
def test_excerpts_are_as_long_as_they_may_be(text: str, n: int) -> None:
    assert excerpt(text, n) == (repr(text) if len(text) <= n else f"{text[:n]!r} ... ({len(text):,} characters)")
    assert without_middle(text, len(text)) == text


def test_a_reason_is_more_than_its_heading_and_a_key_alone_is_none() -> None:
    assert reason_of(ValueError("not valid:\n\n    the width is text\n")) == "not valid:\n      the width is text"
    assert reason_of(KeyError("none-such")) == "KeyError: 'none-such'"
    assert reason_of(ValueError()) == "ValueError"
    assert first_line_of(ValueError("\n first \nsecond")) == "first "
    assert first_line_of(ValueError(" \n")) == "ValueError"
    assert len(reason_of(ValueError("\n".join(["y" * 500] * 500)))) < 1300
