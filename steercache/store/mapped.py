"""Committed files as memory, after comparing their sizes: to touch a map beyond a file's end kills the process (SIGBUS)."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from steercache.core.errors import DamagedError
from steercache.store.addresses import map_bytes
from steercache.store.durable import disk_errors

Bytes = npt.NDArray[np.uint8]

VERIFY = "steercache cache verify"


@contextmanager
def opened(path: Path, n_bytes: int) -> Iterator[int]:
    """A descriptor of the committed file at `path`, which has `n_bytes` bytes.

    Raises:
        DamagedError: the file is missing or of another size. UsageError: it may not be read. BudgetError: too many are open.
    """
    try:
        with disk_errors(path, doing="read"):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DamagedError("the file of a committed shard is missing", place=str(path), hint=VERIFY) from error
    try:
        size = os.fstat(fd).st_size
        if size != n_bytes:
            raise DamagedError(f"{size} bytes, but {n_bytes} were committed", place=str(path), hint=VERIFY)
        with disk_errors(path, doing="map"):
            yield fd
    finally:
        os.close(fd)


def map_descriptor(fd: int, n_bytes: int) -> Bytes:
    """The bytes of an opened file, read-only, without reading them; the map lives as long as an array over it."""
    if not n_bytes:  # nothing to map
        return np.empty(0, dtype=np.uint8)
    return map_bytes(fd, n_bytes)


def map_file(path: Path, n_bytes: int) -> Bytes:
    """The bytes of the committed file at `path`.

    Raises:
        DamagedError: the file is missing or of another size.
    """
    with opened(path, n_bytes) as fd:
        return map_descriptor(fd, n_bytes)
