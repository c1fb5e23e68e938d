"""A data set is read lazily, again and again the same, in memory that does not grow with it."""

import tracemalloc
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steercache.data import DataSet
from tests.data.tables import WRITERS, dataset, write_jsonl


def peak_bytes(work: Callable[[], Any]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def corpus(folder: Path, n_lines: int) -> DataSet:
    path = folder / f"corpus-{n_lines}.txt"
    with path.open("w") as stream:
        stream.writelines(f"Line {i} of a corpus that is too long to hold.\n" for i in range(n_lines))
    return dataset(folder, {"type": "text", "path": path.name})


@pytest.mark.slow
def test_memory_is_the_same_for_two_thousand_and_two_hundred_thousand_lines(tmp_path: Path) -> None:
    small, large = corpus(tmp_path, 2_000), corpus(tmp_path, 200_000)
    small.check()  # caches of the interpreter are filled before anything is measured
    counted: list[int] = []
    assert peak_bytes(lambda: counted.append(large.check())) < peak_bytes(small.check) + 100_000
    assert counted == [200_000]


@pytest.mark.parametrize("type_", WRITERS)
def test_memory_is_the_same_for_a_table_ten_times_as_long(tmp_path: Path, type_: str) -> None:
    tables = []
    for n_rows in (500, 5_000):
        path = f"{n_rows}.{type_}"
        rows = [{"text": f"Row {i} is on disk.", "w": "on", "c": "x" * 50} for i in range(n_rows)]
        WRITERS[type_](tmp_path / path, rows)
        tables.append(dataset(tmp_path, {"type": type_, "path": path, "columns": {"anchor": "w", "concept": "c"}}))
    tables[0].check()
    assert peak_bytes(tables[1].check) < peak_bytes(tables[0].check) + 300_000


def test_the_first_examples_of_an_endless_file_come_at_once(tmp_path: Path) -> None:
    found = corpus(tmp_path, 200_000)
    assert peak_bytes(lambda: list(islice(found, 10))) < 200_000


def test_opening_reads_nothing_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_bytes(b"\xff not json\n")
    assert dataset(tmp_path, {"type": "jsonl", "path": "d.jsonl"}).name == "d"


def test_two_iterations_are_equal_and_do_not_disturb_each_other(tmp_path: Path) -> None:
    found = corpus(tmp_path, 50)
    whole = list(found)
    assert list(found) == whole
    pairs = list(zip(found, found, strict=True))
    assert [first for first, _ in pairs] == [second for _, second in pairs] == whole


@settings(max_examples=60, deadline=None)
@given(n_rows=st.integers(0, 30), limit=st.integers(1, 40), seed=st.none() | st.integers(0, 5))
def test_a_limit_keeps_that_many_rows_in_file_order(
    tmp_path_factory: pytest.TempPathFactory, n_rows: int, limit: int, seed: int | None
) -> None:
    folder = tmp_path_factory.mktemp("limit")
    write_jsonl(folder / "d.jsonl", [{"text": str(i)} for i in range(n_rows)])
    found = dataset(folder, {"type": "jsonl", "path": "d.jsonl"}, limit=limit, seed=seed)
    kept = [int(example.text) for example in found]
    assert len(kept) == min(limit, n_rows)
    assert kept == sorted(set(kept))
    assert seed is not None or kept == list(range(n_rows))[:limit]
    assert [int(example.text) for example in found] == kept


def test_seeds_choose_differently_and_every_row_has_its_chance(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "d.jsonl", [{"text": str(i)} for i in range(20)])
    source = {"type": "jsonl", "path": "d.jsonl"}
    choices = [frozenset(e.text for e in dataset(tmp_path, source, limit=5, seed=seed)) for seed in range(40)]
    assert len(set(choices)) > 30
    assert len(frozenset.union(*choices)) == 20


def test_bad_rows_beyond_the_limit_do_not_matter(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text('{"text": "a"}\n{"text": "b"}\nbroken\n')
    assert dataset(tmp_path, {"type": "jsonl", "path": "d.jsonl"}, limit=2).check() == 2
