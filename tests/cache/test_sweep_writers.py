"""Several processes write one sweep, in every order, and some are killed: each answer that was acknowledged is there."""

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from steercache.answers.store import SweepWriter
from steercache.cache import sweeps
from steercache.cache.catch_up import catch_up
from steercache.cache.handle import CacheFolder, open_cache
from steercache.cache.rebuild import rebuild_index
from steercache.cache.sweeps import add_answers, begin_sweep, finish_sweep, save_sweep, sweep_id_of
from steercache.cache.verify import verify_root
from steercache.core.errors import BusyError
from steercache.core.trials import Answer, Cell
from steercache.index import ingest
from tests.cache.test_index_equals_files import assert_equal_to_a_rebuild

N_WORKERS = 3
NAME, MANIFEST = "s", {"kind": "test"}
SPAWN = multiprocessing.get_context("spawn")


def cell(number: int) -> Cell:
    return Cell(
        vector_id=None, layer=None, alpha=float(number), target="all", model_fingerprint="f" * 64, prompt_id="p"
    )


def answer(worker: int, number: int, *, raw: str = "A") -> Answer:
    return Answer(cell_id=cell(worker).cell_id, sample_id=f"{number}", split="test", raw=raw)


def work(root: Path, worker: int, seed: int, n: int) -> None:
    """Change the sweep `n` times, at random; every answer is written down once the call that keeps it has returned."""
    moves, cache, mine = random.Random(seed), open_cache(root), []
    (root.parent / f"ready{worker}").touch()
    while len(list(root.parent.glob("ready*"))) < N_WORKERS:
        time.sleep(0.001)  # so that they write at the same time
    with (root.parent / f"log{worker}").open("a") as log:
        for i in range(n):
            some = [answer(worker, 10 * i + k) for k in range(moves.randint(1, 3))]
            what: dict[str, Any] = {"manifest": MANIFEST, "cells": [cell(worker)]}
            move = moves.choice(["add", "add", "add", "begin", "finish", "finish", "save"])
            if move in ("add", "begin") or not mine:
                sweep_id = (
                    begin_sweep(cache, NAME, **what) if move == "begin" or not mine else sweep_id_of(NAME, MANIFEST)
                )
                add_answers(cache, sweep_id, some)
            elif move == "finish":
                finish_sweep(cache, NAME, answers=some, **what)
            else:
                save_sweep(cache, NAME, answers=[*mine, *some], **what)
            mine += some
            log.write("".join(f"{json.dumps([a.cell_id, a.sample_id])}\n" for a in some))
            log.flush()
            time.sleep(moves.uniform(0, 0.01))


def acknowledged(folder: Path) -> set[tuple[str, str]]:
    """What the workers wrote down; a line that a kill tore was not acknowledged."""
    found = set()
    for path in folder.glob("log*"):
        for line in path.read_text().split("\n")[:-1]:
            found.add(tuple(json.loads(line)))
    return found


def answers_in_files(cache: CacheFolder) -> set[tuple[str, str]]:
    folder = cache.paths.sweep(sweep_id_of(NAME, MANIFEST)) / "answers"
    tables = [pq.read_table(path, columns=["cell_id", "sample_id"]).to_pylist() for path in folder.glob("*.parquet")]
    return {(row["cell_id"], row["sample_id"]) for table in tables for row in table}


def run_workers(root: Path, *, seed: int, n: int, n_kills: int = 0) -> None:
    workers = [SPAWN.Process(target=work, args=(root, i, 100 * seed + i, n)) for i in range(N_WORKERS)]
    for worker in workers:
        worker.start()
    moves = random.Random(seed)
    for worker in workers[:n_kills]:
        while worker.is_alive() and not (root.parent / f"log{workers.index(worker)}").exists():
            time.sleep(0.01)  # it is still importing
        time.sleep(moves.uniform(0.05, 0.5))
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
    for worker in workers:
        worker.join()
    assert [w.exitcode for w in workers[n_kills:]] == [0] * (N_WORKERS - n_kills)


@pytest.mark.parametrize(("seeds", "n"), [pytest.param((0,), 10, id="a-few"), pytest.param(range(1, 4), 60, id="many")])
@pytest.mark.slow  # processes that write at once, by default: tests/index/test_gate.py
def test_every_acknowledged_answer_of_several_processes_is_kept(tmp_path: Path, seeds: Any, n: int) -> None:
    for seed in seeds:
        root = tmp_path / f"{seed}" / "root"
        cache = open_cache(root, create=True)
        run_workers(root, seed=seed, n=n, n_kills=1)
        kept = acknowledged(root.parent)
        assert len(kept) > 2 * n
        assert kept - answers_in_files(cache) == set()
        with cache.connection() as con:
            indexed = con.execute("SELECT cell_id, sample_id FROM answers").fetchall()
            n_with_cell = con.execute("SELECT count(*) FROM answers_with_cells WHERE alpha IS NOT NULL").fetchall()
        assert len(indexed) == len({*indexed}) == n_with_cell[0][0]
        assert kept - {*indexed} == set()
        assert_equal_to_a_rebuild(cache)


@pytest.mark.parametrize("step", ["rows_of", "check_parquet"])
@pytest.mark.parametrize("reading", [catch_up, rebuild_index])
def test_answers_that_another_process_puts_together_while_they_are_read(
    cache: CacheFolder, monkeypatch: pytest.MonkeyPatch, step: str, reading: Any
) -> None:
    sweep_id = begin_sweep(cache, NAME, manifest=MANIFEST, cells=[cell(1)])
    for number in range(3):
        add_answers(cache, sweep_id, [answer(1, number)])
    original, calls = getattr(ingest, step), []

    def interrupted(path: Path, schema: Any) -> Any:
        calls.append(path)
        if len(calls) == 2:  # the file was listed, and has gone when it is opened
            finish_elsewhere(cache)
        return original(path, schema)

    monkeypatch.setattr(ingest, step, interrupted)
    reading(cache.paths if reading is catch_up else cache)
    assert stored(cache) == {(1.0, f"{number}"): "A" for number in range(3)}
    assert len(calls) > 2
    assert_equal_to_a_rebuild(cache)


def finish_elsewhere(cache: CacheFolder) -> None:
    """What another process does to the files; it finds the index held and leaves it to the next reader."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweeps, "tell_index", lambda cache: None)
        finish_sweep(cache, NAME, manifest=MANIFEST, cells=[cell(1)], answers=[])


@pytest.fixture
def cache(tmp_path: Path) -> CacheFolder:
    return open_cache(tmp_path / "root", create=True)


def stored(cache: CacheFolder) -> dict[tuple[float, str], str]:
    with cache.connection() as con:
        found = con.execute("SELECT alpha, sample_id, raw FROM answers_with_cells").fetchall()
    assert len(found) == len({row[:2] for row in found})
    return {(alpha, sample): raw for alpha, sample, raw in found}


def test_saving_leaves_what_others_added(cache: CacheFolder) -> None:
    sweep_id = begin_sweep(cache, NAME, manifest=MANIFEST, cells=[cell(1)])
    add_answers(cache, sweep_id, [answer(1, 1), answer(1, 2)])
    for save in (save_sweep, finish_sweep, save_sweep):
        save(cache, NAME, manifest=MANIFEST, cells=[cell(2)], answers=[answer(2, 1)])
        assert stored(cache) == {(1.0, "1"): "A", (1.0, "2"): "A", (2.0, "1"): "A"}


def test_saving_one_cell_leaves_what_another_process_saved_of_another(cache: CacheFolder) -> None:
    sweep_id = begin_sweep(cache, NAME, manifest=MANIFEST, cells=[cell(1)])
    add_answers(cache, sweep_id, [answer(1, 1)])
    for number, samples in [(1, [1, 2]), (2, [1, 2]), (1, [1])]:
        some = [answer(number, sample) for sample in samples]
        save_sweep(cache, NAME, manifest=MANIFEST, cells=[cell(number)], answers=some)
    assert stored(cache) == {(1.0, "1"): "A", (2.0, "1"): "A", (2.0, "2"): "A"}


def test_an_answer_given_again_takes_the_place_of_the_old_one(cache: CacheFolder) -> None:
    sweep_id = begin_sweep(cache, NAME, manifest=MANIFEST, cells=[cell(1)])
    for raw in "AB":
        add_answers(cache, sweep_id, [answer(1, 1, raw=raw)])
    assert stored(cache) == {(1.0, "1"): "B"}
    finish_sweep(cache, NAME, manifest=MANIFEST, cells=[cell(1)], answers=[answer(1, 1, raw="C")])
    assert stored(cache) == {(1.0, "1"): "C"}
    assert [p.name for p in (cache.paths.sweep(sweep_id) / "answers").glob("*.parquet")] == ["00000.parquet"]


def test_a_finished_sweep_is_one_file_whatever_the_order_of_its_parts(cache: CacheFolder, tmp_path: Path) -> None:
    every = [answer(w, i) for w in (2, 0, 1) for i in (3, 1, 2)]
    contents = set()
    for seed in range(3):
        root = tmp_path / f"{seed}"
        random.Random(seed).shuffle(every)
        other = open_cache(root, create=True)
        sweep_id = begin_sweep(other, NAME, manifest=MANIFEST, cells=[cell(i) for i in range(3)])
        for some in (every[:2], every[2:5]):
            add_answers(other, sweep_id, some)
        finish_sweep(other, NAME, manifest=MANIFEST, cells=[], answers=every[5:])
        contents.add((other.paths.sweep(sweep_id) / "answers" / "00000.parquet").read_bytes())
    assert len(contents) == 1


def test_parts_of_older_files_are_kept_with_null_in_columns_that_they_lack(cache: CacheFolder) -> None:
    sweep_id = begin_sweep(cache, NAME, manifest=MANIFEST, cells=[cell(1)])
    add_answers(cache, sweep_id, [answer(1, 1)])
    (part,) = (cache.paths.sweep(sweep_id) / "answers").glob("*.parquet")
    older = pq.read_table(part).drop_columns("mode")
    part.unlink()
    pq.write_table(older, part.with_name("00001.parquet"))
    add_answers(cache, sweep_id, [answer(1, 2)])
    assert len(list(part.parent.glob("*.parquet"))) == 2
    finish_sweep(cache, NAME, manifest=MANIFEST, cells=[cell(1)], answers=[])
    assert stored(cache) == {(1.0, "1"): "A", (1.0, "2"): "A"}


def test_a_writer_that_holds_a_sweep_refuses_a_second_one_and_writes_what_an_error_left(cache: CacheFolder) -> None:
    def writer() -> SweepWriter:
        return SweepWriter(cache=cache, name=NAME, manifest=MANIFEST)

    first = writer()

    def fail() -> None:
        with first.held():
            first.ask_for({cell(1).cell_id: cell(1)})
            first.add([answer(1, 1)])
            with pytest.raises(BusyError, match=f"the sweep s is held by process {os.getpid()}"), writer().held():
                pass
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert stored(cache) == {(1.0, "1"): "A"}
    with writer().held():
        pass


@pytest.mark.parametrize("hurt", ["manifest.json", "answers/00000.parquet", "searches.json", "choices.json"])
def test_a_damaged_file_of_a_sweep_is_named_by_verify(cache: CacheFolder, hurt: str) -> None:
    sweep_id = save_sweep(cache, NAME, manifest=MANIFEST, cells=[cell(1)], answers=[answer(1, 1)])
    assert [f for checked in verify_root(cache) for f in checked.findings] == []
    (cache.paths.sweep(sweep_id) / hurt).write_bytes(b"{")
    (finding,) = [f for checked in verify_root(cache) for f in checked.findings]
    assert finding.place == f"sweeps/{sweep_id}/{hurt}"
