"""The ledger counts every look, survives torn lines and two writers, and notices what was altered."""

import json
import multiprocessing
import os
from pathlib import Path

import pytest

from steercache.core.errors import BudgetError, DamagedError
from steercache.sweeps.evaluation.ledger import FILE_NAME, count_looks, read_looks, record_look


def _look(root: Path, subject: str = "sweep", split: str = "test") -> None:
    record_look(root, dataset="cv-bench-2d", task="Relation", rule="grouped", split=split, subject=subject, n=150)


def _count(root: Path) -> int:
    return count_looks(root, dataset="cv-bench-2d", task="Relation", rule="grouped", split="test")


def test_every_look_is_counted_by_what_was_looked_at(tmp_path: Path) -> None:
    assert _count(tmp_path) == 0
    for subject in ("one", "two", "two"):
        _look(tmp_path, subject)
    _look(tmp_path, split="search")
    record_look(tmp_path, dataset="blink", rule="paper", split="test", subject="x", n=43)
    assert _count(tmp_path) == 3
    assert [k.subject for k in read_looks(tmp_path, dataset="cv-bench-2d", split="test")] == ["one", "two", "two"]
    assert len(read_looks(tmp_path)) == 5
    assert count_looks(tmp_path, dataset="blink", rule="grouped", split="test") == 0


@pytest.mark.parametrize(
    ("dataset", "task", "n"),
    [
        ("cv-bench-2d", "Relation", 3),
        ("cv-bench-2d", "Count", 3),
        ("cv-bench-2d", None, 4),
        ("cv-bench", "Relation", 3),
        ("cv-bench", "Count", 3),
        ("cv-bench", None, 5),
        ("cv-bench-3d", "Depth", 2),
        ("cv-bench-3d", None, 3),  # the count task has no row there: rather one too many
        ("scenes", "Count", 1),
        ("scenes", None, 2),
        ("scenes-shifted", "Count", 0),
    ],
)
def test_a_look_counts_for_every_part_whose_questions_it_showed(
    tmp_path: Path, dataset: str, task: str | None, n: int
) -> None:
    looks = [
        ("cv-bench-2d", "Relation"),
        ("cv-bench-2d", None),
        ("cv-bench", None),
        ("cv-bench", "Count"),
        ("cv-bench-3d", "Depth"),
        ("scenes", "Relation"),
        ("scenes", "Count"),
    ]
    for name, of in looks:
        record_look(tmp_path, dataset=name, task=of, rule="grouped", split="test", subject="s", n=9)
        record_look(tmp_path, dataset=name, task=of, rule="grouped", split="search", subject="s", n=9)
    assert count_looks(tmp_path, dataset=dataset, task=task, rule="grouped", split="test") == n
    assert count_looks(tmp_path, dataset=dataset, task=task, rule="paper", split="test") == 0


def test_lines_are_only_ever_added(tmp_path: Path) -> None:
    _look(tmp_path, "one")
    before = (tmp_path / FILE_NAME).read_bytes()
    _look(tmp_path, "two")
    assert (tmp_path / FILE_NAME).read_bytes().startswith(before)


@pytest.mark.parametrize("cut", [1, 20, 100])
def test_a_torn_line_is_closed_off_and_the_rest_stays(tmp_path: Path, cut: int) -> None:
    for subject in ("one", "two"):
        _look(tmp_path, subject)
    path = tmp_path / FILE_NAME
    whole = path.read_bytes()
    second = whole.splitlines(keepends=True)[1]
    path.write_bytes(whole + second[:cut])
    assert _count(tmp_path) == 2
    _look(tmp_path, "three")
    assert [k.subject for k in read_looks(tmp_path)] == ["one", "two", "three"]


def test_altered_and_missing_lines_are_noticed(tmp_path: Path) -> None:
    for subject in ("one", "two", "three"):
        _look(tmp_path, subject)
    path = tmp_path / FILE_NAME
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + lines[2])
    with pytest.raises(DamagedError, match="entry 2"):
        read_looks(tmp_path)
    with pytest.raises(DamagedError, match="entry 2"):
        _look(tmp_path)
    path.write_text(lines[0].replace("150", "151") + lines[1] + lines[2])
    with pytest.raises(DamagedError, match="entry 2"):
        read_looks(tmp_path)
    document = json.loads(lines[0]) | {"extra": 1}
    path.write_text(json.dumps(document) + "\n")
    with pytest.raises(DamagedError, match="entry 1"):
        read_looks(tmp_path)


def _write_many(root: Path, name: str) -> None:
    for i in range(25):
        _look(root, f"{name}-{i}")


def test_several_processes_write_without_losing_a_line(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_write_many, args=(tmp_path, f"w{k}")) for k in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [w.exitcode for w in workers] == [0, 0, 0]
    subjects = [k.subject for k in read_looks(tmp_path)]
    assert len(subjects) == len(set(subjects)) == 75


def test_a_root_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BudgetError, match="ledger"):
        _look(tmp_path / "file")
    os.mkdir(tmp_path / FILE_NAME)
    with pytest.raises(BudgetError, match="ledger"):
        _look(tmp_path)
