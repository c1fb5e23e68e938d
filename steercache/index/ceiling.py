"""Ceilings on a process that does nothing but run one query: its memory, for what DuckDB's own limit does not count, and files.

They act on the whole process and cannot be lifted: for a child made for the query, never for a caller's process. Linux only
(`RLIMIT_DATA` does not count memory-mapped files there); elsewhere DuckDB's limit on memory stands alone.
"""

import resource
import sys
from pathlib import Path

_HEADROOM = 2**30
_STATUS = Path("/proc/self/status")


def limit_own_memory(n_bytes: int) -> None:
    """Let this process grow by `n_bytes` and some headroom; past it an allocation fails."""
    if not sys.platform.startswith("linux"):
        return
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = _data_bytes() + n_bytes + _HEADROOM
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def limit_own_files(n_bytes: int) -> None:
    """Let no file that this process writes grow past `n_bytes`; past it a write fails."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    most = n_bytes if hard == resource.RLIM_INFINITY else min(n_bytes, hard)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def _data_bytes() -> int:
    """Private writable memory of this process, as RLIMIT_DATA counts it."""
    for line in _STATUS.read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return 0
