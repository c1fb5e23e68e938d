"""Files under construction: named uniquely among processes, threads, containers and machines, and locked by their writers.

What has such a name and no lock was left by a writer that died. A process id would not do: containers that share a disk count
theirs alike, and threads have one between them.
"""

import os
import re
import secrets
import socket
from pathlib import Path

from steercache.core.locks import NoLocksError, is_named, lock_descriptor

# `.tmp-<process id>` was written up to November 2026, without a lock; such files may still lie about.
_UNFINISHED = re.compile(r"\.tmp-(?:\d+|[A-Za-z0-9]{1,24}-[0-9a-f]{16})$")
_lock_of: dict[Path, int] = {}  # descriptors that hold the locks of this process's unfinished files, by their names


def unfinished_name(path: Path) -> Path:
    """A unique name beside `path`, for its content until it is complete.

    >>> is_unfinished(unfinished_name(Path("c.0")).name), unfinished_name(Path("a")) == unfinished_name(Path("a"))
    (True, False)
    """
    host = re.sub(r"[^A-Za-z0-9]", "", socket.gethostname())[:24] or "host"
    return path.with_name(f"{path.name}.tmp-{host}-{secrets.token_hex(8)}")


def is_unfinished(name: str) -> bool:
    """Whether a file's name says that it is, or was, under construction.

    >>> is_unfinished("c.0.tmp-812"), is_unfinished("c.0.tmp-node1-0123456789abcdef"), is_unfinished("c.0.3.0")
    (True, True, False)
    """
    return _UNFINISHED.search(name) is not None


def create_unfinished(path: Path) -> tuple[Path, int]:
    """A new, empty file that will become `path`: its name until then, and a descriptor for reading and writing.

    It is locked until `release` is called with that name; closing the descriptor does not free the lock.
    """
    while True:
        name = unfinished_name(path)
        try:
            fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileExistsError:  # as likely as two equal numbers of 64 random bits
            continue
        try:
            if _lock(name, fd):
                return name, fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # taken for abandoned between its creation and its lock


def release(name: Path) -> None:
    """Free the lock of an unfinished file that was renamed or removed; does nothing for other files."""
    fd = _lock_of.pop(name, None)
    if fd is not None:
        os.close(fd)


def is_abandoned(path: Path) -> bool:
    """Whether a file is unfinished and its writer is gone."""
    fd = take_abandoned(path)
    if fd is not None:
        os.close(fd)
    return fd is not None


def take_abandoned(path: Path) -> int | None:
    """A descriptor that holds the lock of an abandoned file, under which it can be removed; None for any other file."""
    if not is_unfinished(path.name):
        return None
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:  # gone, or not ours
        return None
    try:
        lock_descriptor(fd, path)
    except (OSError, NoLocksError):  # held; or nobody can tell, so that it is kept
        os.close(fd)
        return None
    return fd


def _lock(name: Path, fd: int) -> bool:
    """Lock a file just made; False when it has lost its name, or somebody else holds it to remove it."""
    try:
        lock_descriptor(fd, name)
    except BlockingIOError:
        return False
    except NoLocksError:
        return True  # where there are no locks nothing is ever taken for abandoned
    if not is_named(fd, name):
        return False
    _lock_of[name] = os.dup(fd)
    return True
