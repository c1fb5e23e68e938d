"""Resumed, repeated and spread over workers: the same bytes; and what a build refuses."""

import contextlib
import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from steercache.cache.handle import open_cache
from steercache.cache.lock import hold_lock
from steercache.core.errors import BudgetError, BusyError, ManifestError, UsageError
from steercache.engines.crew import EngineOptions
from steercache.runs.engine import BuildOptions, build_run
from steercache.runs.job import prepare_trace
from steercache.runs.plan import plan_run
from tests.cache.contents import files_of, tables_of
from tests.engines.pickled import work_in_process
from tests.tracing import SmallTrace, write_small_trace


@pytest.fixture
def trace(tmp_path: Path) -> SmallTrace:
    return write_small_trace(tmp_path / "t", n=60)


def test_workers_write_the_same_bytes_as_one_process(
    trace: SmallTrace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With workers of this process; with those of others in tests/runs/test_workers.py."""
    monkeypatch.setattr("steercache.runs.workers.do_work", work_in_process)
    trace.build(tmp_path / "one")
    trace.build(tmp_path / "many", engine=EngineOptions(workers=2))
    assert files_of(tmp_path / "many") == files_of(tmp_path / "one")
    assert tables_of(tmp_path / "many") == tables_of(tmp_path / "one")


def test_a_root_that_is_moved_works_and_is_the_same(trace: SmallTrace, tmp_path: Path) -> None:
    trace.build(tmp_path / "here")
    before = tables_of(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    assert tables_of(tmp_path / "there") == before
    assert trace.build(tmp_path / "there").n_shards_built == 0


def test_a_second_build_of_a_run_is_refused_and_names_the_first(trace: SmallTrace, tmp_path: Path) -> None:
    root = tmp_path / "root"
    trace.build(root)
    cache = open_cache(root)
    lock = cache.run_paths(cache.resolve_run("small")).lock
    with hold_lock(lock, what="the run"), pytest.raises(BusyError, match=rf"process {os.getpid()} "):
        trace.build(root)


@pytest.mark.slow
def test_two_processes_build_two_runs_into_one_root_side_by_side(trace: SmallTrace, tmp_path: Path) -> None:
    other = write_small_trace(tmp_path / "other", n=50, name="other")
    root = tmp_path / "root"
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=t.build, args=(root,)) for t in (trace, other)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [p.exitcode for p in processes] == [0, 0]
    with open_cache(root).connection() as connection:
        rows = connection.execute(
            "select name, complete, count(*) from runs join tokens using (run_id) group by all"
        ).fetchall()
    assert {name for name, complete, _ in rows if complete} == {"small", "other"}
    assert {name: n for name, _, n in rows}["small"] == sum(len(_texts(trace)[i].split()) for i in range(60))


def test_a_shell_that_holds_the_index_does_not_stop_a_build_and_the_index_catches_up(
    trace: SmallTrace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steercache.cache.commit.TELL_EVERY_S", 0.0)
    monkeypatch.setattr("steercache.cache.commit.TELL_SHARE", 0)
    monkeypatch.setattr("steercache.cache.catch_up.CATCH_UP_WAIT_S", 0.05)
    monkeypatch.setattr("steercache.cache.handle.READER_WAIT_S", 0.1)
    monkeypatch.setattr("steercache.cache.handle.CATCH_UP_WAIT_S", 0.05)
    root = tmp_path / "root"
    write_small_trace(tmp_path / "first", n=10, name="first").build(root)
    hold = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()"
    shell = subprocess.Popen(
        [sys.executable, "-c", hold, str(root / "index.duckdb")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert shell.stdout is not None
    assert shell.stdout.readline() == "held\n"
    notes: list[str] = []
    cache = open_cache(root)
    cache.index.wait_s = 0.05
    prepared = prepare_trace(trace.manifest, cache_root=root, device="cpu")
    plan = plan_run(prepared.job, cache=cache)
    result = build_run(cache, plan, prepared, BuildOptions(on_note=notes.append))
    assert result.index_held_by is not None
    assert str(shell.pid) in result.index_held_by
    assert len(notes) == 1
    assert str(shell.pid) in notes[0]
    seen_while_held = tables_of(root)
    assert len(seen_while_held["runs"]) == 2, "a reader falls back to the files"
    shell.communicate("")
    assert tables_of(root) == seen_while_held
    with cache.index.read() as connection:
        assert connection.execute("select count(*) from runs where complete").fetchall() == [(2,)]


def test_other_numerics_are_refused_on_resume_unless_forced_and_then_recorded(
    trace: SmallTrace, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    trace.build(root)
    cache = open_cache(root)
    run_id = cache.resolve_run("small")
    paths = cache.run_paths(run_id)
    paths.shard("g0001", 2).unlink()
    other = write_small_trace(tmp_path / "t", n=60, numerics={"tokens_per_batch": 32, "threads": 1})
    with pytest.raises(UsageError, match="tokens_per_batch was 64, is 32"):
        other.build(root)
    assert other.build(root, force=True).n_shards_built == 1
    assert open_cache(root).run_document(run_id).numerics["forced_over"]["tokens_per_batch"] == 64


def test_a_budget_refuses_before_anything_is_written(trace: SmallTrace, tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="the budget is 1 kB"):
        trace.build(tmp_path / "root", budget_bytes=1000)
    assert open_cache(tmp_path / "root").documents() == []
    assert not list((tmp_path / "root" / "runs").iterdir()), "nothing of the run is written"


def test_every_sample_that_cannot_be_traced_is_named_whoever_refuses_it(tmp_path: Path) -> None:
    trace = write_small_trace(tmp_path / "t", n=30, max_tokens=14)
    rows = [json.loads(line) for line in (trace.folder / "data.jsonl").read_text().splitlines()]
    rows[1] = {"text": f"the {'cat ' * 14}table", "anchor": "table"}  # cut: its anchor lies beyond the tokens allowed
    rows[3] = {"text": "table cat", "anchor": "table"}  # at the first position, which this data set allows
    for i in (7, 20):  # in no word of the sentence: the data set itself refuses these
        rows[i]["anchor"] = "zebra"
    (trace.folder / "data.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    with pytest.raises(ManifestError) as raised:
        trace.build(tmp_path / "root")
    problems = {(f"{Path(p.file).name}:{p.line}" if p.file else p.loc, p.kind) for p in raised.value.problems}
    assert problems == {
        ("data.jsonl:2", "too_long"),
        ("data.jsonl:8", "anchor_missing"),
        ("data.jsonl:21", "anchor_missing"),
    }
    assert "2 problems in this data set; 1 of 7 samples that could be read" in str(raised.value)
    assert raised.value.hint
    assert not list((tmp_path / "root").rglob("*.parquet"))


def test_the_data_changing_between_plan_and_trace_is_noticed(trace: SmallTrace, tmp_path: Path) -> None:
    cache = open_cache(tmp_path / "root", create=True)
    prepared = prepare_trace(trace.manifest, cache_root=tmp_path / "root", device="cpu")
    plan = plan_run(prepared.job, cache=cache)
    write_small_trace(tmp_path / "t", n=60, texts=[f"{t} box" for t in _texts(trace)])
    with pytest.raises(Exception, match="the data changed while it was traced"):
        build_run(cache, plan, prepared)
    assert not list((tmp_path / "root").rglob("*.tmp-*")), "nothing half-written stays"


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced_and_the_build_goes_on(trace: SmallTrace, tmp_path: Path) -> None:
    root = tmp_path / "root"
    code = f"""
import sys
from pathlib import Path
from steercache.engines.crew import EngineOptions
from tests.tracing import SmallTrace
if __name__ == "__main__":
    SmallTrace(folder=Path({str(trace.folder)!r})).build(Path({str(root)!r}), engine=EngineOptions(workers=2))
"""
    (tmp_path / "go.py").write_text(code)
    env = {**os.environ, "PYTHONPATH": os.getcwd()}
    process = subprocess.Popen([sys.executable, str(tmp_path / "go.py")], env=env, stderr=subprocess.PIPE, text=True)
    child = _first_worker(process.pid)
    os.kill(child, 9)
    _, said = process.communicate()
    assert process.returncode == 0, said
    trace.build(tmp_path / "plain")
    assert files_of(root) == files_of(tmp_path / "plain")


def _first_worker(pid: int) -> int:
    """The first process below `pid` that multiprocessing has spawned to work."""
    while True:
        for child in psutil.Process(pid).children():
            with contextlib.suppress(psutil.Error):  # it may have ended by now
                if any("spawn_main" in word for word in child.cmdline()):
                    return child.pid
        time.sleep(0.02)


def _texts(trace: SmallTrace) -> list[str]:
    return [json.loads(line)["text"] for line in (trace.folder / "data.jsonl").read_text().splitlines()]
