"""Write a run again with a codec: a new generation beside the old, put in force by one rename."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from steercache.cache.again import build_command
from steercache.cache.catch_up import catch_up
from steercache.cache.documents import write_shard_record
from steercache.cache.handle import CacheFolder
from steercache.cache.lock import hold_lock
from steercache.cache.paths import RunPaths
from steercache.cache.source import committed_shards, current_generation
from steercache.core.errors import DamagedError, UsageError
from steercache.core.layout import CodecName, FileRecord, ShardRecord
from steercache.objects.mirrors import refuse_remote
from steercache.store.durable import make_folder, remove_folder, settle, write_file_atomically
from steercache.store.generation import create_generation, read_generation, set_complete
from steercache.store.reader import GenerationReader, open_generation
from steercache.store.recode import recode_shard
from steercache.store.verify import verify_metadata


@dataclass(frozen=True, slots=True, kw_only=True)
class Compacted:
    """What a compaction did; sizes are those of the arrays and tables, in bytes."""

    generation: str
    n_bytes_before: int
    n_bytes_after: int
    error: Mapping[str, Any] = field(default_factory=dict)  # of a lossy codec, the worst over layers and rows


def compact_run(
    cache: CacheFolder,
    run_id: str,
    *,
    codec: CodecName,
    on_shard: Callable[[int, int], None] = lambda done, total: None,
) -> Compacted:
    """Recode every shard of a complete run into a new generation and make it the current one.

    Killed anywhere, the old generation stays in force; called again, shards that were recoded are kept. The old generation's
    files stay until `gc`, so that readers which have it open go on.

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
        if len(records) < len(document.shards):
            raise UsageError(
                f"the run {document.name!r} is not complete", hint=f"finish it first: {build_command(document.name)}"
            )
        source = open_generation(paths.generation(old), records)
        if source.codec == codec:
            raise UsageError(f"the run {document.name!r} has the codec {codec!r} already ({old})")
        if source.lossy:
            raise UsageError(
                f"{old} is lossy ({source.codec}): recoding it would hide that", hint="build the run again"
            )
        new = f"g{int(old[1:]) + 1:04d}"
        target = paths.generation(new)
        attributes = {"run_id": run_id, "name": document.name, "generation": new, "recoded_from": old}
        if paths.shards(new).is_dir() and not (target / "zarr.json").exists():
            remove_folder(paths.shards(new))  # records of a generation that was collected: their files are gone
        create_generation(target, document.layout, attributes=attributes, codec=codec)
        done = {r.shard_idx: r for r in committed_shards(paths, new)}
        for record in records:
            if record.shard_idx not in done:
                done[record.shard_idx] = recode_into(paths, new, source, record, codec=codec)
            on_shard(len(done), len(records))
        source.close()
        _refuse_missing(paths, new, done.values())
        settle(
            paths.shard(new, 0)
        )  # records of a compaction that was killed: the old generation goes when these are in force
        set_complete(target, True)
        write_file_atomically(paths.current, f"{new}\n".encode())
        catch_up(cache.paths, wait_s=cache.index.wait_s)
        before, after = (sum(r.n_bytes for r in rs) for rs in (records, done.values()))
        error = read_generation(target).attributes.get("codec_error", {})
        return Compacted(generation=new, n_bytes_before=before, n_bytes_after=after, error=_worst(error))


def recode_into(
    paths: RunPaths, generation: str, source: GenerationReader, record: ShardRecord, *, codec: CodecName
) -> ShardRecord:
    """Commit one shard of `source`, whose record is `record`, to another generation; its tables are shared."""
    arrays = recode_shard(source, paths.generation(generation), source.layout, record.shard_idx, codec=codec)
    tables = tuple(file for file in record.files if file.path.split("/")[0] in ("rows", "samples"))
    recoded = replace(record, files=(*arrays, *tables))
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


def _worst(error: Mapping[str, Any]) -> dict[str, float]:
    """The worst row of all sites and layers, by measure."""
    rows = [row for layers in error.values() for row in layers]
    worst = {"max_abs": max, "max_relative": max, "min_cosine": min}
    return {name: pick(row[name] for row in rows) for name, pick in worst.items()} if rows else {}
