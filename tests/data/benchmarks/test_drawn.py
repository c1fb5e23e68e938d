"""`scenes` without files: drawn when asked for, and the same questions as a file of them holds."""

from pathlib import Path

import pytest

from steercache.core.errors import ManifestError, UsageError
from steercache.data import open_dataset, scenes
from steercache.data.benchmarks import open_benchmark
from steercache.data.benchmarks.drawn import PER_TASK, SEED
from steercache.manifests.load import parse_manifest
from tests.data.benchmarks.layouts import CV_BENCH, cv_row, write_table


def dataset(source: str, **more: str) -> object:
    text = f"kind: dataset\nversion: 1\nname: seen\nsource: {source}\n" + "".join(
        f"{k}: {v}\n" for k, v in more.items()
    )
    return parse_manifest(text, file="seen.yaml")


@pytest.mark.parametrize("shifted", [False, True])
def test_drawn_questions_are_those_that_a_written_set_holds(tmp_path: Path, shifted: bool) -> None:
    made = scenes.iter_examples(SEED, 16, shifted=shifted)
    scenes.write_parquet(made, tmp_path / "test_2d.parquet", group_id=True)
    name = scenes.SET_NAMES[shifted]
    for form in ("letter", "number", "word"):
        drawn = open_benchmark(name, limit=16, form=form)  # type: ignore[arg-type]
        written = open_benchmark(name, tmp_path, form=form)  # type: ignore[arg-type]
        assert [e.text for e in drawn] == [e.text for e in written]
        assert [e.labels for e in drawn] == [e.labels for e in written]
        assert [e.images[0].load() for e in drawn] == [e.images[0].load() for e in written]


def test_a_set_of_one_task_has_a_test_split_of_the_published_size() -> None:
    bench = open_benchmark("scenes", task="Relation")
    assert len(bench) == PER_TASK
    assert len(bench.part("test")) == 150
    assert {e.labels.meta["task"] for e in bench} == {"Relation"}
    groups = [{e.labels.group_id for e in bench.part(split)} for split in ("search", "test")]
    assert not groups[0] & groups[1]


def test_words_are_asked_for_with_the_choices_as_vocabulary() -> None:
    labels = [e.labels for e in open_benchmark("scenes", form="word", limit=8)]
    assert {k.meta["kind"] for k in labels if k.meta["task"] == "Count"} == {"count"}
    assert all(k.answer in k.choices for k in labels if k.meta["task"] != "Count")


def test_a_trace_reads_what_eval_asks(tmp_path: Path) -> None:
    drawn = open_dataset(dataset("{type: scenes, seed: 3, n: 6, prefix: 'answer en '}"), base_dir=tmp_path)  # type: ignore[arg-type]
    assert [e.text.startswith("answer en Answer with the letter only.\n") for e in drawn] == [True] * 6
    assert list(drawn)[3].images[0].load() == scenes.make_example(3, 3).png()
    asked = open_dataset(
        dataset(
            "{type: benchmark, benchmark: scenes, task: Count, split: test}", chat="{apply: true}", concept="counting"
        ),  # type: ignore[arg-type]
        base_dir=tmp_path,
    )
    part = open_benchmark("scenes", task="Count").part("test")
    assert [e.text for e in asked] == [e.text for e in part]
    assert {(e.chat, e.labels.concept, e.dataset) for e in asked} == {(True, "counting", "seen")}


def test_rows_of_a_benchmark_that_cannot_be_asked_are_named(tmp_path: Path) -> None:
    rows = [cv_row(i, "Relation") for i in range(4)]
    rows[2]["image"] = {"bytes": b"not a picture", "path": "x.png"}
    write_table(tmp_path / "cv" / "test_2d.parquet", rows, CV_BENCH)
    data = open_dataset(dataset("{type: benchmark, benchmark: cv-bench-2d, path: cv}"), base_dir=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(ManifestError) as caught:
        list(data)
    assert [(p.loc, p.kind) for p in caught.value.problems] == [("test_2d.parquet:3", "broken_image")]
    with pytest.raises(UsageError, match="no task"):
        list(open_dataset(dataset("{type: benchmark, benchmark: scenes, task: Depth}"), base_dir=tmp_path))  # type: ignore[arg-type]
