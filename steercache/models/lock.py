"""A lock file that processes wait for, so that one of them makes a folder and the others find it made."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from steercache.core.locks import lock_file


@contextmanager
def wait_for_lock(path: Path) -> Iterator[None]:
    """Hold a lock file for the length of the block, after waiting for it; the kernel lets go of it when its holder dies.

    The file is gone afterwards, for it may stand beside a folder of the user's.

    Raises:
        NoLocksError: the file system has no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = lock_file(path, wait=True)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: who waits for it sees that it is gone and asks for a new one
        os.close(fd)
