"""The limit of the local copies of blocks: the segments that were used longest ago go first."""

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from steercache.core.errors import UsageError
from steercache.objects.segments import Segments

LEAST_BYTES: Final = 2**20
_KEPT: Final = 0.8  # of the limit, after segments were removed
_UNSEEN: Final = 0.1  # of the limit, written before the segments are counted again


class BlockLimit:
    """Counts what is written into segments, and removes the ones used longest ago before `most_bytes` of disk are used.

    Several processes over one folder each count what they write themselves; what all use is looked at whenever one has written
    a tenth of the limit.
    """

    def __init__(self, segments: Segments, most_bytes: int) -> None:
        if most_bytes < LEAST_BYTES:
            raise UsageError(f"a read cache of {most_bytes:,} bytes", hint=f"at least {LEAST_BYTES:,} bytes")
        self.most_bytes = most_bytes
        self.n_removals = 0  # times that something was removed
        self._segments = segments
        self._unseen: int | None = None  # bytes written since all were counted; None: never
        self._lock = threading.Lock()

    @property
    def at_once(self) -> int:
        """Bytes to bring at once, so that the limit holds meanwhile."""
        return int(self.most_bytes * _UNSEEN)

    def note(self, n_bytes: int) -> None:
        """Note that so many bytes are about to be written."""
        with self._lock:
            due = self._unseen is None or self._unseen + n_bytes > self.most_bytes * _UNSEEN
            self._unseen = n_bytes if due else (self._unseen or 0) + n_bytes
        if due:
            self.keep()

    def keep(self) -> None:
        """Remove segments until four fifths of the limit are left, if more is used."""
        found = []
        for entry in self._segments.files():
            try:
                stat = entry.stat()
            except FileNotFoundError:
                continue
            found.append((stat.st_mtime_ns, stat.st_blocks * 512, entry.path))
        used = sum(n_bytes for _, n_bytes, _ in found)
        if used <= self.most_bytes * _KEPT:
            return
        with _alone(self._segments.folder) as alone:
            if not alone:
                return  # another process does it
            for _, n_bytes, path in sorted(found):
                if used <= self.most_bytes * _KEPT:
                    break
                Path(path).unlink(missing_ok=True)
                used -= n_bytes
        self.n_removals += 1


def used_bytes(folder: Path) -> int:
    """Bytes of disk that segments take."""
    total = 0
    for entry in Segments(folder).files():
        try:
            total += entry.stat().st_blocks * 512
        except FileNotFoundError:
            continue
    return total


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(fd)
