"""Contrastive pairs: two examples a row, positive first, that share a pair and differ in what they should."""

from pathlib import Path
from typing import Any

import pytest

from steercache.core.errors import ManifestError
from tests.data.tables import WRITERS, dataset, write_jsonl

ROWS = [
    {
        "q": "Say hello.",
        "good": " Hello!",
        "bad": " Go away.",
        "kind": "You are kind.",
        "cruel": "You are cruel.",
        "g": "a",
    },
    {
        "q": "Say bye.",
        "good": " Goodbye!",
        "bad": " At last.",
        "kind": "You are kind.",
        "cruel": "You are cruel.",
        "g": "b",
    },
]


def sides(base_dir: Path, columns: dict[str, Any], **fields: Any) -> list[tuple[str | None, str, str, int | None]]:
    """(system, text, completion, polarity) of every example."""
    examples = dataset(base_dir, {"type": "pairs", "path": "p.jsonl", "columns": columns}, **fields)
    return [(e.system, e.text, e.completion, e.labels.polarity) for e in examples]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "p.jsonl", ROWS)
    return tmp_path


def test_two_texts_are_two_prompts(folder: Path) -> None:
    assert sides(folder, {"positive": "good", "negative": "bad"}) == [
        (None, " Hello!", "", 1),
        (None, " Go away.", "", -1),
        (None, " Goodbye!", "", 1),
        (None, " At last.", "", -1),
    ]


def test_a_prompt_has_two_completions(folder: Path) -> None:
    columns = {"prompt": "q", "positive": "good", "negative": "bad"}
    assert sides(folder, columns, chat={"apply": True, "system": "Be brief."})[:2] == [
        ("Be brief.", "Say hello.", " Hello!", 1),
        ("Be brief.", "Say hello.", " Go away.", -1),
    ]


def test_a_prompt_may_stand_under_two_system_prompts(folder: Path) -> None:
    columns = {"prompt": "q", "system_positive": "kind", "system_negative": "cruel"}
    assert sides(folder, columns, chat={"apply": True})[:2] == [
        ("You are kind.", "Say hello.", "", 1),
        ("You are cruel.", "Say hello.", "", -1),
    ]


def test_system_prompts_and_completions_may_both_differ(folder: Path) -> None:
    columns = {
        "prompt": "q",
        "positive": "good",
        "negative": "bad",
        "system_positive": "kind",
        "system_negative": "cruel",
    }
    assert sides(folder, columns, chat={})[2:] == [
        ("You are kind.", "Say bye.", " Goodbye!", 1),
        ("You are cruel.", "Say bye.", " At last.", -1),
    ]


@pytest.mark.parametrize("type_", WRITERS)
def test_both_sides_of_a_row_share_a_pair_and_a_group_in_every_format(tmp_path: Path, type_: str) -> None:
    WRITERS[type_](tmp_path / f"p.{type_}", ROWS)
    columns = {"prompt": "q", "positive": "good", "negative": "bad"}
    source = {"type": "pairs", "path": f"p.{type_}", "columns": columns}
    labels = [example.labels for example in dataset(tmp_path, source, concept="kindness")]
    pairs = [label.pair_id for label in labels]
    assert pairs[0] == pairs[1] != pairs[2] == pairs[3]
    assert [label.group_id for label in labels] == pairs
    assert {label.concept for label in labels} == {"kindness"}
    assert not any(label.anchors for label in labels)
    grouped = dataset(tmp_path, {**source, "columns": {**columns, "group": "g"}})
    assert [example.labels.group_id for example in grouped] == ["a", "a", "b", "b"]


def test_a_limit_keeps_whole_pairs(folder: Path) -> None:
    assert len(sides(folder, {"positive": "good", "negative": "bad"}, limit=1)) == 2


def test_pairs_that_do_not_differ_or_lack_a_side_are_named(tmp_path: Path) -> None:
    rows = [{"positive": "a", "negative": "b"}, {"positive": "a", "negative": "a"}, {"positive": "a"}, {"negative": ""}]
    write_jsonl(tmp_path / "p.jsonl", rows)
    with pytest.raises(ManifestError) as caught:
        list(dataset(tmp_path, {"type": "pairs", "path": "p.jsonl"}))
    assert [(p.line, p.loc, p.kind) for p in caught.value.problems] == [
        (2, "positive", "pair"),
        (3, "negative", "missing_column"),
        (4, "positive", "missing_column"),
        (4, "negative", "empty"),
    ]
