"""A ceiling on the memory of a process that does nothing but run one query, for what DuckDB's own limit does not count.

It acts on the whole process and cannot be lifted: for a child made for the query, never for a caller's process. Linux only
(`RLIMIT_DATA` does not count memory-mapped files there); elsewhere DuckDB's limit stands alone.
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


def _data_bytes() -> int:
    """Private writable memory of this process, as RLIMIT_DATA counts it."""
    for line in _STATUS.read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return 0
