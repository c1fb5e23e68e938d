"""Take things out of a cache: a whole run, a run's damaged shards, and what nothing refers to."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from steercache.cache.catch_up import catch_up
from steercache.cache.handle import CacheFolder
from steercache.cache.lock import hold_lock
from steercache.cache.paths import EncodingPaths, RunPaths
from steercache.cache.source import current_generation, readable_shards
from steercache.core.errors import BusyError, DamagedError, NotFoundError
from steercache.core.ids import SHORT_ID
from steercache.core.unfinished import is_abandoned, is_unfinished
from steercache.objects.mirrors import refuse_remote
from steercache.store.durable import fsync_folder, remove, remove_abandoned, remove_folder
from steercache.store.generation import read_generation, set_complete
from steercache.store.shard import shard_file_names
from steercache.store.verify import verify_file

TRASH = ".trash-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """A file or folder that nothing refers to."""

    path: Path
    n_bytes: int
    reason: str


def remove_run(cache: CacheFolder, run_id: str) -> int:
    """Remove a run, its rows of the index and its features of every SAE; returns the bytes freed. Vectors fitted from it stay,
    with their provenance.

    A run whose document cannot be read goes as well.

    Raises:
        BusyError: it is being built, compacted, encoded or collected.
        NotFoundError: there is no such run.
    """
    refuse_remote(cache.root, "removing a run", hint="remove it with the store's own tools")
    paths, name = cache.run_paths(run_id), cache.name_of(run_id)
    encodings = [encoding for encoding in cache.paths.encoding_folders() if encoding.folder.name == run_id]
    with ExitStack() as locks:
        locks.enter_context(hold_lock(paths.lock, what=f"the run {name!r}"))
        for encoding in encodings:
            locks.enter_context(hold_lock(encoding.lock, what=f"the encoding of the run {name!r}"))
        unique = secrets.token_hex(4)  # what an earlier, killed removal of the same run left may be there
        trash = paths.folder.with_name(f"{TRASH}{run_id}-{unique}")
        paths.folder.rename(trash)  # from here on the run is gone; what follows only frees space
        catch_up(cache.paths, wait_s=cache.index.wait_s)
        n_bytes = _size(trash)
        shutil.rmtree(trash)
        n_bytes += sum(_remove_encoding(encoding) for encoding in encodings)
    return n_bytes


def remove_encoding(cache: CacheFolder, sae_id: str, run_id: str) -> int:
    """Remove the features of a run by one SAE; returns the bytes freed.

    Raises:
        BusyError: the run is being encoded. NotFoundError: it was not encoded with this SAE.
    """
    paths = cache.paths.encoding(sae_id, run_id)
    if not paths.folder.is_dir():
        raise NotFoundError("the run is not encoded with this SAE", place=str(paths.folder))
    with hold_lock(paths.lock, what="the encoding"):
        return _remove_encoding(paths)


def _remove_encoding(paths: EncodingPaths) -> int:
    """The records go first: a record without its file would be taken for damage."""
    n_bytes = _size(paths.folder)
    for record in _files(paths.records):
        remove(record)
    remove(paths.document)
    remove_folder(paths.folder)
    with suppress(OSError):
        paths.folder.parent.rmdir()  # of the last run that this SAE encoded
    return n_bytes


def remove_damaged_shards(cache: CacheFolder, run_id: str) -> list[int]:
    """Un-commit the shards whose files do not match their records, or whose records cannot be read, so that a build makes
    them again; returns their numbers."""
    refuse_remote(cache.root, "removing shards", hint="push the run again from a sound copy")
    paths, name = cache.run_paths(run_id), cache.name_of(run_id)
    with hold_lock(paths.lock, what=f"the run {name!r}"):
        generation = current_generation(paths)
        records, unreadable = readable_shards(paths, generation)
        hurt = {r.shard_idx for r in records if any(verify_file(paths.folder, file) for file in r.files)}
        damaged = sorted(hurt | unreadable.keys())
        if damaged:
            set_complete(paths.generation(generation), False)
        for shard_idx in damaged:
            remove(paths.shard(generation, shard_idx))
        for shard_idx in unreadable:
            _remove_arrays(paths.generation(generation), shard_idx)
        catch_up(cache.paths, wait_s=cache.index.wait_s)
    return damaged


def _remove_arrays(generation: Path, shard_idx: int) -> None:
    """Remove the array files of a shard that has no record any more; its tables may be another generation's too."""
    for name in shard_file_names(read_generation(generation).layout, shard_idx):
        remove(generation / name)


def leftovers(cache: CacheFolder) -> Iterator[Leftover]:
    """What `gc` would remove: half-written files, generations no longer in force, runs that were being removed or begun."""
    for folder in _run_folders(cache):
        yield from _of_run(folder)
    yield from _beside_runs(cache)
    for paths in cache.paths.encoding_folders():
        yield from _of_encoding(cache, paths)


def collect(cache: CacheFolder) -> list[Leftover]:
    """Remove what `leftovers` names, run by run under its lock; a run that is held is left alone.

    Killed anywhere, every record that is left has its files, and every generation that calls itself one is whole.
    """
    removed = []
    for folder in _run_folders(cache):
        removed += _collect_run(folder)
    for item in list(_beside_runs(cache)):
        _delete(item.path)
        removed.append(item)
    for paths in cache.paths.encoding_folders():
        removed += _collect_encoding(cache, paths)
    return removed


def _collect_encoding(cache: CacheFolder, paths: EncodingPaths) -> list[Leftover]:
    items = list(_of_encoding(cache, paths))
    if not items:
        return []
    try:
        with hold_lock(paths.lock, what="the encoding"):
            for item in items:
                if item.path == paths.folder:
                    _remove_encoding(paths)
                else:
                    _delete(item.path)
            return items
    except BusyError:
        return []


def _of_encoding(cache: CacheFolder, paths: EncodingPaths) -> Iterator[Leftover]:
    if not cache.paths.run(paths.folder.name).folder.is_dir():
        yield _leftover(paths.folder, "features of a run that is gone")
        return
    yield from (_leftover(path, "half-written") for path in _files(paths.folder) if is_abandoned(path))


def _collect_run(folder: Path) -> list[Leftover]:
    items = list(_of_run(folder))
    if not items or not folder.is_dir() or folder.name.startswith(TRASH):
        return _deleted(items)
    try:
        with hold_lock(RunPaths(folder).lock, what=f"the run in {folder.name[:SHORT_ID]}"):
            return _deleted(list(_of_run(folder)))  # seen again: before we had the lock a compaction may have ended
    except BusyError:
        return []


def _deleted(items: list[Leftover]) -> list[Leftover]:
    for item in items:
        _delete(item.path)
    return items


def _run_folders(cache: CacheFolder) -> list[Path]:
    return sorted(cache.paths.runs.iterdir()) if cache.paths.runs.is_dir() else []


def _of_run(folder: Path) -> Iterator[Leftover]:
    if folder.name.startswith(TRASH):
        yield _leftover(folder, "a run that was being removed")
    elif not (folder / "run.json").exists():
        if not RunPaths(folder).has_records():  # else its document was lost: `status` names it
            yield _leftover(folder, "a run that never began")
    else:
        with suppress(DamagedError):  # a run that does not say which generation is in force keeps all it has
            yield from _in_run(RunPaths(folder))


def _beside_runs(cache: CacheFolder) -> Iterator[Leftover]:
    for folder in (cache.paths.vectors, cache.paths.annotations, cache.paths.sweeps, cache.paths.models):
        yield from (_leftover(p, "half-written") for p in _files(folder) if is_abandoned(p))


def _in_run(paths: RunPaths) -> Iterator[Leftover]:
    """Of each old generation the records come first: a record without its files would be taken for a shard."""
    current = current_generation(paths)
    found = {p.name for where in (paths.folder, paths.folder / "shards") for p in where.glob("g[0-9]*") if p.is_dir()}
    for name in sorted(found - {current}):
        if paths.shards(name).is_dir():
            yield _leftover(paths.shards(name), f"records of {name}")
        if paths.generation(name).is_dir():
            yield _leftover(paths.generation(name), f"not the current generation ({current})")
    for path in _files(paths.folder):
        if path.relative_to(paths.folder).parts[0] in (current, "rows", "samples", "shards") and is_abandoned(path):
            yield _leftover(path, "half-written")


def _leftover(path: Path, reason: str) -> Leftover:
    return Leftover(path=path, n_bytes=_size(path), reason=reason)


def _files(folder: Path) -> Iterator[Path]:
    for base, _, names in os.walk(folder):
        yield from (Path(base) / name for name in names)


def _size(path: Path) -> int:
    return sum(f.stat().st_size for f in _files(path)) if path.is_dir() else path.stat().st_size


def _delete(path: Path) -> None:
    if path.is_dir():
        remove(path / "zarr.json")  # of a generation first: while it is there, a compaction takes the rest for whole
        fsync_folder(path)
        remove_folder(path)
    elif is_unfinished(path.name):
        remove_abandoned(path)
    else:
        remove(path)
