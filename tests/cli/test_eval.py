"""`steercache eval` and `steercache zoo` at the terminal."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from steercache.data import scenes
from steercache.data.benchmarks import open_benchmark
from steercache.queries.session import open_session
from tests.cli.small import Terminal
from tests.data.benchmarks.layouts import (
    BLINK,
    CV_BENCH,
    WHATSUP,
    blink_row,
    stored,
    whatsup_captions,
    write_table,
)
from tests.sweeps.small_run import vector

SPLITS = ("search", "test")
SHIFT = re.compile(r"(\w+) (\d+)->(\d+) \(right (\d+)\)")


def test_an_evaluation_prints_a_table_or_json_and_keeps_every_answer(work: Path, terminal: Terminal) -> None:
    words = ("eval", "tiny", "scenes", "--task", "Count", "--form", "number", "--n", "6", "--split", "search")
    assert terminal(*words) == 0, terminal.err
    assert "prompting" in terminal.out
    assert "12 answers computed" in terminal.err
    assert terminal(*words, "--json") == 0
    found = json.loads(terminal.out)
    assert (found["n_computed"], found["n_reused"]) == (0, 12)
    assert [(split["split"], split["n"]) for split in found["splits"]] == [("search", 6)]
    assert terminal("query", f"select count(*) as n from answers where sweep_id = '{found['sweep_id']}'") == 0
    assert "12" in terminal.out


def test_the_unsteered_model_alone_needs_no_cache(work: Path, terminal: Terminal) -> None:
    words = ("eval", "tiny", "scenes", "--task", "Count", "--form", "number", "--n", "4", "--root", "new")
    assert terminal(*words, "--vector", "counting", "--layer", "2") == 4
    assert "no cache here" in terminal.err
    assert terminal(*words[:4], "None", *words[5:]) == 2  # no such task
    assert not (work / "new").exists()
    assert terminal(*words) == 0, terminal.err
    assert terminal("query", "select count(*) as n from answers", "--root", "new", "--json") == 0
    assert json.loads(terminal.out) == [{"n": 16}]


def test_how_answers_are_computed_is_said_and_can_be_forced(work: Path, terminal: Terminal) -> None:
    words = ("eval", "tiny", "scenes", "--task", "Count", "--form", "number", "--n", "4", "--split", "search")
    assert terminal(*words, "--mode", "full") == 0, terminal.err
    assert "search split: recomputing in full as asked for: about" in terminal.err
    assert "branching about" in terminal.err
    assert "no replaying: cached rows give an answer's first token only" in terminal.err
    assert terminal(*words, "--json") == 0
    found = json.loads(terminal.out)["modes"]["search"]
    assert (found["mode"], found["reason"]) == ("read", "all 4 answers are in the cache")
    assert terminal(*words, "--n", "5", "--mode", "replay") == 2
    assert "--mode auto" in terminal.err


def test_side_effects_are_measured_on_the_tasks_that_are_named(work: Path, terminal: Terminal) -> None:
    values = 3 * np.random.default_rng(0).normal(size=(6, 96)).astype(np.float32)
    open_session(work / "cache").save(vector(values, name="pushed"))
    rows = [{"question": f"What is {i} + 1?", "answer": str(i + 1), "split": "search"} for i in range(3)]
    (work / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("eval", "tiny", "scenes", "--task", "Count", "--form", "number", "--n", "4", "--split", "search")
    words += (
        "--vector",
        "pushed",
        "--layer",
        "3",
        "--alpha",
        "8",
        "--target",
        "text",
        "--allow-foreign",
        "--controls",
        "0",
    )
    words += ("--no-damage", "--prompting", "")
    assert terminal(*words[:5], "--panel", "2") == 2
    assert "side effects are those of vectors" in terminal.err
    assert terminal(*words, "--panel-task", "sums.jsonl") == 2
    assert "no number of questions" in terminal.err
    assert terminal(*words, "--panel", "2", "--panel-task", "nowhere:Count") != 0
    assert terminal(*words, "--panel", "2", "--panel-task", "scenes:Relation", "--panel-task", "sums.jsonl") == 0
    assert "pushed, side effect on scenes Relation: " in terminal.out
    assert terminal(*words, "--panel", "3", "--panel-task", "sums.jsonl", "--json") == 0, terminal.err
    (row,) = json.loads(terminal.out)["splits"][0]["rows"]
    assert [(one["task"], one["n"]) for one in row["side_effects"]] == [("sums.jsonl", 3)]


def read_plainly(raw: str, offered: Sequence[str]) -> str:
    """A letter, in brackets or not, or a word, if it was offered."""
    said = raw.strip().strip("()")
    return said if said in offered else ""


@pytest.mark.parametrize(
    ("task", "form"), [pytest.param("Count", "letter", marks=pytest.mark.slow), ("Relation", "word")]
)
def test_how_often_each_answer_was_given_before_and_after_is_what_the_stored_answers_say(
    task: str, form: Any, work: Path, terminal: Terminal
) -> None:
    session = open_session(work / "cache")
    values = 3 * np.random.default_rng(0).normal(size=(6, 96)).astype(np.float32)
    session.save(vector(values, name="pushed"))
    words = ("eval", "tiny", "scenes", "--task", task, "--form", form, "--n", "16", "--controls", "0", "--no-damage")
    words += ("--vector", "pushed", "--layer", "3", "--alpha", "8", "--target", "both", "--allow-foreign")
    assert terminal(*words) == 0, terminal.err
    printed: dict[tuple[str, str], str] = {}
    for split, table in zip(("search", "test"), terminal.out.split(" split: ")[1:], strict=True):
        lines = re.findall(r"^  (prompting|pushed): (.*changed)$", table, re.MULTILINE)
        printed |= {(split, name): line for name, line in lines}
    assert terminal(*words, "--json") == 0
    found = json.loads(terminal.out)

    asked = json.loads((work / "cache" / "sweeps" / found["sweep_id"] / "questions.json").read_text())["questions"]
    by_place = {e.place: e.labels for e in open_benchmark("scenes", task=task, form=form).examples}
    labels = {one["sample_id"]: by_place[one["place"]] for one in asked}
    right = {split: Counter(labels[q["sample_id"]].answer for q in asked if q["split"] == split) for split in SPLITS}
    said = {(split, cell): Counter[str]() for split in SPLITS for cell in ("plain", "prompting", "pushed")}
    stored = session.sql(
        "select split, sample_id, vector_id, prompt_id, raw from answers join cells using (sweep_id, cell_id)"
        " where sweep_id = $sweep",
        sweep=found["sweep_id"],
    )
    for split, sample_id, vector_id, prompt, raw in stored.fetchall():
        cell = "pushed" if vector_id else "plain" if prompt == "plain" else "prompting"
        choices = labels[sample_id].choices
        said[split, cell][read_plainly(raw, [*"ABCDE"][: len(choices)] if form == "letter" else choices)] += 1

    assert printed.keys() == {(row["split"], row["name"]) for split in found["splits"] for row in split["rows"]}
    for row in (row for split in found["splits"] for row in split["rows"]):
        place = row["split"], row["name"]
        columns = {"before": said[row["split"], "plain"], "after": said[place], "right": right[row["split"]]}
        names = sorted({name for counts in columns.values() for name in counts}, key=lambda name: (not name, name))
        letters = row["comparison"]["letters"]
        assert letters["letters"] == names
        for column, counts in columns.items():
            assert counts.total() == 16
            assert letters[column] == [counts[name] for name in names], (place, column)
        lines = [(name or "unread", *(str(counts[name]) for counts in columns.values())) for name in names]
        assert SHIFT.findall(printed[place]) == lines
        changed = (columns["after"] - columns["before"]).total() / 16
        assert letters["distance"] == changed
        assert printed[place].endswith(f"; at least {changed:.0%} changed")
    assert all(said[split, "pushed"] != said[split, "plain"] for split in SPLITS)


@pytest.mark.parametrize(
    "broken",
    [pytest.param((3, 7), marks=pytest.mark.slow), (0, 3, 5, 6, 7, 11, 14)],
    ids=["two", "more-than-are-named"],
)
def test_questions_whose_picture_is_broken_are_counted_and_named(
    broken: Sequence[int], work: Path, terminal: Terminal
) -> None:
    rows = [scenes.to_row(scenes.make_example(5, 2 * i, tasks=["Count"])) for i in range(16)]
    for i in broken:
        whole = rows[i]["image"]["bytes"]
        data = whole[: len(whole) // 2] if i == 3 else b"not a picture"  # a torn one has the head of a picture
        rows[i]["image"] = {"bytes": data, "path": f"picture{i}.png"}
    table = [{name: row.get(name) for name in CV_BENCH.names} for row in rows]
    write_table(work / "set" / "test_2d.parquet", table, CV_BENCH)
    words = ("eval", "tiny", "scenes", "--folder", "set", "--form", "number", "--controls", "0", "--no-damage")
    assert terminal(*words) == 9
    places = {f"test_2d.parquet:{i + 1}" for i in broken}
    lines = re.findall(r"^failed \((search|test)\): (test_2d\.parquet:\d+): (.*)$", terminal.err, re.MULTILINE)
    assert len(lines) == min(len(broken), 5)
    assert ("and 2 more: --json names all" in terminal.err) == (len(broken) == 7)
    assert {place for _, place, _ in lines} <= places
    assert f"error: {len(broken)} of 16 samples failed; the first: {lines[0][1]}: {lines[0][2]}" in terminal.err
    hint = re.search(r'^  steercache query "(.*)"$', terminal.err, re.MULTILINE)
    assert hint is not None
    assert terminal("query", hint[1], "--json") == 0
    assert {row["error"].partition(": ")[0] for row in json.loads(terminal.out)} == places
    assert terminal(*words, "--json") == 9
    found = json.loads(terminal.out)
    failures = [(f["split"], f["place"], f["error"]) for f in found["failures"]]
    assert {place for _, place, _ in failures} == places
    assert [(split, place, f"{place}: {error}") for split, place, error in lines] == failures[:5]
    errors = {place: error for _, place, error in failures}
    assert "(picture3.png) cannot be read" in errors["test_2d.parquet:4"]
    assert "not a picture: it begins with b'not a pi'" in errors["test_2d.parquet:8"]
    n_failed = Counter(split for split, _, _ in failures)
    assert sum(split["n"] for split in found["splits"]) == 16
    for split in found["splits"]:
        for row in split["rows"]:
            n = row["comparison"]["n"], row["comparison"]["n_failed"]
            assert n == (split["n"] - n_failed[split["split"]], n_failed[split["split"]])
    stored = open_session(work / "cache").sql(
        "select split, count(*), count(distinct sample_id) from answers where status = 'failed' group by split"
    )
    assert {split: (n // 2, samples) for split, n, samples in stored.fetchall()} == {
        split: (n, n) for split, n in n_failed.items()
    }  # 2 cells: as it is, and asked in words


@pytest.mark.slow
def test_pairs_and_sets_of_whatsup_are_counted_for_the_unsteered_model_too(work: Path, terminal: Terminal) -> None:
    rows = [
        {"image_options": stored(i), "caption_options": whatsup_captions("a", i // 4, i % 4), "TARGET": 0}
        for i in range(24)
    ]
    write_table(work / "set" / "data" / "Controlled_Images_A-00000-of-00001.parquet", rows, WHATSUP)
    words = ("eval", "tiny", "whatsup-a", "--folder", "set", "--controls", "0", "--no-damage")
    assert terminal(*words) == 0, terminal.err
    lines = re.findall(
        r"^  unsteered: single \S+, pairs (\S+) \((\d) of 6\), sets (\S+) \(3; 0 not whole\)$",
        terminal.out,
        re.MULTILINE,
    )
    assert terminal(*words, "--json") == 0
    found = json.loads(terminal.out)
    right = open_session(work / "cache").sql(
        "select a.split, a.sample_id, a.correct from answers a join cells using (sweep_id, cell_id)"
        " where vector_id is null and prompt_id = 'plain'"
    )
    asked = json.loads((work / "cache" / "sweeps" / found["sweep_id"] / "questions.json").read_text())["questions"]
    row_of = {one["sample_id"]: int(one["place"].rpartition(":")[2]) - 1 for one in asked}
    was = {row_of[sample]: bool(correct) for _, sample, correct in right.fetchall()}
    split_of = {row_of[one["sample_id"]]: one["split"] for one in asked}
    assert len(was) == 24
    for split, (pairs, n_right, sets) in zip(SPLITS, lines, strict=True):
        of_sets = [[was[4 * k + i] for i in range(4)] for k in range(6) if split_of[4 * k] == split]
        of_pairs = [all(pair) for one in of_sets for pair in (one[:2], one[2:])]
        assert int(n_right) == sum(of_pairs)
        assert pairs == f"{sum(of_pairs) / 6:.3f}"
        assert sets == f"{sum(map(all, of_sets)) / 3:.3f}"
        score = next(one["whatsup"] for one in found["splits"] if one["split"] == split)
        assert (score["n_right_pairs"], score["n_pairs"], score["n_sets"]) == (sum(of_pairs), 6, 3)
        assert score["individual"] == next(one["baseline"] for one in found["splits"] if one["split"] == split)


def test_columns_of_another_type_are_all_named_with_their_file(work: Path, terminal: Terminal) -> None:
    schema = pa.schema([field for field in BLINK if field.name not in ("choices", "answer")])
    schema = schema.append(pa.field("choices", pa.string())).append(pa.field("answer", pa.int64()))
    rows = [blink_row(i, choices="['yes', 'no']", answer=i % 2) for i in range(2)]
    write_table(work / "set" / "Spatial_Relation" / "val-00000-of-00001.parquet", rows, schema)
    assert terminal("eval", "tiny", "blink", "--folder", "set") == 3
    assert "val-00000-of-00001.parquet" in terminal.err
    assert "choices: wanted list of texts, found string" in terminal.err
    assert "answer: wanted text, found int64" in terminal.err
    assert "try: " in terminal.err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("tiny", "cv-bunch"), 2, "cv-bunch"),
        (("nobody", "scenes"), 4, "nobody"),
        (("tiny-backbone", "scenes"), 2, "reads no pictures"),
        (("tiny", "scenes", "--vector", "counting"), 2, "missing option --layer"),
        (("tiny", "scenes", "--vector", "none-such", "--layer", "1"), 4, "none-such"),
        (("tiny", "scenes", "--vector", "counting", "--layer", "1"), 2, "wide"),
        (("tiny", "scenes", "--alpha", "much"), 2, "not a list of numbers"),
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
    assert {row["name"] for row in json.loads(terminal.out)} == {
        *("tiny", "tiny-backbone", "demo", "demo-backbone"),
        "smollm2-135m-l15",
    }
    assert terminal("zoo", "build", "tiny", "here", "--json") == 0
    assert "model.safetensors" in json.loads(terminal.out)["files"]
    assert terminal("zoo", "card", "tiny") == 0
    assert terminal.out.startswith("# tiny")
    assert terminal("zoo", "card", "huge") == 4
