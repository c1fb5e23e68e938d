"""Folders for what is on its way to an object store: of one process each, and removed by the next one where it was killed."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from steercache.core.locks import NoLocksError, lock_file
from steercache.store.durable import disk_errors

VARIABLE: Final = "STEERCACHE_SCRATCH"
_PREFIX: Final = "steercache-scratch-"
_LOCK: Final = "LOCK"


def scratch_parent() -> Path:
    """`STEERCACHE_SCRATCH`, or the system's folder for temporary files."""
    return Path(os.environ.get(VARIABLE) or tempfile.gettempdir())


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """An empty folder of this process, removed at the end of the block. Raises UsageError, BudgetError."""
    parent = scratch_parent()
    with disk_errors(parent):
        parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned_scratch(parent)
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        lock = lock_file(folder / _LOCK)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def remove_abandoned_scratch(parent: Path) -> None:
    """Remove what killed processes left; a folder whose process lives is locked."""
    for folder in parent.glob(f"{_PREFIX}*"):
        if not (folder / _LOCK).exists():
            continue  # being made this moment
        with suppress(OSError, NoLocksError):
            lock = lock_file(folder / _LOCK)
            try:
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
