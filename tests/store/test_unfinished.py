"""Files under construction: writers that share a process id, or a process, do not meet; what a dead one left is taken away."""

import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from steercache.core.unfinished import create_unfinished, is_abandoned, is_unfinished, release
from steercache.store import durable

WRITERS, N_WRITES = 4, 60


def content_of(writer: int) -> bytes:
    return str(writer).encode() * 5000


WHOLE = {content_of(writer) for writer in range(WRITERS)}


def hammer(path: Path, writer: int) -> None:
    for _ in range(N_WRITES):
        durable.write_file_atomically(path, content_of(writer))


def test_threads_that_write_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "labels.parquet"
    seen, done = set(), threading.Event()

    def read() -> None:
        while not done.is_set():
            if path.exists():
                seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    with ThreadPoolExecutor(WRITERS) as threads:
        results = [threads.submit(hammer, path, writer) for writer in range(WRITERS)]
    done.set()
    reader.join()
    assert [result.exception() for result in results] == [None] * WRITERS
    assert seen <= WHOLE
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


HAMMER = """
import os, sys
from pathlib import Path
from tests.store.test_unfinished import hammer
print(os.getpid(), flush=True)
sys.stdin.readline()
hammer(Path(sys.argv[1]), int(sys.argv[2]))
"""


def test_processes_of_equal_number_that_write_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    """As in two containers that share a disk: each counts its processes from 1."""
    own_numbers = ["unshare", "--pid", "--fork"]
    if shutil.which("unshare") is None or subprocess.run([*own_numbers, "true"], capture_output=True).returncode:
        pytest.skip("processes cannot be numbered anew here (threads are tested anyway)")
    path = tmp_path / "labels.parquet"
    command = [*own_numbers, sys.executable, "-c", HAMMER, str(path)]
    repository = Path(__file__).parents[2]
    writers = [
        subprocess.Popen(
            [*command, str(n)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=repository
        )
        for n in range(2)
    ]
    numbers = [writer.stdout.readline() for writer in writers if writer.stdout is not None]
    assert numbers[0] == numbers[1]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write(b"\n")
        writer.stdin.flush()
    seen = set()
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            seen.add(path.read_bytes())
    said = [writer.communicate()[1].decode() for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0], said
    assert seen <= WHOLE
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_file_of_this_very_process_is_not_abandoned_until_it_is_given_up(tmp_path: Path) -> None:
    name, fd = create_unfinished(tmp_path / "c.0")
    assert is_unfinished(name.name)
    assert not is_abandoned(name)
    os.close(fd)
    assert not is_abandoned(name), "written and waiting for its name"
    durable.remove_unfinished(tmp_path / "c.0")
    assert name.exists()
    release(name)
    assert is_abandoned(name)
    durable.remove_unfinished(tmp_path / "c.0")
    assert not name.exists()


@pytest.mark.parametrize(
    "name", ["c.0.tmp-1", f"c.0.tmp-{os.getpid()}", "c.0.tmp-4194305"], ids=["init", "own", "beyond"]
)
def test_what_older_versions_left_is_taken_away_whoever_has_the_number_now(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"half")
    durable.write_file_atomically(tmp_path / "c.0", b"whole")
    assert [p.name for p in tmp_path.iterdir()] == ["c.0"]


def test_a_link_with_such_a_name_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"mine")
    (tmp_path / "c.0.tmp-1").symlink_to(tmp_path / "mine")
    durable.write_file_atomically(tmp_path / "c.0", b"whole")
    assert (tmp_path / "mine").read_bytes() == b"mine"
    assert (tmp_path / "c.0.tmp-1").is_symlink()
