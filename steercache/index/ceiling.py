"""A ceiling on this process's memory while a query runs, for what DuckDB's own limit does not count: long strings and lists.

Linux only (`RLIMIT_DATA` does not count memory-mapped files there); elsewhere DuckDB's limit stands alone.
"""

import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_HEADROOM = 2**30
_STATUS = Path("/proc/self/status")


class _Ceilings:
    """Queries that run at once share one limit: the highest asked for, lifted when the last of them ends."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.running = 0
        self.before = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)

    def enter(self, n_bytes: int) -> None:
        with self.lock:
            soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
            if self.running == 0:
                self.before = (soft, hard)
            wanted = _data_bytes() + n_bytes + _HEADROOM
            others = soft if self.running else 0
            highest = [limit for limit in (self.before[0], hard) if limit != resource.RLIM_INFINITY]
            resource.setrlimit(resource.RLIMIT_DATA, (min([max(wanted, others), *highest]), hard))
            self.running += 1

    def leave(self) -> None:
        with self.lock:
            self.running -= 1
            if self.running == 0:
                resource.setrlimit(resource.RLIMIT_DATA, self.before)


_CEILINGS = _Ceilings()


@contextmanager
def memory_ceiling(n_bytes: int) -> Iterator[None]:
    """Let this process grow by `n_bytes` (and some headroom) within the block; past it an allocation fails."""
    if not sys.platform.startswith("linux"):
        yield
        return
    _CEILINGS.enter(n_bytes)
    try:
        yield
    finally:
        _CEILINGS.leave()


def _data_bytes() -> int:
    """Private writable memory of this process, as RLIMIT_DATA counts it."""
    for line in _STATUS.read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return 0
