"""Lock files: the holder of the lock has the file of that name open; the kernel frees it when the holder dies.

The locks are those of `flock`. They reach as far as the file system carries them:

- a local disk: all processes of the machine, containers that share the folder included;
- NFS: all machines, from version 4 on, or in version 3 with its lock daemon running; mounted with `nolock` or `local_lock`
  only the processes of one machine, and nothing here can notice that;
- Lustre: all machines with the mount option `flock`; with `localflock` only those of one machine; without either the kernel
  refuses, which is an error here.
"""

import errno
import fcntl
import os
from pathlib import Path

from steercache.core.errors import UsageError

_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP})


class NoLocksError(UsageError):
    """The file system of a folder has no locks."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(
            f"the file system of this folder has no locks ({error.strerror})",
            place=str(path),
            hint="a folder on a local disk; or mount it with locks: NFS of version 4 (or 3 with lockd), Lustre with `flock`",
        )


def lock_file(path: Path, *, wait: bool = False) -> int:
    """A descriptor that holds an exclusive lock on the file named `path`, made if it is missing; closing it frees the lock.

    A file can lose its name between being opened and being locked (its holder removed it, or its folder was renamed): the
    lock on it would exclude nobody. So the name is compared afterwards, and the next file of the name taken instead.

    Raises:
        BlockingIOError: somebody holds it, and `wait` is false.
        NoLocksError: the file system has no locks.
        OSError: the file cannot be made.
    """
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            lock_descriptor(fd, path, wait=wait)
            if is_named(fd, path):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def lock_descriptor(fd: int, path: Path, *, wait: bool = False) -> None:
    """Lock an open file exclusively. Raises BlockingIOError and NoLocksError as `lock_file` does."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            raise NoLocksError(path, error) from error
        raise


def is_named(fd: int, path: Path) -> bool:
    """Whether the open file still has the name `path`."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False
