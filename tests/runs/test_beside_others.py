"""A build beside others on the same root: a second build of the same run, and a notebook that was left open."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import steercache
from steercache.cache.compact import compact_run
from steercache.cache.handle import open_cache
from steercache.cache.remove import collect
from steercache.core.errors import BusyError, NotFoundError
from steercache.core.layout import CodecName
from tests.cache.contents import files_of, tables_of
from tests.tracing import write_small_trace


def test_a_second_process_is_refused_the_run_and_the_first_goes_on(tmp_path: Path) -> None:
    trace, root = write_small_trace(tmp_path / "t", n=60), tmp_path / "root"
    first = os.fork()
    if first == 0:
        trace.build(root)
        os._exit(0)
    while not (held := [p for p in root.glob("runs/*/LOCK") if p.stat().st_size]):
        time.sleep(0.001)
    os.kill(first, signal.SIGSTOP)
    assert not list(root.glob("runs/*/shards/*/00003.json")), "stopped in the middle"
    with pytest.raises(BusyError, match=rf"'small' is held by process {first} ") as refused:
        trace.build(root)
    assert refused.value.place == str(held[0])
    os.kill(first, signal.SIGCONT)
    assert os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]) == 0
    trace.build(tmp_path / "alone")
    assert files_of(root) == files_of(tmp_path / "alone")
    assert tables_of(root) == tables_of(tmp_path / "alone")


NOTEBOOK = """
import sys
import steercache

session = steercache.open(sys.argv[1])
relation = session.sql("select run_id, row_idx, piece from tokens order by all")
PICK = "select run_id, row_idx, is_anchor as label from tokens where run_id = $run and (is_anchor or is_control)"
selection = session.select(PICK, run="first")
views = selection.source.layer_views("resid_post", 1)
first, rows = views[0][0], views[0][1]
before, n_tokens = rows.tobytes(), len(relation.fetchall())
print("open", flush=True)
sys.stdin.readline()
assert rows.tobytes() == before, "what was mapped stays"
assert len(relation.fetchall()) == n_tokens
again = session.select(PICK, run="first")
assert again.rows.tolist() == selection.rows.tolist()
assert again.gather(2).tobytes() == selection.gather(2).tobytes()
assert steercache.fit.mean_shift(again).values.tobytes() == steercache.fit.mean_shift(selection).values.tobytes()
print(session.sql("select count(*) from runs where complete").fetchall()[0][0], again.source.generation, flush=True)
"""


@pytest.mark.parametrize("codec", [pytest.param(None, marks=pytest.mark.slow), "blosc"])
def test_a_notebook_left_open_stops_no_build_and_reads_on(codec: CodecName | None, tmp_path: Path) -> None:
    root = tmp_path / "root"
    write_small_trace(tmp_path / "first", n=30, name="first").build(root)
    command = [sys.executable, "-c", NOTEBOOK, str(root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as notebook:
        assert said_by(notebook) == "open"
        built = write_small_trace(tmp_path / "second", n=20, name="second").build(root)
        assert built.index_held_by is None, "an open notebook holds nothing"
        if codec is not None:
            compact_and_collect(root, codec=codec)
        assert notebook.stdin is not None
        notebook.stdin.write("go on\n")
        notebook.stdin.flush()
        assert said_by(notebook) == ("2 g0001" if codec is None else "2 g0002")
    assert notebook.returncode == 0


def said_by(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def compact_and_collect(root: Path, *, codec: CodecName) -> None:
    cache = open_cache(root)
    compact_run(cache, cache.resolve_run("first"), codec=codec)
    assert any(item.path.name == "g0001" for item in collect(cache))


def test_rows_selected_before_they_were_compacted_with_a_loss_are_not_exchanged_in_silence(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write_small_trace(tmp_path / "first", n=30, name="first").build(root)
    selection = steercache.open(root).select("all_rows", run="first")
    before = selection.gather(1)
    compact_and_collect(root, codec="int8")
    with pytest.raises(NotFoundError, match=r"g0001 .* was collected; g0002 is lossy") as refused:
        selection.gather(1)
    assert "select again" in str(refused.value)
    again = steercache.open(root).select("all_rows", run="first")
    assert again.source.lossy
    assert not np.array_equal(again.gather(1), before)
