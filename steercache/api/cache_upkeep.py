"""Care of the files."""

from collections.abc import Callable, Sequence
from os import PathLike
from typing import TYPE_CHECKING

from steercache.api.cache_core import CacheCore
from steercache.api.maintenance import Removed, Verified, verify
from steercache.api.progress import ProgressLike, reporting
from steercache.api.runs import Run
from steercache.cache.compact import Compacted, compact_run
from steercache.cache.rebuild import rebuild_index
from steercache.cache.remove import Leftover, collect, leftovers, remove_damaged_shards, remove_run
from steercache.cache.status import CacheStatus, cache_status
from steercache.core.layout import CodecName
from steercache.engines.crew import EngineName, EngineOptions

if TYPE_CHECKING:
    from steercache.exchange.hub.pull import Pulled
    from steercache.exchange.hub.push import Pushed


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

    def compact(
        self,
        run: str | Run,
        *,
        codec: CodecName = "blosc",
        workers: int = 1,
        engine: EngineName = "local",
        address: str | None = None,
        cpus_per_worker: float = 1.0,
        progress: ProgressLike = None,
        on_note: Callable[[str], None] | None = None,
    ) -> Compacted:
        """Write a run again with a codec (blosc and pcodec are lossless; int8 has one scale per row and is lossy).

        Reading goes on meanwhile: the new generation is put in force when it is whole, and the old one stays until
        `collect_garbage`. Interrupted, the old one stays in force, and the same call goes on where it was. `workers` processes
        recode shards side by side, at a low priority: of this machine, or with `engine="ray"` of a Ray cluster at `address`
        (see `build`). The bytes are the same. `on_note` is called with remarks, such as that a worker died.

        Raises:
            NotFoundError: no such run. BusyError: it is being built or compacted. UsageError: it is not complete, has this
                codec, or is lossy. BudgetError: the disk is full, or workers die again and again. DamagedError: a file of it
                is damaged.
        """
        cache = self._session.cache
        with reporting(progress) as show:
            return compact_run(
                cache,
                cache.resolve_run(str(run)),
                codec=codec,
                engine=EngineOptions(name=engine, workers=workers, address=address, cpus_per_worker=cpus_per_worker),
                on_shard=lambda n, of: show("compacting", n, of),
                on_note=on_note or (lambda note: None),
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

    def push(
        self,
        names: str | Sequence[str],
        target: str | PathLike[str],
        *,
        layers: Sequence[int] | None = None,
        private: bool = True,
        progress: ProgressLike = None,
    ) -> "Pushed":
        """Send runs, vectors, sweeps, features of SAEs or SAEs to a folder, a repository of the hub, or a bucket.

        `target` is a folder, a dataset repository `hf://datasets/user/name`, or `s3://bucket/folder`, `gs://bucket/folder`,
        `az://container/folder`, with the credentials of the environment.

        `names` are names, ids or prefixes, of an SAE its folder (pulled, it lies in `sae/folders/<id>` of the cache, which
        `load_sae` and `encode` read); `vector:counting` says of which kind where several have a name. `layers` sends runs
        with these layers only, as parts (see `copy_part`). What is there already with the same hash is not sent again, so that
        an interrupted push goes on with the same call. A repository that is not there is made, `private` unless told otherwise.

        A card (`README.md`) and a listing with the SHA-256 of every file (`steercache.json`) are written last. Absolute paths
        are reduced to their last part, and the folder of the model is left out: nothing says which machine it was. Texts of
        samples are part of a run: they are sent.

        Raises:
            NotFoundError: nothing has the name. UsageError: several kinds have it, a run is not complete, the hub or the
                store refuses, or the connection failed. BusyError: others write the place's listing all the time.
        """
        from steercache.api.sharing import push

        chosen = [names] if isinstance(names, str) else list(names)
        return push(self._session.cache, chosen, target, layers=layers, private=private, progress=progress)

    def pull(
        self,
        source: str | PathLike[str],
        names: str | Sequence[str] = (),
        *,
        layers: Sequence[int] | None = None,
        budget_gb: float = 20.0,
        progress: ProgressLike = None,
    ) -> "Pulled":
        """Take what was pushed to a folder, repository or bucket into this cache: all of it, or the items with these names.

        Every file gets its name after its size and SHA-256 were found to be those of the listing; a call that was interrupted
        goes on where it was. What the cache has under the same id stays as it is. `budget_gb` bounds what is received.

        `layers` takes these layers of runs only, each as a part (see `copy_part`); from a bucket their bytes alone are read.

        Raises:
            NotFoundError: nothing was pushed there, or nothing has the name. BudgetError: larger than the budget or the disk.
            DamagedError: the listing names what is no file of a cache, or a file is not the listed one; nothing of it stays.
            UsageError: the hub or the store refuses, or the connection failed.
        """
        from steercache.api.sharing import pull

        chosen = [names] if isinstance(names, str) else list(names)
        return pull(self._session.cache, source, chosen, layers=layers, budget_gb=budget_gb, progress=progress)
