"""A lock file that processes wait for, so that one of them makes a folder and the others find it made."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def wait_for_lock(path: Path) -> Iterator[None]:
    """Hold a lock file for the length of the block, after waiting for it; the kernel lets go of it when its holder dies.

    The file is gone afterwards, for it may stand beside a folder of the user's.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = _locked(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: who waits for it sees that it is gone and asks for a new one
        os.close(fd)


def _locked(path: Path) -> int:
    """A descriptor of the file that has the name `path` once it is locked; its holder may have removed it meanwhile."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if _is_named(fd, path):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _is_named(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False
