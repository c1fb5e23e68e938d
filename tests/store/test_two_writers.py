"""Two processes that write one file at once: each finishes, and the file is always one of the two contents."""

import multiprocessing
import os
import signal
from pathlib import Path

from steercache.core.unfinished import is_unfinished
from steercache.store import durable

N_WRITES = 300


def content_of(letter: str) -> bytes:
    return letter.encode() * 5000


def hammer(path: Path, letter: str) -> None:
    for _ in range(N_WRITES):
        durable.write_file_atomically(path, content_of(letter))


def test_two_processes_that_write_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "labels.parquet"
    durable.write_file_atomically(path, content_of("a"))
    processes = multiprocessing.get_context("spawn")
    writers = [processes.Process(target=hammer, args=(path, letter)) for letter in "ab"]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        seen.add(path.read_bytes())
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert seen == {content_of("a"), content_of("b")}
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_the_file_of_a_living_writer_is_kept_and_that_of_a_killed_one_removed(tmp_path: Path) -> None:
    path = tmp_path / "labels.parquet"
    pid = os.fork()
    if pid == 0:
        durable.write_temporary(path, b"half")
        signal.alarm(60)  # so that it does not outlive a test that fails
        signal.pause()
    while not (found := [p for p in tmp_path.iterdir() if is_unfinished(p.name) and p.stat().st_size]):
        os.sched_yield()
    (temporary,) = found
    durable.write_file_atomically(path, b"whole")
    assert temporary.exists()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    durable.write_file_atomically(path, b"whole again")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
