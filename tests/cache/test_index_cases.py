"""The index equals the files: single cases that were wrong once, each by itself."""

import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from steercache.cache import handle, states
from steercache.cache.catch_up import add_shards, catch_up, is_fresh
from steercache.cache.documents import read_shard_record
from steercache.cache.handle import CacheFolder, open_cache
from steercache.cache.rebuild import rebuild_index
from steercache.cache.sweep_files import write_searches
from steercache.cache.sweeps import save_choices, save_sweep
from steercache.cache.vector_files import write_vector
from steercache.cache.vectors import save_vector
from steercache.index import gate
from tests.cache.test_index_equals_files import (
    SAMPLES,
    answer,
    assert_equal_to_a_rebuild,
    cell,
    choices_of,
    search_row,
    tables_of_index,
    templates,
    vector,
)
from tests.index.test_gate import held, say


@pytest.fixture
def cache(tmp_path: Path) -> CacheFolder:
    return open_cache(tmp_path / "root", create=True)


def rows(cache: CacheFolder, sql: str) -> list[Any]:
    with cache.connection() as con:
        found: list[Any] = con.execute(sql).fetchall()
    return found


def test_a_sweep_saved_again_with_fewer_answers_has_just_those(cache: CacheFolder) -> None:
    for samples in (SAMPLES, SAMPLES[:1]):
        save_sweep(cache, "s", manifest={}, cells=[cell(0)], answers=[answer(0, sample) for sample in samples])
        assert rows(cache, "SELECT sample_id FROM answers ORDER BY 1") == [(s,) for s in samples]
    assert_equal_to_a_rebuild(cache)


def test_a_sweep_removed_by_hand_leaves_no_row(cache: CacheFolder) -> None:
    sweep_id = save_sweep(cache, "s", manifest={}, cells=[cell(0)], answers=[answer(0, "x")])
    write_searches(cache.paths.sweep(sweep_id), [search_row(0.5)])
    save_choices(cache, sweep_id, choices_of(0))
    assert rows(cache, "SELECT count(*) FROM searches") == [(1,)]
    assert rows(cache, "SELECT place, arm, role, details ->> 'family' FROM choices ORDER BY place") == [
        (0, "baseline", "baseline", None),
        (1, "v", "vector", "[]"),
    ]
    shutil.rmtree(cache.paths.sweep(sweep_id))
    for table in ("sweeps", "cells", "answers", "searches", "choices"):
        assert rows(cache, f"SELECT * FROM {table}") == [], table


def test_diagnostics_of_a_vector_saved_while_the_index_was_held_arrive(cache: CacheFolder) -> None:
    save_vector(cache, vector(0))
    assert rows(cache, "SELECT DISTINCT auc FROM vectors") == [(None,)]
    write_vector(cache.paths.vector(vector(0).vector_id), vector(0, auc=0.75))
    assert rows(cache, "SELECT DISTINCT auc FROM vectors") == [(0.75,)]


@pytest.mark.parametrize("mode", ["w", "r"])
def test_an_index_that_another_process_keeps_is_waited_for_once(
    mode: str, cache: CacheFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader in the way keeps the index from being brought up to date, a writer from being read."""
    monkeypatch.setattr(handle, "READER_WAIT_S", 0.5)
    save_vector(cache, vector(0))

    pauses, sleep = list[float](), time.sleep
    monkeypatch.setattr(gate.time, "sleep", lambda s: (pauses.append(s), sleep(s)))

    def read() -> tuple[object, int, bool]:
        pauses.clear()
        with cache.connection() as con:
            found = con.execute("SELECT count(DISTINCT vector_id) FROM vectors").fetchone()
            whole = bool(con.execute("SELECT count(*) FROM duckdb_databases() WHERE path IS NOT NULL").fetchone()[0])
        return found, len(pauses), whole

    assert read()[::2] == ((1,), True)
    with held(cache.paths.index, mode) as process:
        write_vector(cache.paths.vector(vector(1).vector_id), vector(1))
        found, n_pauses, whole = read()
        assert (found, whole) == ((2,), False)  # of the files
        again = [read() for _ in range(3)]
        assert {one[::2] for one in again} == {((2,), False)}
        assert (n_pauses > 0, [one[1] for one in again]) == (True, [0, 0, 0])
        say(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "released\n"
        assert read()[::2] == ((2,), True)  # as soon as it is free
        assert cache._held_until == 0.0


def test_the_older_copy_of_a_vector_is_back_when_the_newer_one_is_removed(cache: CacheFolder) -> None:
    write_vector(cache.paths.vector(vector(0).vector_id), vector(0, auc=0.5))
    write_vector(cache.paths.vectors / "mine.safetensors", vector(0, auc=0.75))
    assert rows(cache, "SELECT DISTINCT auc FROM vectors") == [(0.75,)]
    assert_equal_to_a_rebuild(cache)
    (cache.paths.vectors / "mine.safetensors").unlink()
    assert rows(cache, "SELECT DISTINCT auc FROM vectors") == [(0.5,)]
    assert_equal_to_a_rebuild(cache)


def test_rows_of_a_run_that_was_told_shard_by_shard_go_with_the_run(cache: CacheFolder) -> None:
    shutil.copytree(templates() / "one", cache.root, dirs_exist_ok=True, ignore=shutil.ignore_patterns("index*"))
    (run,) = cache.paths.all_runs()
    add_shards(cache.paths, cache.run_document(run.folder.name), [read_shard_record(run.shard("g0001", 0))])
    shutil.rmtree(run.folder)
    for table in ("runs", "shards", "samples", "tokens"):
        assert rows(cache, f"SELECT * FROM {table}") == [], table


def test_a_run_whose_document_cannot_be_read_has_no_rows_caught_up_or_rebuilt(cache: CacheFolder) -> None:
    shutil.copytree(templates() / "one", cache.root, dirs_exist_ok=True, ignore=shutil.ignore_patterns("index*"))
    assert rows(cache, "SELECT count(*) FROM runs") == [(1,)]
    (run,) = cache.paths.all_runs()
    run.document.write_text("{}")
    assert rows(cache, "SELECT count(*) FROM tokens") == [(0,)]
    assert_equal_to_a_rebuild(cache)


def test_what_a_rebuild_remembers_of_the_files_is_what_catching_up_remembers(cache: CacheFolder) -> None:
    shutil.copytree(templates() / "one", cache.root, dirs_exist_ok=True, ignore=shutil.ignore_patterns("index*"))
    save_vector(cache, vector(0))
    save_sweep(cache, "s", manifest={}, cells=[cell(0)], answers=[answer(0, "x")])
    assert catch_up(cache.paths, wait_s=30) is None
    caught_up = tables_of_index(cache)
    rebuild_index(cache)
    rebuilt = tables_of_index(cache)
    for name in ("seen", "sources"):
        assert rebuilt[name] == caught_up[name], name
        assert rebuilt[name]


def test_two_writes_of_one_size_within_a_tick_of_the_clock_are_both_seen(cache: CacheFolder) -> None:
    path = cache.paths.vector(vector(0).vector_id)
    for i in range(8):
        auc = 0.25 + 0.5 * (i % 2)
        write_vector(path, vector(0, auc=auc))
        assert rows(cache, "SELECT DISTINCT auc FROM vectors") == [(auc,)]


@pytest.mark.parametrize("settle", [True, False])
def test_a_clock_that_does_not_tick_between_two_writes_hides_neither(
    settle: bool, cache: CacheFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of the file system stands still: the stamps of both contents are equal, and only their age tells."""
    tick, now = 1_000_000_000, [1_000_000_000]
    monkeypatch.setattr(states, "_stamp", lambda stat: (tick, tick, stat.st_size))
    monkeypatch.setattr(states.time, "time_ns", lambda: now[0])
    path = cache.paths.vector(vector(0).vector_id)
    for auc in (0.25, 0.75):
        write_vector(path, vector(0, auc=auc))
        now[0] += 1_000_000
        assert catch_up(cache.paths, wait_s=30, settle=settle) is None
        with cache.index.read() as con:
            assert con.execute("SELECT DISTINCT auc FROM vectors").fetchall() == [(auc,)]
            assert not is_fresh(cache.paths, con)
    now[0] += 1_000_000_000
    catch_up(cache.paths, wait_s=30)
    with cache.index.read() as con:
        assert is_fresh(cache.paths, con)
