"""One coordinator per run: a lock that the kernel frees when its holder dies."""

import fcntl
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from steercache.core.errors import BusyError
from steercache.store.durable import disk_errors, make_folder


@contextmanager
def hold_lock(path: Path, *, what: str) -> Iterator[None]:
    """Hold an exclusive lock on `path` for the length of the block; the file itself stays.

    Raises:
        BusyError: another process holds it; the message names the process.
        UsageError, BudgetError: the folder cannot be written, or the disk is full.
    """
    make_folder(path.parent)
    with disk_errors(path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(
                f"{what} is held by {_holder(fd)}",
                place=str(path),
                hint="wait for it, or end it; what it committed stays",
            ) from error
        note = {"pid": os.getpid(), "host": socket.gethostname(), "command": " ".join(sys.argv)[:200]}
        with disk_errors(path):
            os.ftruncate(fd, 0)
            os.pwrite(fd, json.dumps(note).encode(), 0)
        yield
    finally:
        os.close(fd)


def _holder(fd: int) -> str:
    try:
        note = json.loads(os.pread(fd, 4096, 0))
        return f"process {note['pid']} on {note['host']} ({note['command']})"
    except (ValueError, KeyError):
        return "another process"
