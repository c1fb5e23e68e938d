"""Begin, resume and commit a run: from a shard's record on its rows exist, before it nothing does.

Order of a commit: data files, their folders, Parquet files, their folders, then the record. The index follows by an
idempotent transaction and may lag behind: a person's own `duckdb` shell never stops a build.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import google_crc32c
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from steercache.cache.catch_up import add_shards
from steercache.cache.codec_errors import keep_layer_errors, layer_errors
from steercache.cache.compact import recode_into
from steercache.cache.documents import (
    PlannedShard,
    RunDocument,
    read_run_document,
    read_shard_record,
    write_run_document,
    write_shard_record,
)
from steercache.cache.handle import CacheFolder
from steercache.cache.lock import hold_lock
from steercache.cache.paths import FIRST_GENERATION, RunPaths
from steercache.cache.rebuild import catch_up_or_rebuild
from steercache.cache.source import ShardRecords, StoredRecords, current_generation, newest_generation
from steercache.core.errors import UsageError
from steercache.core.layout import FileRecord, ShardRecord
from steercache.core.numerics import FORCED_OVER, numeric_differences, settings_of
from steercache.store.durable import make_folder, settle, write_file_atomically
from steercache.store.generation import create_generation, read_generation, set_complete
from steercache.store.reader import open_generation
from steercache.store.shard import ShardWriter
from steercache.store.staging import Staging

# Between two transactions in the index. When DuckDB closes a file it gives back what memory this process has free, and the next
# passes have their pages made anew: up to half a second for each telling, seen on virtual machines.
TELL_EVERY_S = 60.0
MOST_UNTOLD = 4096  # records kept for an index that somebody holds; beyond it they are left to `finish`
TELL_SHARE = 100  # they take at most one part in so many of the time
Accept = Callable[[ShardWriter], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTables:
    """What a shard has beside its arrays: coordinates of shape (n,) in slot order, and its tokens and samples."""

    sample_idx: npt.NDArray[Any]
    position: npt.NDArray[Any]
    token_id: npt.NDArray[Any]
    tokens: pa.Table
    samples: pa.Table


class RunWriter:
    """A run that is being filled; made by `begin_run`, which holds the run's lock."""

    def __init__(self, cache: CacheFolder, document: RunDocument) -> None:
        self.cache = cache
        self.document = document
        self.paths = cache.run_paths(document.run_id)
        self._staging = Staging()
        self._untold: list[ShardRecord] = []
        self._due = time.monotonic() + TELL_EVERY_S

    def pending(self) -> list[PlannedShard]:
        """Shards without a record, in order. Raises DamagedError where a record cannot be read."""
        done = {record.shard_idx for record in self.records()}
        return [s for s in self.document.shards if s.shard_idx not in done]

    def is_complete(self) -> bool:
        """Whether every shard has a record; none is read."""
        return _n_committed(self.paths) >= len(self.document.shards)

    def open_shard(self, planned: PlannedShard) -> ShardWriter:
        """A writer for one shard's arrays; what an earlier attempt left is overwritten."""
        return open_shard(self.paths, self.document, planned, self._staging)

    def commit_files(
        self, planned: PlannedShard, writer: ShardWriter, tables: ShardTables, *, accept: Accept = lambda writer: True
    ) -> ShardRecord | None:
        """Make one shard durable; without a record, and None, where `accept` refuses its finished arrays."""
        return commit_files(self.paths, planned, writer, tables, accept=accept)

    def record_of(self, shard_idx: int) -> ShardRecord:
        """The record of a shard that this build has traced."""
        return read_shard_record(self.paths.shard(FIRST_GENERATION, shard_idx))

    def admit_numerics(self, numerics: Mapping[str, Any]) -> None:
        """Note in the run's document that some shards are computed under these numerics too (their records say which)."""
        if any(not numeric_differences(one, numerics) for one in settings_of(self.document.numerics)):
            return
        oldest = settings_of(self.document.numerics)[::-1]
        chain: dict[str, Any] = {name: value for name, value in numerics.items() if name != FORCED_OVER}
        for one in oldest:
            chain = {**{name: value for name, value in one.items() if name != FORCED_OVER}, FORCED_OVER: chain}
        self.document = replace(self.document, numerics=chain)
        write_run_document(self.paths.document, self.document)

    def tell_index(self, shard_idx: int) -> str | None:
        """Put a committed shard into the index, at most once a minute, with those that wait, and if it is free; returns
        who holds it otherwise. What was not told `finish` makes up, or whoever reads before."""
        record = self._in_force(shard_idx)
        if len(self._untold) < MOST_UNTOLD:
            self._untold.append(record)
        start = time.monotonic()
        if start < self._due:
            return None
        held_by = add_shards(self.cache.paths, self.document, self._untold)
        if held_by is None:
            now = time.monotonic()
            self._untold, self._due = [], now + max(TELL_EVERY_S, TELL_SHARE * (now - start))
        return held_by

    def _in_force(self, shard_idx: int) -> ShardRecord:
        """The record of a shard that was just traced; of a run that was compacted, after recoding the shard as the others."""
        record = self.record_of(shard_idx)
        generation = current_generation(self.paths)
        if generation == FIRST_GENERATION:
            return record
        codec = read_generation(self.paths.generation(generation)).codec
        source = open_generation(self.paths.generation(FIRST_GENERATION), (record,))
        try:
            return recode_into(self.paths, generation, source, record, codec=codec)
        finally:
            source.close()

    def records(self) -> StoredRecords:
        """Records of the shards that are committed. Each is read from its file when the iteration reaches it."""
        return StoredRecords(self.paths, current_generation(self.paths))

    def finish(self) -> str | None:
        """Mark the run complete when nothing is pending, and bring the index up to date; returns who holds it, if anyone."""
        if self.is_complete():
            generation = self.paths.generation(current_generation(self.paths))
            if generation.name != FIRST_GENERATION:
                keep_layer_errors(generation, layer_errors(self.records(), generation))
            set_complete(generation, True)
        return catch_up_or_rebuild(self.cache, wait_s=self.cache.index.wait_s)


def open_shard(paths: RunPaths, document: RunDocument, planned: PlannedShard, staging: Staging) -> ShardWriter:
    """A writer into the first generation of a run."""
    folder = paths.generation(FIRST_GENERATION)
    return ShardWriter(folder, document.layout, planned.shard_idx, n_rows=planned.n_rows, staging=staging)


def commit_files(
    paths: RunPaths,
    planned: PlannedShard,
    writer: ShardWriter,
    tables: ShardTables,
    *,
    accept: Accept = lambda writer: True,
    computed_otherwise: tuple[str, ...] = (),
) -> ShardRecord | None:
    """Make a shard's files durable and write its record; touches no index, so workers may call it.

    `computed_otherwise` says what the numerics of these rows differ in from the run's own. Where `accept` refuses the finished
    arrays, there is no record: the files are overwritten by the next attempt.
    """
    arrays = writer.finish(sample_idx=tables.sample_idx, position=tables.position, token_id=tables.token_id)
    if not accept(writer):
        return None
    parquet = (
        _write_parquet(paths, paths.tokens(planned.shard_idx), tables.tokens),
        _write_parquet(paths, paths.samples(planned.shard_idx), tables.samples),
    )
    record = ShardRecord(
        shard_idx=planned.shard_idx,
        first_sample=planned.first_sample,
        n_samples=planned.n_samples,
        n_rows=planned.n_rows,
        input_digest=planned.input_digest,
        files=(*arrays, *parquet),
        non_finite=writer.non_finite,
        computed_otherwise=computed_otherwise,
    )
    write_shard_record(paths.shard(FIRST_GENERATION, planned.shard_idx), record)
    return record


@contextmanager
def begin_run(cache: CacheFolder, document: RunDocument, *, force: bool = False) -> Iterator[RunWriter]:
    """Begin a run, or resume it; holds the run's lock for the length of the block.

    Raises:
        BusyError: another process is building, compacting or collecting this run.
        UsageError: it was begun under other numerics and is not complete, and `force` is false.
    """
    paths = cache.run_paths(document.run_id)
    with hold_lock(paths.lock, what=f"the run {document.name!r}"):
        begun = read_run_document(paths.document) if paths.document.exists() else None
        if begun is not None and not paths.current.exists():
            _put_newest_in_force(paths, begun)
        kept = document if begun is None else resumable(begun, document, paths, force=force)
        _make_table_folders(paths)
        writer, is_new = RunWriter(cache, kept), not paths.current.exists()
        if (
            is_new or not writer.is_complete()
        ):  # of a run that was compacted, the first generation may have been collected
            _create_first_generation(paths, document)
        if is_new:
            write_file_atomically(paths.current, f"{FIRST_GENERATION}\n".encode())
        if kept is not begun:
            write_run_document(paths.document, kept)
        settle(paths.document, paths.current, paths.shard(current_generation(paths), 0))
        catch_up_or_rebuild(cache)
        yield writer


def make_run_folders(paths: RunPaths, document: RunDocument) -> None:
    """Make what shards of a run are written into, in a folder that holds nothing else of it."""
    _make_table_folders(paths)
    _create_first_generation(paths, document)


def first_attributes(document: RunDocument) -> dict[str, str]:
    """What the group of a run's first generation says besides its layout."""
    return {"run_id": document.run_id, "name": document.name, "generation": FIRST_GENERATION}


def _make_table_folders(paths: RunPaths) -> None:
    for folder in (paths.tokens(0).parent, paths.samples(0).parent, paths.shards(FIRST_GENERATION)):
        make_folder(folder)


def _create_first_generation(paths: RunPaths, document: RunDocument) -> None:
    create_generation(paths.generation(FIRST_GENERATION), document.layout, attributes=first_attributes(document))


def _n_committed(paths: RunPaths) -> int:
    return len(ShardRecords(paths, current_generation(paths)))


def _put_newest_in_force(paths: RunPaths, document: RunDocument) -> None:
    """Write CURRENT again, which was lost: rows that are there are not traced a second time."""
    newest = newest_generation(paths, n_shards=len(document.shards))
    if newest is not None:
        write_file_atomically(paths.current, f"{newest}\n".encode())


def resumable(begun: RunDocument, wanted: RunDocument, paths: RunPaths, *, force: bool) -> RunDocument:
    """The document to go on with. A run keeps the numerics it began with; others need `force`, which records them."""
    differences = numeric_differences(begun.numerics, wanted.numerics)
    pending = not paths.current.exists() or _n_committed(paths) < len(begun.shards)
    if not differences or not pending:
        return begun
    if not force:
        raise UsageError(
            f"the run {begun.name!r} was begun under other numerics: {'; '.join(differences)}",
            place=str(paths.folder),
            hint="build under the same settings, or force it to mix them (recorded), or begin anew after"
            f" `steercache cache rm {begun.name}`",
        )
    return replace(wanted, numerics={**wanted.numerics, FORCED_OVER: begun.numerics})


def _write_parquet(paths: RunPaths, path: Path, table: pa.Table) -> FileRecord:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    data = sink.getvalue().to_pybytes()
    write_file_atomically(path, data)
    checksum = google_crc32c.value(data)
    return FileRecord(path=path.relative_to(paths.folder).as_posix(), n_bytes=len(data), crc32c=checksum)
