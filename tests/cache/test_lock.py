"""The lock of a run: one holder of the name, whatever happens to the file; file systems without locks are named."""

import errno
import fcntl
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from steercache.cache.lock import hold_lock
from steercache.core.errors import BusyError, UsageError
from steercache.core.locks import lock_file
from steercache.index.database import Index
from steercache.models.lock import wait_for_lock
from steercache.store import durable

FLOCK = fcntl.flock


def interrupt_first_lock(monkeypatch: pytest.MonkeyPatch, between: Callable[[], None]) -> None:
    """Call `between` once, after the next lock file was opened and before it is locked."""
    waiting = [between]

    def flock(fd: int, how: int) -> None:
        if waiting:
            waiting.pop()()
        FLOCK(fd, how)

    monkeypatch.setattr(fcntl, "flock", flock)


def test_a_lock_file_that_is_replaced_before_it_is_locked_has_one_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run" / "LOCK"
    path.parent.mkdir()
    other: list[int] = []

    def replace() -> None:
        path.unlink()
        other.append(lock_file(path))

    interrupt_first_lock(monkeypatch, replace)
    with pytest.raises(BusyError), hold_lock(path, what="the run"):
        pass
    os.close(other[0])
    with hold_lock(path, what="the run"):
        pass


def test_a_run_that_is_renamed_before_its_lock_is_had_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run" / "LOCK"
    path.parent.mkdir()
    interrupt_first_lock(monkeypatch, lambda: (path.parent.rename(tmp_path / ".trash"), None)[1])
    with hold_lock(path, what="the run"):
        assert path.exists()
        with pytest.raises(BusyError), hold_lock(path, what="the run"):
            pass


def test_who_waits_for_a_lock_that_is_removed_waits_for_the_next_of_its_name(tmp_path: Path) -> None:
    path, order = tmp_path / "LOCK", []
    first = lock_file(path)
    waiting = threading.Thread(target=lambda: order.append(os.close(lock_file(path, wait=True)) or "had it"))
    waiting.start()
    while waiting.is_alive() and not _waits_for_a_lock():
        os.sched_yield()
    path.unlink()
    second = lock_file(path)
    os.close(first)
    waiting.join(0.2)
    assert order == [], "two would hold it"
    order.append("freed")
    os.close(second)
    waiting.join(10)
    assert order == ["freed", "had it"]


def _waits_for_a_lock() -> bool:
    return any(line.split()[1] == "->" and "FLOCK" in line for line in Path("/proc/locks").read_text().splitlines())


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named_with_a_way_out(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(fd: int, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(UsageError, match="no locks") as caught, hold_lock(tmp_path / "run" / "LOCK", what="the run"):
        pass
    assert "NFS" in str(caught.value.hint)
    with pytest.raises(UsageError, match="no locks"), Index(tmp_path / "index.duckdb", wait_s=0.1).write():
        pass
    with pytest.raises(UsageError, match="no locks"), wait_for_lock(tmp_path / "models" / "x.lock"):
        pass
    durable.write_file_atomically(tmp_path / "labels", b"whole")
    assert (tmp_path / "labels").read_bytes() == b"whole"
