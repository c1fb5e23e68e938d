"""Take things out of a cache: a whole run, a run's damaged shards, and what nothing refers to."""

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from steercache.cache.catch_up import catch_up
from steercache.cache.handle import Cache
from steercache.cache.lock import hold_lock
from steercache.cache.paths import RunPaths
from steercache.cache.source import committed_shards, current_generation
from steercache.core.errors import BusyError, DamagedError
from steercache.store.durable import is_temporary
from steercache.store.generation import set_complete
from steercache.store.verify import verify_file

TRASH = ".trash-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """A file or folder that nothing refers to."""

    path: Path
    n_bytes: int
    reason: str


def remove_run(cache: Cache, run_id: str) -> int:
    """Remove a run and its rows of the index; returns the bytes freed. Vectors fitted from it stay, with their provenance.

    Raises:
        BusyError: it is being built, compacted or collected.
    """
    paths, document = cache.run_paths(run_id), cache.run_document(run_id)
    with hold_lock(paths.lock, what=f"the run {document.name!r}"):
        trash = paths.folder.with_name(f"{TRASH}{run_id}")
        paths.folder.rename(trash)  # from here on the run is gone; what follows only frees space
        catch_up(cache.paths, wait_s=cache.index.wait_s)
        n_bytes = _size(trash)
        shutil.rmtree(trash)
    return n_bytes


def remove_damaged_shards(cache: Cache, run_id: str) -> list[int]:
    """Un-commit the shards whose files do not match their records, so that a build makes them again; returns their numbers."""
    paths, document = cache.run_paths(run_id), cache.run_document(run_id)
    with hold_lock(paths.lock, what=f"the run {document.name!r}"):
        generation = current_generation(paths)
        damaged = [
            record.shard_idx
            for record in committed_shards(paths, generation)
            if any(verify_file(paths.folder, file) for file in record.files)
        ]
        if damaged:
            set_complete(paths.generation(generation), False)
        for shard_idx in damaged:
            paths.shard(generation, shard_idx).unlink()
        catch_up(cache.paths, wait_s=cache.index.wait_s)
    return damaged


def leftovers(cache: Cache) -> Iterator[Leftover]:
    """What `gc` would remove: half-written files, generations no longer in force, runs that were being removed or begun."""
    if not cache.paths.runs.is_dir():
        return
    for folder in sorted(cache.paths.runs.iterdir()):
        if folder.name.startswith(TRASH):
            yield _leftover(folder, "a run that was being removed")
        elif not (folder / "run.json").exists():
            yield _leftover(folder, "a run that never began")
        else:
            with suppress(DamagedError):  # a run that does not say which generation is in force keeps all it has
                yield from _in_run(RunPaths(folder))
    for folder in (cache.paths.vectors, cache.paths.annotations, cache.paths.sweeps, cache.paths.models):
        yield from (_leftover(p, "half-written") for p in _files(folder) if is_temporary(p.name))


def collect(cache: Cache) -> list[Leftover]:
    """Remove what `leftovers` names, run by run under its lock; a run that is held is left alone."""
    removed = []
    for item in list(leftovers(cache)):
        run = _run_of(cache, item.path)
        if run is None:
            _delete(item.path)
        else:
            try:
                with hold_lock(run.lock, what=f"the run in {run.folder.name[:12]}"):
                    _delete(item.path)
            except BusyError:
                continue
        removed.append(item)
    return removed


def _in_run(paths: RunPaths) -> Iterator[Leftover]:
    current = current_generation(paths)
    for folder in sorted(p for p in paths.folder.glob("g[0-9]*") if p.is_dir() and p.name != current):
        yield _leftover(folder, f"not the current generation ({current})")
        if paths.shards(folder.name).is_dir():
            yield _leftover(paths.shards(folder.name), f"records of {folder.name}")
    for path in _files(paths.folder):
        if is_temporary(path.name) and path.relative_to(paths.folder).parts[0] in (
            current,
            "rows",
            "samples",
            "shards",
        ):
            yield _leftover(path, "half-written")


def _run_of(cache: Cache, path: Path) -> RunPaths | None:
    """The run whose lock guards `path`; a run that is just being begun has no document yet, but holds its lock."""
    if not path.is_relative_to(cache.paths.runs):
        return None
    folder = cache.paths.runs / path.relative_to(cache.paths.runs).parts[0]
    return RunPaths(folder) if folder.is_dir() and not folder.name.startswith(TRASH) else None


def _leftover(path: Path, reason: str) -> Leftover:
    return Leftover(path=path, n_bytes=_size(path), reason=reason)


def _files(folder: Path) -> Iterator[Path]:
    for base, _, names in os.walk(folder):
        yield from (Path(base) / name for name in names)


def _size(path: Path) -> int:
    return sum(f.stat().st_size for f in _files(path)) if path.is_dir() else path.stat().st_size


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
