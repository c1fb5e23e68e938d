"""Several hands on one file: other processes, other threads, and this very thread."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest

from steercache.core.errors import BudgetError, BusyError, DamagedError, NotFoundError, UsageError
from steercache.index.attach import logs_of
from steercache.index.database import Index, file_error
from steercache.index.files import over_files, rebuild
from steercache.index.ingest import put_vector
from tests.index.contents import put_part
from tests.index.small import Sentence, run_row, vector_row, write_run

HOLD = """
import duckdb, sys
con = duckdb.connect(sys.argv[1], read_only=sys.argv[2] == "r")
con.execute("SELECT 1 FROM duckdb_tables()").fetchall()
print("held", flush=True)
sys.stdin.readline()
con.close()
print("released", flush=True)
sys.stdin.readline()
"""
WRITE_UNTIL_TOLD = """
import sys
from pathlib import Path
from steercache.index.database import Index
from steercache.index.ingest import put_vector
sys.path.insert(0, sys.argv[2])
from tests.index.small import vector_row
print("begun", flush=True)
for i in range(12):
    with Index(Path(sys.argv[1])).write() as con:
        put_vector(con, vector_row(f"other-{i}", 0))
"""


@pytest.fixture
def index(tmp_path: Path) -> Index:
    index = Index(tmp_path / "index.duckdb", wait_s=0.3)
    with index.write() as con:
        put_vector(con, vector_row("v", 0))
    return index


@contextmanager
def held(path: Path, mode: str) -> Iterator[subprocess.Popen[str]]:
    """A person's own `duckdb` on the file, in another process."""
    command = [sys.executable, "-c", HOLD, str(path), mode]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def say(process: subprocess.Popen[str]) -> None:
    """Let the holder take its next step."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def vector_ids(index: Index) -> list[str]:
    with index.read() as con:
        return sorted(row[0] for row in con.execute("SELECT vector_id FROM vectors").fetchall())


def test_a_writer_shut_out_by_a_reader_names_its_process_and_command(index: Index) -> None:
    with held(index.path, "r") as process:
        with pytest.raises(BusyError) as caught, index.write():
            pass
        assert f"process {process.pid} " in caught.value.message
        assert "duckdb.connect(sys.argv[1]" in caught.value.message
        assert vector_ids(index) == ["v"]  # readers do not mind each other


def test_a_reader_shut_out_by_a_writer_names_it_and_goes_on_when_it_is_gone(index: Index) -> None:
    with held(index.path, "w") as process:
        with pytest.raises(BusyError, match=f"process {process.pid} "), index.read():
            pass
        say(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "released\n"
        assert vector_ids(index) == ["v"]


def test_whoever_waits_long_enough_gets_in(index: Index) -> None:
    patient = Index(index.path, wait_s=20.0)
    with held(index.path, "w") as process:
        threading.Timer(0.4, say, args=[process]).start()
        begun = time.monotonic()
        assert vector_ids(patient) == ["v"]
        assert time.monotonic() - begun > 0.3


def test_two_processes_writing_at_once_lose_nothing(index: Index) -> None:
    patient = Index(index.path, wait_s=60.0)
    repository = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", WRITE_UNTIL_TOLD, str(index.path), repository]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=repository) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        for i in range(12):
            with patient.write() as con:
                put_vector(con, vector_row(f"mine-{i}", 0))
            vector_ids(patient)
        assert process.wait(timeout=60) == 0
    expected = [f"{who}-{i}" for who in ("mine", "other") for i in range(12)]
    assert vector_ids(index) == sorted([*expected, "v"])


def test_threads_of_one_process_take_turns(index: Index) -> None:
    patient = Index(index.path, wait_s=60.0)

    def work(number: int) -> list[str]:
        with patient.write() as con:
            put_vector(con, vector_row(f"t{number}", 0))
        return vector_ids(patient)

    with ThreadPoolExecutor(8) as threads:
        assert all(f"t{n}" in seen for n, seen in enumerate(threads.map(work, range(8))))
    assert vector_ids(index) == sorted([f"t{n}" for n in range(8)] + ["v"])


def test_another_thread_that_keeps_the_index_is_named(index: Index) -> None:
    entered, leave = threading.Event(), threading.Event()

    def keep() -> None:
        with index.read():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=keep)
    thread.start()
    entered.wait(10)
    with pytest.raises(BusyError, match="another thread"), index.write():
        pass
    leave.set()
    thread.join()
    assert vector_ids(index) == ["v"]


def test_opening_inside_an_open_block_of_the_same_thread_is_our_bug_and_says_so(index: Index) -> None:
    with index.read(), pytest.raises(RuntimeError, match="already open in this thread"), index.write():
        pass
    assert vector_ids(index) == ["v"]


def test_a_connection_of_this_process_made_by_hand_is_named(index: Index) -> None:
    con = duckdb.connect(str(index.path))
    with pytest.raises(BusyError, match="this process"), index.write():
        pass
    con.close()
    assert vector_ids(index) == ["v"]


def test_a_reader_leaves_the_file_to_others_at_once(index: Index) -> None:
    with index.read() as con:
        con.execute("SELECT * FROM vectors").fetchall()
    with held(index.path, "w"):
        pass


FORK = """
import os, sys, threading
from pathlib import Path
from steercache.index.gate import gate_of
path, entered, leave = Path(sys.argv[1]), threading.Event(), threading.Event()
def keep():
    with gate_of(path).hold(path, 1):
        entered.set()
        leave.wait(30)
thread = threading.Thread(target=keep)
thread.start()
entered.wait()
child = os.fork()
if child == 0:
    with gate_of(path).hold(path, 1):
        os._exit(7)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
leave.set()
thread.join()
sys.exit(code)
"""


def test_a_child_forked_while_a_thread_holds_the_gate_is_not_locked_out(index: Index) -> None:
    assert subprocess.run([sys.executable, "-c", FORK, str(index.path)], check=False).returncode == 7


@pytest.mark.parametrize("folder", ["md:x", "it's", "a[1]*", "ü b", "s3:"])
def test_a_folder_of_any_name_holds_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    monkeypatch.chdir(tmp_path)
    index = Index(Path(folder) / "index.duckdb")
    run = write_run(Path(folder), run_row("a" * 64, "run"), [[Sentence(text="two words", labels={"concept": "c"})]])
    with index.write() as con:
        put_part(con, run, run.shards[0], run.tokens[0], run.samples[0])
    with index.read() as con:
        assert con.execute("SELECT text, concept FROM samples").fetchall() == [("two words", "c")]
    con = over_files([run], [], [])
    assert con.execute("SELECT count(*) FROM tokens JOIN samples USING (run_id, sample_idx)").fetchall() == [(2,)]
    con.close()
    assert (tmp_path / folder / "index.duckdb").exists()


def test_a_question_mark_in_a_folders_name_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="in its path"), Index(tmp_path / "what?" / "index.duckdb").write():
        pass
    assert not (tmp_path / "what?").exists()


def test_a_missing_index_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="steercache cache rebuild"), Index(tmp_path / "index.duckdb").read():
        pass


@pytest.mark.parametrize("content", [b"", b"garbage" * 1000, "half"])
def test_a_damaged_index_is_named_and_rebuild_mends_it(index: Index, content: bytes | str) -> None:
    whole = index.path.read_bytes()
    index.path.write_bytes(whole[: len(whole) // 2] if isinstance(content, str) else content)
    with pytest.raises(DamagedError, match="steercache cache rebuild"), index.read() as con:
        con.execute("SELECT * FROM vectors").fetchall()
    rebuild(index.path, [], [vector_row("again", 0)], [])
    assert vector_ids(index) == ["again"]


def test_damage_in_a_folder_named_lock_is_damage_and_nobodys_lock(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    (tmp_path / "lock" / "index.duckdb").write_bytes(b"garbage" * 1000)
    with (
        pytest.raises(DamagedError, match="steercache cache rebuild"),
        Index(tmp_path / "lock" / "index.duckdb").read(),
    ):
        pass


def test_a_log_of_another_file_beside_the_index_is_damage_that_rebuild_mends(index: Index, tmp_path: Path) -> None:
    crash = "import duckdb, os, sys; c = duckdb.connect(sys.argv[1]); c.execute('create table t (a int)'); os._exit(0)"
    subprocess.run([sys.executable, "-c", crash, str(tmp_path / "b.duckdb")], check=True)
    logs_of(tmp_path / "b.duckdb")[0].rename(logs_of(index.path)[0])
    with pytest.raises(DamagedError, match="steercache cache rebuild"), index.read():
        pass
    rebuild(index.path, [], [vector_row("again", 0)], [])
    assert vector_ids(index) == ["again"]


def test_a_process_killed_in_a_transaction_leaves_the_index_without_it(index: Index) -> None:
    crash = (
        "import os, sys; from pathlib import Path; from steercache.index.database import Index\n"
        "with Index(Path(sys.argv[1])).write() as con:\n"
        "    con.execute('DELETE FROM vectors')\n"
        "    os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", crash, str(index.path)], check=False).returncode == 9
    assert vector_ids(index) == ["v"]


def test_a_rebuild_beside_somebody_who_holds_the_index_is_refused_and_leaves_it(index: Index) -> None:
    with held(index.path, "w") as process, pytest.raises(BusyError, match=f"process {process.pid} "):
        rebuild(index.path, [], [vector_row("again", 0)], [], wait_s=0.3)
    assert vector_ids(index) == ["v"]


def test_what_an_earlier_rebuild_left_half_written_is_no_hindrance(index: Index) -> None:
    index.path.with_name("index.duckdb.new").write_bytes(b"half")
    rebuild(index.path, [], [vector_row("again", 0)], [])
    assert vector_ids(index) == ["again"]
    assert sorted(p.name for p in index.path.parent.iterdir()) == ["index.duckdb", "index.duckdb.lock"]


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UsageError, match="cannot be written"), Index(tmp_path / "file" / "index.duckdb").write():
        pass


def test_a_full_disk_is_told_apart_from_damage(tmp_path: Path) -> None:
    error = file_error(duckdb.IOException("IO Error: Could not write file: No space left on device"), tmp_path)
    assert isinstance(error, BudgetError)
