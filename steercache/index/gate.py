"""Who may touch an index file: one thread of this process at a time, and one writing process of ours at a time.

DuckDB guards its file by a POSIX record lock, and those belong to the process: closing ANY handle on the file drops the
lock under every other handle of the process. So a process holds one connection to an index at a time, by this gate, and
never opens the file in another way.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from steercache.core.errors import BusyError, UsageError
from steercache.core.locks import lock_file

T = TypeVar("T")
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.002, 0.2


class Gate:
    """A lock with a deadline that notices when a thread would wait for itself."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner: int | None = None

    @contextmanager
    def hold(self, path: Path, wait_s: float) -> Iterator[None]:
        """Hold the file within this process.

        Raises:
            BusyError: another thread kept it for longer than `wait_s`.
        """
        me = threading.get_ident()
        if self._owner == me:
            raise RuntimeError(f"{path} is already open in this thread: finish that block first")
        if not self._lock.acquire(timeout=max(wait_s, 0.0)):
            raise BusyError(
                f"another thread of this process has used the index for more than {wait_s:g} s",
                place=str(path),
                hint="read that query's result to its end, or close it",
            )
        self._owner = me
        try:
            yield
        finally:
            self._owner = None
            self._lock.release()


_GATES: dict[Path, Gate] = {}
_REGISTRY = threading.Lock()


def gate_of(path: Path) -> Gate:
    """The one gate of this process for `path`."""
    with _REGISTRY:
        return _GATES.setdefault(path.resolve(), Gate())


def _forget_gates() -> None:
    """A forked child holds none of its parent's connections; its copy of a held lock would never open."""
    global _REGISTRY
    _REGISTRY = threading.Lock()
    _GATES.clear()


os.register_at_fork(after_in_child=_forget_gates)


def retry(attempt: Callable[[], T], *, wait_s: float, again: Callable[[Exception], bool]) -> T:
    """Call `attempt` until it works, with growing pauses, while `again` says that its error may pass and time is left."""
    deadline, pause_s = time.monotonic() + wait_s, FIRST_PAUSE_S
    while True:
        try:
            return attempt()
        except Exception as error:
            if not again(error) or time.monotonic() + pause_s > deadline:
                raise
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, LONGEST_PAUSE_S)


@contextmanager
def writers_lock(index: Path, wait_s: float) -> Iterator[None]:
    """Keep other writing processes of ours out, a rebuild included; the kernel frees it when this process dies.

    Raises:
        BusyError: another process holds it; names it.
        UsageError: the folder cannot be written to.
    """
    path = index.with_name(index.name + ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = retry(lambda: lock_file(path), wait_s=wait_s, again=lambda e: isinstance(e, BlockingIOError))
    except BlockingIOError as error:
        raise BusyError(
            f"the index is being written by {describe_process(_noted(path))}",
            place=str(index),
            hint="wait for it to end",
        ) from error
    except OSError as error:
        raise UsageError(
            f"the index cannot be written: {error.strerror}",
            place=str(index),
            hint="keep the cache in a writable folder",
        ) from error
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(fd)


def _noted(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def describe_process(pid: str) -> str:
    """ "process 4711 (duckdb index.duckdb)": a process by its number and command line, as far as they can be read."""
    if not pid.isdigit():
        return "another process"
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return f"process {pid}"
    line = " ".join(w.decode(errors="replace") for w in words if w)
    return f"process {pid} ({line if len(line) <= 120 else line[:117] + '...'})" if line else f"process {pid}"
