"""What `stat` says of the files that the index is made from: nothing is opened, and no change is missed.

A state is a digest of names, sizes and times of change. The time of the inode's change is among them, which no copying sets
back. A file system's clock ticks every few milliseconds, so that two writes within a tick look alike: what changed within
`SETTLE_NS` of being looked at is unsettled, and is looked at again (as git does with files that are as new as its index).
"""

import hashlib
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from steercache.cache.paths import RootPaths, RunPaths
from steercache.cache.sweep_files import CHOICES, MANIFEST, SEARCHES

SETTLE_NS: Final = 20_000_000  # longer than a tick of any kernel's clock (10 ms at 100 Hz)
UNSETTLED: Final = -1  # no file has this state, and it equals no other, itself included
VECTORS, ANNOTATIONS = "vectors", "annotations"
Stamp = tuple[int, int, int]  # time of the last write, of the inode's last change (both ns), bytes


@dataclass(frozen=True, slots=True)
class FileStates:
    """State of every run, sweep and folder by path relative to the root, and those among them that may still be changing."""

    of: Mapping[str, int]
    unsettled: frozenset[str] = field(default=frozenset())

    @property
    def settled(self) -> dict[str, int]:
        """What may be remembered: an unsettled state equals none that is found later."""
        return {path: UNSETTLED if path in self.unsettled else state for path, state in self.of.items()}


def states_of(paths: RootPaths) -> FileStates:
    """The states at this moment: a `stat` per record of a shard, vector, part of answers and file of labels."""
    now, found, unsettled = time.time_ns(), {}, set()
    for unit, stamps in _units(paths):
        found[unit] = _digest(stamps)
        if _may_change(stamps, now):
            unsettled.add(unit)
    return FileStates(found, frozenset(unsettled))


def settled_states(paths: RootPaths) -> FileStates:
    """The same, after waiting for a clock's tick where something has just changed."""
    states = states_of(paths)
    if states.unsettled:
        time.sleep(SETTLE_NS / 1e9)
        states = states_of(paths)
    return states


def vector_states(paths: RootPaths) -> dict[str, int]:
    """State of every vector's file, by path relative to the root; `UNSETTLED` where it may still be changing."""
    now, files = time.time_ns(), _files(paths.vectors, ".safetensors")
    return {f"{VECTORS}/{name}": _settled_digest({"": stamp}, now) for name, stamp in files.items()}


def labels_state(files: Iterable[Path]) -> int:
    """State of the files of labels that a run's samples are joined with; `UNSETTLED` where they may still be changing."""
    now = time.time_ns()
    return _settled_digest({f"{path.parent.name}/{path.name}": _stamp(path.stat()) for path in files}, now)


def _units(paths: RootPaths) -> Iterable[tuple[str, dict[str, Stamp]]]:
    for run in paths.run_folders():
        yield f"runs/{run.folder.name}", _of_run(run)
    yield ANNOTATIONS, _of_annotations(paths.annotations)
    yield VECTORS, _files(paths.vectors, ".safetensors")
    for sweep in paths.sweep_folders():
        parts = {f"answers/{name}": stamp for name, stamp in _files(sweep / "answers", ".parquet").items()}
        yield f"sweeps/{sweep.name}", _named(sweep, (MANIFEST, SEARCHES, CHOICES)) | parts


def _of_run(run: RunPaths) -> dict[str, Stamp]:
    found = _named(run.folder, (run.document.name, run.current.name))
    for entry in _entries(run.folder):
        if entry.name.startswith("g") and entry.is_dir():
            found[entry.name] = (0, 0, 0)  # that it is there, not what is written into it
    for generation in _entries(run.folder / "shards"):
        records = _files(Path(generation.path), ".json")
        found |= {f"{generation.name}/{name}": stamp for name, stamp in records.items()}
    return found


def _of_annotations(folder: Path) -> dict[str, Stamp]:
    return {
        f"{dataset.name}/{name}": stamp
        for dataset in _entries(folder)
        for name, stamp in _files(Path(dataset.path), ".parquet").items()
    }


def _named(folder: Path, names: Iterable[str]) -> dict[str, Stamp]:
    found = {}
    for name in names:
        try:
            found[name] = _stamp((folder / name).stat())
        except FileNotFoundError:
            continue
    return found


def _files(folder: Path, ending: str) -> dict[str, Stamp]:
    """Stamps of a folder's files by name; a file under construction has another ending."""
    found = {}
    for entry in _entries(folder):
        if entry.name.endswith(ending):
            try:
                found[entry.name] = _stamp(entry.stat())
            except FileNotFoundError:
                continue
    return found


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _stamp(stat: os.stat_result) -> Stamp:
    return stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size


def _may_change(stamps: Mapping[str, Stamp], now: int) -> bool:
    """Whether another write could still leave the same stamps."""
    return any(abs(now - changed) < SETTLE_NS for _, changed, _ in stamps.values())


def _settled_digest(stamps: Mapping[str, Stamp], now: int) -> int:
    return UNSETTLED if _may_change(stamps, now) else _digest(stamps)


def _digest(stamps: Mapping[str, Stamp]) -> int:
    """63 bits, so that it fits a BIGINT and is never `UNSETTLED`."""
    text = repr(sorted(stamps.items())).encode(errors="surrogateescape")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1
