"""The ledger counts every look, survives torn lines and two writers, and notices what was altered."""

import fcntl
import json
import multiprocessing
import os
import resource
import time
from pathlib import Path

import pytest

from steercache.core.errors import BudgetError, DamagedError
from steercache.core.ids import canonical_json
from steercache.sweeps.ledger import FILE_NAME, LedgerEntry, count_looks, read_entries, record_look
from steercache.sweeps.ledger_file import TORN


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
    assert [k.subject for k in read_entries(tmp_path, dataset="cv-bench-2d", split="test")] == ["one", "two", "two"]
    assert len(read_entries(tmp_path)) == 5
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


def test_a_line_cut_anywhere_by_a_kill_costs_at_most_its_own_look(tmp_path: Path) -> None:
    for subject in ("one", "two"):
        _look(tmp_path, subject)
    path = tmp_path / FILE_NAME
    whole = path.read_bytes()
    first, second = whole.splitlines(keepends=True)
    for cut in range(len(second) + 1):
        path.write_bytes(first + second[:cut])
        (tmp_path / TORN).unlink(missing_ok=True)
        has_second = cut >= len(second) - 1  # only the newline is missing
        expected = ["one", "two"] if has_second else ["one"]
        assert [k.subject for k in read_entries(tmp_path)] == expected, cut
        assert path.read_bytes() == first + second[:cut], "a reader changes nothing"
        for subject in ("three", "four"):
            _look(tmp_path, subject)
            expected.append(subject)
            assert [k.subject for k in read_entries(tmp_path)] == expected, cut
        aside = (tmp_path / TORN).read_text() if (tmp_path / TORN).exists() else ""
        torn = [json.loads(line)["torn"].encode("latin-1") for line in aside.splitlines()]
        assert torn == ([] if has_second or not cut else [second[:cut]])


def test_a_ledger_that_an_older_steercache_locked_out_can_be_read_and_written(tmp_path: Path) -> None:
    for subject in ("one", "two"):
        _look(tmp_path, subject)
    path = tmp_path / FILE_NAME
    first, second = path.read_bytes().splitlines()
    entry = json.loads(second) | {"subject": "three"}  # names the first as the one before it, as the second does
    path.write_bytes(first + b"\n" + second + b"\n" + canonical_json(entry) + b"\n")
    _look(tmp_path, "four")
    assert [k.subject for k in read_entries(tmp_path)] == ["one", "two", "three", "four"]


def test_bytes_that_no_write_leaves_are_no_torn_line(tmp_path: Path) -> None:
    for subject in ("one", "two", "three"):
        _look(tmp_path, subject)
    path = tmp_path / FILE_NAME
    whole = path.read_bytes()
    n_checked = whole.rindex(b"\n", 0, -1)  # the last line has no successor that vouches for it
    for at in range(0, n_checked, 7):
        altered = bytearray(whole)
        altered[at] ^= 1
        path.write_bytes(altered)
        with pytest.raises(DamagedError, match=r"entry \d"):
            read_entries(tmp_path)
        with pytest.raises(DamagedError, match=r"entry \d"):
            _look(tmp_path)
        assert path.read_bytes() == altered
    lines = whole.splitlines()
    path.write_bytes(lines[0] + b"\n" + lines[2])  # a whole entry, not torn, that does not follow
    with pytest.raises(DamagedError, match="entry 2"):
        read_entries(tmp_path)


def test_a_disk_that_takes_a_part_of_a_line_leaves_the_ledger_as_it_was(tmp_path: Path) -> None:
    _look(tmp_path, "one")
    before = (tmp_path / FILE_NAME).read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, hard))
    try:
        with pytest.raises(BudgetError, match="ledger"):
            _look(tmp_path, "two")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / FILE_NAME).read_bytes() == before
    _look(tmp_path, "two")
    assert [k.subject for k in read_entries(tmp_path)] == ["one", "two"]


def test_a_look_that_is_wanted_once_is_there_once(tmp_path: Path) -> None:
    def look(subject: str) -> LedgerEntry:
        return record_look(tmp_path, dataset="d", rule="r", split="test", subject=subject, n=1, once=True)

    assert look("one") == look("one") != look("two")
    assert [k.subject for k in read_entries(tmp_path)] == ["one", "two"]


def test_a_ledger_moved_away_while_a_writer_waits_for_it_is_begun_anew(tmp_path: Path) -> None:
    _look(tmp_path, "one")
    path = tmp_path / FILE_NAME
    context = multiprocessing.get_context("spawn")
    with path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        writer = context.Process(target=_look, args=(tmp_path, "two"))
        writer.start()
        deadline = time.monotonic() + 60
        while not _waits(path, writer.pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        path.rename(tmp_path / "moved")
    writer.join()
    assert writer.exitcode == 0
    assert [k.subject for k in read_entries(tmp_path)] == ["two"]


def _waits(path: Path, pid: int | None) -> bool:
    """Whether a process waits for the lock on a file."""
    inode = f":{path.stat().st_ino} "
    return any(
        "->" in line and str(pid) in line.split() and inode in line
        for line in Path("/proc/locks").read_text().splitlines()
    )


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
    assert [k.subject for k in read_entries(tmp_path)] == ["one", "two", "three"]


def test_altered_and_missing_lines_are_noticed(tmp_path: Path) -> None:
    for subject in ("one", "two", "three"):
        _look(tmp_path, subject)
    path = tmp_path / FILE_NAME
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + lines[2])
    with pytest.raises(DamagedError, match="entry 2"):
        read_entries(tmp_path)
    with pytest.raises(DamagedError, match="entry 2"):
        _look(tmp_path)
    path.write_text(lines[0].replace("150", "151") + lines[1] + lines[2])
    with pytest.raises(DamagedError, match="entry 2"):
        read_entries(tmp_path)
    document = json.loads(lines[0]) | {"extra": 1}
    path.write_text(json.dumps(document) + "\n")
    with pytest.raises(DamagedError, match="entry 1"):
        read_entries(tmp_path)


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
    subjects = [k.subject for k in read_entries(tmp_path)]
    assert len(subjects) == len(set(subjects)) == 75


def test_a_root_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BudgetError, match="ledger"):
        _look(tmp_path / "file")
    os.mkdir(tmp_path / FILE_NAME)
    with pytest.raises(BudgetError, match="ledger"):
        _look(tmp_path)
