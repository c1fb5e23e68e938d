"""Care of the files."""

from steercache.api.cache_core import CacheCore
from steercache.api.maintenance import Removed, Verified, verify
from steercache.api.progress import ProgressLike, reporting
from steercache.api.runs import Run
from steercache.cache.compact import Compacted, compact_run
from steercache.cache.rebuild import rebuild_index
from steercache.cache.remove import Leftover, collect, leftovers, remove_damaged_shards, remove_run
from steercache.cache.status import CacheStatus, cache_status
from steercache.core.layout import CodecName


class UpkeepMethods(CacheCore):
    """Care of the files."""

    def status(self) -> CacheStatus:
        """Runs, vectors and sweeps of the cache and their sizes in bytes, read from the files, not from the index."""
        return cache_status(self._session.cache)

    def verify(self, *runs: str | Run, progress: ProgressLike = None) -> Verified:
        """Compare every file (of some runs, or of all) with its recorded size and checksums.

        Raises:
            NotFoundError: no such run.
        """
        with reporting(progress) as show:
            return verify(self._session.cache, [str(run) for run in runs], show)

    def compact(self, run: str | Run, *, codec: CodecName = "blosc", progress: ProgressLike = None) -> Compacted:
        """Write a run again with a codec (blosc and pcodec are lossless; int8 has one scale per row and is lossy).

        The old generation stays until `collect_garbage`. Raises NotFoundError, BusyError, BudgetError.
        """
        cache = self._session.cache
        with reporting(progress) as show:
            return compact_run(
                cache, cache.resolve_run(str(run)), codec=codec, on_shard=lambda n, of: show("compacting", n, of)
            )

    def rebuild(self, *, progress: ProgressLike = None) -> int:
        """Make the index again from the files beside it; returns the number of shards read.

        Raises:
            BusyError: another process holds the index. DamagedError: a file that it is made from cannot be read; the old index
                stays.
        """
        done = 0
        with reporting(progress) as show:

            def count(n_shards: int) -> None:
                nonlocal done
                done += n_shards
                show("rebuilding the index", done, None)

            return rebuild_index(self._session.cache, on_shards=count)

    def run_to_remove(self, run: str | Run) -> tuple[str, str]:
        """Id and name of the run that `remove` would take; one without a readable document has its id. Raises NotFoundError."""
        run_id = self._session.cache.resolve_run_to_remove(str(run))
        return run_id, self._session.cache.name_of(run_id)

    def remove(self, run: str | Run, *, damaged_shards_only: bool = False) -> Removed:
        """Remove a run with its activations, or only its damaged shards, so that a build makes them again.

        Vectors fitted from the run stay. Raises NotFoundError, BusyError.
        """
        cache = self._session.cache
        run_id, name = self.run_to_remove(run)
        if damaged_shards_only:
            return Removed(run_id=run_id, name=name, shards=tuple(remove_damaged_shards(cache, run_id)))
        return Removed(run_id=run_id, name=name, n_bytes=remove_run(cache, run_id))

    def collect_garbage(self, *, dry_run: bool = False) -> list[Leftover]:
        """Remove what nothing refers to (old generations, half-written files), and return it; `dry_run` only returns it."""
        cache = self._session.cache
        return list(leftovers(cache)) if dry_run else collect(cache)
