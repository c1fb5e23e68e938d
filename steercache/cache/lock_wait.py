"""Waiting for a lock that is held for the length of one write."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from steercache.cache.lock import hold_lock
from steercache.core.errors import BusyError
from steercache.index.gate import retry

WAIT_S: Final = 60.0


@contextmanager
def wait_for_lock(path: Path, *, what: str, wait_s: float = WAIT_S) -> Iterator[None]:
    """Hold the lock on `path` inside the block, after waiting for its holder.

    Raises:
        BusyError: it was held for longer than `wait_s`; the message names the process. Others as `hold_lock`.
    """
    with ExitStack() as stack:
        retry(
            lambda: stack.enter_context(hold_lock(path, what=what)),
            wait_s=wait_s,
            again=lambda error: isinstance(error, BusyError),
        )
        yield


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Hold a folder, which is there, for the length of one short write; leaves no file.

    For files that are only measured again if two processes write at once: some file systems cannot lock a folder, and then
    without waiting.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
