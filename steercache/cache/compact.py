"""Write a run again with a codec: a new generation beside the old, put in force by one rename.

Shards are tasks: recoded in this process, or by workers of this machine or of a Ray cluster. Whoever recodes a shard writes its
record, and nothing else is shared; the process that began puts the generation in force when every record is there.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from steercache.cache.again import build_command
from steercache.cache.catch_up import catch_up
from steercache.cache.codec_errors import LayerError, keep_layer_errors, layer_errors, worst_of
from steercache.cache.documents import RunDocument, check_that_the_run_is_seen, write_shard_record
from steercache.cache.handle import CacheFolder
from steercache.cache.lock import hold_lock
from steercache.cache.paths import RunPaths
from steercache.cache.source import ShardRecords, committed_shards, current_generation
from steercache.core.errors import DamagedError, UsageError
from steercache.core.layout import CodecName, FileRecord, ShardRecord
from steercache.engines.crew import ONE_HERE, EngineOptions, Work, do_work
from steercache.objects.mirrors import refuse_remote
from steercache.store.codecs import codec_probe
from steercache.store.durable import make_folder, remove_folder, settle, write_file_atomically
from steercache.store.generation import create_generation, set_complete
from steercache.store.reader import GenerationReader, open_generation
from steercache.store.recode import recode_shard
from steercache.store.verify import verify_metadata

_LOW_PRIORITY = 10  # of workers: what people wait for goes before


@dataclass(frozen=True, slots=True, kw_only=True)
class Compacted:
    """What a compaction did; sizes are those of the arrays and tables, in bytes.

    `error` is of a lossy codec: the worst row over sites and layers by measure (`max_abs`, `max_relative`, `min_cosine`), and
    the mean relative error of the layer where it is largest (`mean_relative`). `Cache.status` has them by layer.
    """

    generation: str
    n_bytes_before: int
    n_bytes_after: int
    error: Mapping[str, Any] = field(default_factory=dict)


def compact_run(
    cache: CacheFolder,
    run_id: str,
    *,
    codec: CodecName,
    engine: EngineOptions = ONE_HERE,
    on_shard: Callable[[int, int], None] = lambda done, total: None,
    on_note: Callable[[str], None] = lambda note: None,
) -> Compacted:
    """Recode every shard of a complete run into a new generation and make it the current one.

    Killed anywhere, the old generation stays in force; called again, with whatever engine, shards that were recoded are kept.
    The old generation's files stay until `gc`, so that readers which have it open go on. The bytes do not depend on the engine;
    workers run at a low priority.

    Raises:
        BusyError: the run is being built or compacted.
        UsageError: it is not complete, or has this codec, or is lossy already.
        DamagedError: a file is missing or short, in the old generation or the new one; the old one stays in force.
    """
    refuse_remote(cache.root, "compacting a run", hint="pull it into a folder, compact it there, and push it")
    paths, document = cache.run_paths(run_id), cache.run_document(run_id)
    with hold_lock(paths.lock, what=f"the run {document.name!r}"):
        old = current_generation(paths)
        records = committed_shards(paths, old)
        source = open_generation(paths.generation(old), records)
        _check(document, source, n_shards=len(records), codec=codec)
        job = _Job(paths=paths, run_id=run_id, old=old, new=f"g{int(old[1:]) + 1:04d}", codec=codec)
        _create(job, document)
        kept = frozenset(ShardRecords(paths, job.new))
        pending, n_done = [r.shard_idx for r in records if r.shard_idx not in kept], len(kept)
        on_shard(n_done, len(records))

        def count(shard_idx: int, result: None) -> None:
            nonlocal n_done
            n_done += 1
            on_shard(n_done, len(records))

        if engine == ONE_HERE:
            for shard_idx in pending:
                recode_into(paths, job.new, source, source.record(shard_idx), codec=codec)
                count(shard_idx, None)
        else:
            _recode_there(job, document.name, pending, engine, count, on_note)
        source.close()
        done = committed_shards(paths, job.new)
        errors = _put_in_force(job, done)
        catch_up(cache.paths, wait_s=cache.index.wait_s)
    before, after = (sum(r.n_bytes for r in rs) for rs in (records, done))
    return Compacted(generation=job.new, n_bytes_before=before, n_bytes_after=after, error=worst_of(errors))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """A compaction, as a worker is told of it."""

    paths: RunPaths
    run_id: str
    old: str
    new: str
    codec: CodecName


def _check(document: RunDocument, source: GenerationReader, *, n_shards: int, codec: CodecName) -> None:
    """Raises UsageError where there is nothing to recode, or what is there must not be."""
    if n_shards < len(document.shards):
        raise UsageError(
            f"the run {document.name!r} is not complete", hint=f"finish it first: {build_command(document.name)}"
        )
    if source.codec == codec:
        raise UsageError(f"the run {document.name!r} has the codec {codec!r} already ({source.path.name})")
    if source.lossy:
        raise UsageError(
            f"{source.path.name} is lossy ({source.codec}): recoding it would hide that", hint="build the run again"
        )


def _create(job: _Job, document: RunDocument) -> None:
    """The new generation's folder, or the one that a compaction left which was killed."""
    target = job.paths.generation(job.new)
    attributes = {"run_id": job.run_id, "name": document.name, "generation": job.new, "recoded_from": job.old}
    if job.paths.shards(job.new).is_dir() and not (target / "zarr.json").exists():
        remove_folder(job.paths.shards(job.new))  # records of a generation that was collected: their files are gone
    create_generation(target, document.layout, attributes=attributes, codec=job.codec)


def _put_in_force(job: _Job, records: Sequence[ShardRecord]) -> tuple[LayerError, ...]:
    """Name the new generation in CURRENT, which is the last thing done; returns what its codec did."""
    target = job.paths.generation(job.new)
    _refuse_missing(job.paths, job.new, records)
    # Records of a compaction that was killed: the old generation goes when these are in force.
    settle(job.paths.shard(job.new, 0))
    errors = layer_errors(records, target)
    keep_layer_errors(target, errors)
    set_complete(target, True)
    write_file_atomically(job.paths.current, f"{job.new}\n".encode())
    return errors


def _recode_there(
    job: _Job,
    name: str,
    pending: Sequence[int],
    engine: EngineOptions,
    on_done: Callable[[int, None], None],
    on_note: Callable[[str], None],
) -> None:
    """Recode shards in other processes. A worker's threads are its share of the CPUs."""
    cpus = engine.cpus_per_worker if engine.name == "ray" else (os.cpu_count() or 1) / engine.workers
    start = partial(_Worker, job, probe=codec_probe(job.codec), n_threads=max(1, int(cpus)))
    do_work(Work(name=name, tasks=pending, start=start, on_done=on_done, on_note=on_note), engine)


class _Worker:
    """Recodes shards, and commits them.

    Raises:
        UsageError: this process's codecs make other bytes than the coordinator's. NotFoundError: it does not see the run.
    """

    about: Mapping[str, Any] = {}

    def __init__(self, job: _Job, *, probe: str, n_threads: int) -> None:
        check_that_the_run_is_seen(job.paths, job.run_id)
        if codec_probe(job.codec) != probe:
            raise UsageError(
                f"the codec {job.codec!r} makes other bytes here than where the compaction was begun",
                hint="install the same releases of numpy, numcodecs and pcodec on all nodes",
            )
        os.nice(_LOW_PRIORITY)
        self._job, self._n_threads = job, n_threads
        self._source = open_generation(job.paths.generation(job.old), ShardRecords(job.paths, job.old))

    def run(self, shard_idx: int) -> None:
        """Recode and commit one shard."""
        job, record = self._job, self._source.record(shard_idx)
        recode_into(job.paths, job.new, self._source, record, codec=job.codec, n_threads=self._n_threads)


def recode_into(
    paths: RunPaths,
    generation: str,
    source: GenerationReader,
    record: ShardRecord,
    *,
    codec: CodecName,
    n_threads: int | None = None,
) -> ShardRecord:
    """Commit one shard of `source`, whose record is `record`, to another generation; its tables are shared."""
    target, shard_idx = paths.generation(generation), record.shard_idx
    arrays = recode_shard(source, target, source.layout, shard_idx, codec=codec, n_threads=n_threads)
    tables = tuple(file for file in record.files if file.path.split("/")[0] in ("rows", "samples"))
    recoded = replace(record, files=(*arrays.files, *tables), codec_errors=arrays.codec_errors)
    make_folder(paths.shards(generation))
    write_shard_record(paths.shard(generation, record.shard_idx), recoded)
    return recoded


def _refuse_missing(paths: RunPaths, generation: str, records: Iterable[ShardRecord]) -> None:
    """Raise DamagedError when a file that the generation needs is missing or short: `gc` deletes the old one after us."""
    problems = verify_metadata(paths.generation(generation))
    problems += [file.path for record in records for file in record.files if not _has_size(paths.folder, file)]
    if problems:
        in_new = problems[0].startswith(f"{generation}/")
        raise DamagedError(
            f"{generation} is not activated: {len(problems)} of its files are missing or short, the first {problems[0]}",
            place=str(paths.folder),
            hint="steercache cache gc, then compact again" if in_new else "steercache cache verify",
        )


def _has_size(folder: Path, file: FileRecord) -> bool:
    try:
        return (folder / file.path).stat().st_size == file.n_bytes
    except FileNotFoundError:
        return False
