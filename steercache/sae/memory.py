"""Memory that is free for an SAE, asked before anything large is allocated."""

from pathlib import Path

from steercache.core.errors import BudgetError

_MEMINFO = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")


def free_bytes() -> int | None:
    """Bytes that this process may still allocate: what the system has, and what its control group allows; None if unknown."""
    known = [n for n in (_system(), _group()) if n is not None]
    return min(known) if known else None


def refuse_too_large(n_bytes: int, *, what: str, place: str) -> None:
    """Raises BudgetError where `n_bytes` do not fit into the memory that is free."""
    free = free_bytes()
    if free is not None and n_bytes > free:
        raise BudgetError(
            f"{what} needs {_shown(n_bytes)} of memory, and {_shown(free)} are free",
            place=place,
            hint="take a narrower SAE, or a machine with more memory",
        )


def _system() -> int | None:
    try:
        lines = _MEMINFO.read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return None


def _group() -> int | None:
    try:
        return int((_GROUP / "memory.max").read_text()) - int((_GROUP / "memory.current").read_text())
    except (OSError, ValueError):  # no such group, or "max"
        return None


def _shown(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:,.1f} GiB"
