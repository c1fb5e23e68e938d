"""A user's own questions: what is read of a file, in which split it lands, and what cannot be asked."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steercache.core.errors import ManifestError, NotFoundError, UsageError
from steercache.data.benchmarks import Benchmark, open_benchmark
from tests.data.benchmarks.layouts import png

ROWS: list[dict[str, Any]] = [
    {
        "question": f"Which is number {i}?",
        "choices": ["cat", "dog", f"n{i}"],
        "answer": "dog",
        "task": "Pick",
        "group": f"g{i // 2}",
    }
    for i in range(12)
]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def opened(path: Path, **asked: Any) -> Benchmark:
    return open_benchmark(str(path), **asked)


def test_one_content_is_one_set_whatever_the_format_and_the_order(tmp_path: Path) -> None:
    jsonl = opened(write_jsonl(tmp_path / "q.jsonl", ROWS))
    with (tmp_path / "q.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(ROWS[0]))
        writer.writeheader()
        writer.writerows([row | {"choices": json.dumps(row["choices"])} for row in reversed(ROWS)])
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "q.parquet")
    others = [opened(tmp_path / f"q.{suffix}") for suffix in ("csv", "parquet")]
    assert {jsonl.name, *(other.name for other in others)} == {jsonl.name}
    assert jsonl.name.startswith("q-")
    sides = [{e.labels.question: e.labels.split for e in some} for some in (jsonl, *others)]
    assert sides[0] == sides[1] == sides[2]
    changed = [ROWS[0] | {"answer": "cat"}, *ROWS[1:]]
    assert opened(write_jsonl(tmp_path / "q.jsonl", changed)).name != jsonl.name


def test_questions_of_a_group_share_a_split_and_half_of_them_are_for_testing(tmp_path: Path) -> None:
    found = opened(write_jsonl(tmp_path / "q.jsonl", ROWS))
    sides: dict[str | None, set[str | None]] = {}
    for example in found:
        sides.setdefault(example.labels.group_id, set()).add(example.labels.split)
    assert len(sides) == 6
    assert all(len(some) == 1 for some in sides.values())
    assert len(found.part("test")) == len(found.part("search")) == 6


def test_answers_are_letters_counts_or_words_by_what_the_row_has(tmp_path: Path) -> None:
    rows = [
        {"question": "Which?", "choices": ["two", "three"], "answer": "Three"},
        {"question": "Which letter?", "choices": ["x", "y"], "answer": "(a)"},
        {"question": "How many?", "answer": 4},
        {"question": "Who?", "answer": "Ada Lovelace"},
        {"question": "Number?", "choices": [2, 3], "answer": "2"},
    ]
    path = write_jsonl(tmp_path / "q.jsonl", rows)
    found = opened(path)
    assert [(e.labels.meta["kind"], e.labels.answer) for e in found] == [
        ("choice", "B"),
        ("choice", "A"),
        ("count", "4"),
        ("text", "Ada Lovelace"),
        ("choice", "A"),
    ]
    assert found.examples[0].text.endswith("Which? Select from the following choices.\n(A) two\n(B) three")
    by_word = [(e.labels.meta["kind"], e.labels.answer) for e in opened(path, form="word")]
    assert (by_word[0], by_word[4]) == (("text", "three"), ("count", "2"))


def test_pictures_are_paths_below_the_folder_or_bytes_and_group_by_their_content(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for name, shade in (("a.png", 1), ("b.png", 1), ("c.png", 2)):
        (tmp_path / "pictures" / name).write_bytes(png(shade))
    rows = [{"image": f"pictures/{n}.png", "question": f"What is {n}?", "answer": "thing"} for n in "abc"]
    by_path = opened(write_jsonl(tmp_path / "q.jsonl", rows))
    bytes_rows = [row | {"image": (tmp_path / row["image"]).read_bytes()} for row in rows]
    pq.write_table(pa.Table.from_pylist(bytes_rows), tmp_path / "q.parquet", row_group_size=2)
    by_bytes = opened(tmp_path / "q.parquet")
    assert by_path.name == by_bytes.name
    assert by_path.has_pictures
    assert [e.images[0].load() for e in by_path] == [e.images[0].load() for e in by_bytes] == [png(1), png(1), png(2)]
    a, b, c = (e.labels.group_id for e in by_path)
    assert a == b != c
    elsewhere = write_jsonl(tmp_path / "pictures" / "q.jsonl", rows)
    assert len(opened(elsewhere, folder=tmp_path)) == 3
    (tmp_path / "pictures" / "c.png").write_bytes(png(3))
    assert opened(tmp_path / "q.jsonl").name != by_path.name


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"answer": "bird"}, "bad_answer"),
        ({"choices": ["B", "A"], "answer": "A"}, "bad_answer"),
        ({"choices": ["cat", "Cat"]}, "bad_choices"),
        ({"choices": "cat"}, "bad_choices"),
        ({"question": " "}, "missing_value"),
        ({"split": "train"}, "bad_split"),
        ({"image": "../secret.png"}, "broken_image"),
        ({"image": "nowhere.png"}, "broken_image"),
    ],
)
def test_a_row_that_cannot_be_asked_is_a_failure_with_its_place(
    change: dict[str, Any], kind: str, tmp_path: Path
) -> None:
    found = opened(write_jsonl(tmp_path / "q.jsonl", [ROWS[0] | change]))
    assert [(f.place, f.kind) for f in found.failures] == [("q.jsonl:1", kind)]
    assert not found.examples


def test_a_column_of_splits_decides_and_may_not_cut_a_group(tmp_path: Path) -> None:
    rows = [row | {"split": "test" if i < 2 else "search"} for i, row in enumerate(ROWS)]
    found = opened(write_jsonl(tmp_path / "q.jsonl", rows))
    assert [e.labels.question for e in found.part("test")] == [row["question"] for row in ROWS[:2]]
    rows[1]["split"] = "search"
    with pytest.raises(ManifestError, match="in both splits"):
        opened(write_jsonl(tmp_path / "q.jsonl", rows))


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such file of questions"):
        opened(tmp_path / "none.jsonl")
    with pytest.raises(ManifestError) as error:
        opened(write_jsonl(tmp_path / "q.jsonl", [{"words": "x"}]))
    assert [problem.loc for problem in error.value.problems] == ["question", "answer"]
    path = write_jsonl(tmp_path / "q.jsonl", ROWS)
    with pytest.raises(UsageError, match="published splits"):
        opened(path, rule="paper")
    with pytest.raises(NotFoundError, match="no question of task 'Count'"):
        opened(path, task="Count")
