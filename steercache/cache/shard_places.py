"""Where the shards of a run are put, as a process that traces them sees it: a folder, or an object store."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from steercache.cache.commit import ShardTables, commit_files, make_run_folders, open_shard
from steercache.cache.documents import PlannedShard, RunDocument, check_that_the_run_is_seen
from steercache.cache.paths import FIRST_GENERATION, RunPaths
from steercache.cache.remote_commit import check_that_the_run_is_there, commit_shard
from steercache.cache.scratch import VARIABLE, scratch_folder
from steercache.core.errors import BudgetError
from steercache.core.layout import ShardRecord
from steercache.objects.interface import ObjectStore
from steercache.objects.lease import Fence
from steercache.objects.opening import open_store
from steercache.store.durable import remove
from steercache.store.shard import ShardWriter, shard_file_names
from steercache.store.staging import Staging

_SCRATCH_HINT = (
    f"free some space there, or name a folder on another disk by {VARIABLE} in the environment; then build again"
)


class ShardTarget(Protocol):
    """Takes the shards of one run from one process."""

    def open(self, planned: PlannedShard) -> ShardWriter:
        """A writer for one shard's arrays; what an earlier attempt left is overwritten."""
        ...

    def commit(
        self,
        planned: PlannedShard,
        writer: ShardWriter,
        tables: ShardTables,
        *,
        computed_otherwise: tuple[str, ...] = (),
    ) -> ShardRecord | None:
        """Make one shard's files durable, and its record last; or begin to, while the next one is traced."""
        ...

    def flush(self) -> None:
        """Wait until every shard is committed. Raises what `commit` raises."""
        ...


class ShardPlace(Protocol):
    """Picklable: goes to each process that traces shards."""

    @contextmanager
    def entered(self, document: RunDocument) -> Iterator[ShardTarget]:
        """Raises NotFoundError where this process does not see the run."""
        ...


@dataclass(frozen=True, slots=True)
class FolderPlace:
    """The run's own folder, on a file system that all processes see."""

    paths: RunPaths

    @contextmanager
    def entered(self, document: RunDocument) -> Iterator[ShardTarget]:
        """As `ShardPlace.entered`."""
        check_that_the_run_is_seen(self.paths, document.run_id)
        yield _InFolder(self.paths, document)


@dataclass(frozen=True, slots=True)
class StoredPlace:
    """A run below the address of an object store, under the coordinator's lease. `store` is for this process alone."""

    address: str
    fence: Fence
    store: ObjectStore | None = field(default=None, compare=False)

    def __reduce__(self) -> tuple[type["StoredPlace"], tuple[str, Fence]]:
        return StoredPlace, (self.address, self.fence)

    @contextmanager
    def entered(self, document: RunDocument) -> Iterator[ShardTarget]:
        """As `ShardPlace.entered`; shards lie in a scratch folder of this process until they are sent."""
        store = open_store(self.address) if self.store is None else self.store
        check_that_the_run_is_there(store, document)
        with scratch_folder() as folder, ThreadPoolExecutor(1, thread_name_prefix="steercache-send") as sending:
            paths = RunPaths(folder / document.run_id)
            make_run_folders(paths, document)
            target = _InStore(store, self.fence, paths, document, sending)
            yield target
            target.flush()


class _InFolder:
    def __init__(self, paths: RunPaths, document: RunDocument) -> None:
        self._paths, self._document, self._staging = paths, document, Staging()

    def open(self, planned: PlannedShard) -> ShardWriter:
        return open_shard(self._paths, self._document, planned, self._staging)

    def commit(
        self,
        planned: PlannedShard,
        writer: ShardWriter,
        tables: ShardTables,
        *,
        computed_otherwise: tuple[str, ...] = (),
    ) -> ShardRecord | None:
        return commit_files(self._paths, planned, writer, tables, computed_otherwise=computed_otherwise)

    def flush(self) -> None:
        pass


class _InStore:
    """Puts shards together in a scratch folder; one is sent while the next is traced."""

    def __init__(
        self, store: ObjectStore, fence: Fence, paths: RunPaths, document: RunDocument, sending: ThreadPoolExecutor
    ) -> None:
        self._store, self._fence = store, fence
        self._paths, self._document, self._staging = paths, document, Staging()
        self._sending = sending
        self._on_its_way: Future[None] | None = None

    def open(self, planned: PlannedShard) -> ShardWriter:
        with _scratch_errors():
            return open_shard(self._paths, self._document, planned, self._staging)

    def commit(
        self,
        planned: PlannedShard,
        writer: ShardWriter,
        tables: ShardTables,
        *,
        computed_otherwise: tuple[str, ...] = (),
    ) -> ShardRecord | None:
        try:
            with _scratch_errors():
                record = commit_files(self._paths, planned, writer, tables, computed_otherwise=computed_otherwise)
            self.flush()
            if record is not None:
                self._on_its_way = self._sending.submit(self._send, record)
        except BaseException:
            self._remove(planned.shard_idx)
            raise
        return record

    def flush(self) -> None:
        on_its_way, self._on_its_way = self._on_its_way, None
        if on_its_way is not None:
            on_its_way.result()

    def _send(self, record: ShardRecord) -> None:
        try:
            commit_shard(self._store, self._paths, record, self._fence)
        finally:
            self._remove(record.shard_idx)

    def _remove(self, shard_idx: int) -> None:
        generation = self._paths.generation(FIRST_GENERATION)
        for name in shard_file_names(self._document.layout, shard_idx):
            remove(generation / name)
        for path in (self._paths.tokens(shard_idx), self._paths.samples(shard_idx)):
            remove(path)
        remove(self._paths.shard(FIRST_GENERATION, shard_idx))


@contextmanager
def _scratch_errors() -> Iterator[None]:
    """Say how to have a scratch folder elsewhere where its disk is full, or cannot be written."""
    try:
        yield
    except BudgetError as error:
        raise BudgetError(error.message, place=error.place, hint=_SCRATCH_HINT) from error
