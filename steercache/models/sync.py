"""A folder of files that must be whole on the disk before it gets its name."""

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Wait until a file's bytes, or the names in a folder, are on the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_tree(folder: Path) -> None:
    """Wait until everything in a folder, and the names in it, are on the disk."""
    for base, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync(Path(base) / name)
        sync(Path(base))
