"""One coordinator per run: a lock that the kernel frees when its holder dies."""

import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from steercache.core.errors import BusyError
from steercache.core.locks import lock_file
from steercache.store.durable import disk_errors, make_folder


@contextmanager
def hold_lock(path: Path, *, what: str) -> Iterator[None]:
    """Hold an exclusive lock on `path` for the length of the block; the file itself stays.

    Raises:
        BusyError: another process holds it; the message names the process.
        UsageError, BudgetError: the folder cannot be written, its file system has no locks, or the disk is full.
    """
    fd = _locked(path, what)
    try:
        note = {"pid": os.getpid(), "host": socket.gethostname(), "command": " ".join(sys.argv)[:200]}
        with disk_errors(path):
            os.ftruncate(fd, 0)
            os.pwrite(fd, json.dumps(note).encode(), 0)
        yield
    finally:
        os.close(fd)


def _locked(path: Path, what: str) -> int:
    """A descriptor that holds the lock; the folder may be renamed or removed meanwhile, and is then made again."""
    while True:
        make_folder(path.parent)
        try:
            with disk_errors(path):
                return lock_file(path)
        except FileNotFoundError:
            continue
        except BlockingIOError as error:
            raise BusyError(
                f"{what} is held by {_holder(path)}",
                place=str(path),
                hint="wait for it, or end it; what it committed stays",
            ) from error


def _holder(path: Path) -> str:
    try:
        note = json.loads(path.read_bytes()[:4096])
        return f"process {note['pid']} on {note['host']} ({note['command']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
