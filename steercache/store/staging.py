"""Memory in which the files of one shard after another are put together, page-aligned as writing past the page cache asks."""

import mmap

from steercache.core.errors import BudgetError

LARGE_PAGE = 2 * 2**20


class Staging:
    """Lends memory, and keeps what comes back for the next shard: fresh pages cost as much as filling them.

    For one writing thread; the memory goes back to the system with the last reference to this.
    """

    def __init__(self) -> None:
        self._free: list[mmap.mmap] = []

    def take(self, n_bytes: int) -> mmap.mmap:
        """At least `n_bytes` (and at least 1), with whatever was in them before.

        Raises:
            BudgetError: the system has no such memory to give.
        """
        fitting = [memory for memory in self._free if len(memory) >= n_bytes]
        if not fitting:
            self._free.clear()  # too small: kept beside larger ones they would add up
            return _fresh(n_bytes)
        smallest = min(fitting, key=len)
        self._free.remove(smallest)
        return smallest

    def give(self, memory: mmap.mmap) -> None:
        """Return what was taken; it must not be used any more."""
        self._free.append(memory)


def _fresh(n_bytes: int) -> mmap.mmap:
    n_whole = -(-max(1, n_bytes) // LARGE_PAGE) * LARGE_PAGE
    try:
        memory = mmap.mmap(-1, n_whole, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # shared memory has no large pages
    except OSError as error:
        raise BudgetError(
            f"no memory for a shard's file of {n_whole // 2**20:,} MiB: {error.strerror}",
            hint="free memory, use fewer workers, or a smaller `shard_mib` in the trace manifest",
        ) from error
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
