"""Pull runs out of a cache that is elsewhere: whole ones by the records of their shards, or some layers as parts."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import google_crc32c

from steercache.cache.documents import RunDocument
from steercache.cache.handle import CacheFolder
from steercache.cache.lock import hold_lock
from steercache.cache.paths import RunPaths
from steercache.cache.remote import RemoteRoot
from steercache.cache.source import committed_shards, current_generation
from steercache.core.errors import DamagedError, UsageError
from steercache.core.layout import ITEM_BYTES, FileRecord
from steercache.objects.listing import Item
from steercache.store.durable import disk_errors, fsync_folder, make_folder, write_file_atomically
from steercache.store.generation import generation_files, read_generation

OnBytes = Callable[[int], None]


def n_bytes_of(cache: CacheFolder, run_id: str) -> int:
    """Bytes of a run's committed files."""
    paths = cache.run_paths(run_id)
    return sum(record.n_bytes for record in committed_shards(paths, current_generation(paths)))


def n_bytes_of_layers(document: RunDocument, layers: Sequence[int]) -> int:
    """Bytes of some layers of all rows of a run."""
    layout = document.layout
    wide = sum(site.width * sum(layer in layers for layer in site.layers) for site in layout.sites)
    return document.n_rows * wide * ITEM_BYTES[layout.dtype]


def is_own(target: CacheFolder, source: CacheFolder, run_id: str) -> bool:
    """Whether the target has a run of this id that did not come from the source."""
    mine, theirs = target.run_paths(run_id).document, source.run_paths(run_id).document
    return mine.exists() and mine.read_bytes() != theirs.read_bytes()


def pull_run(source: CacheFolder, run_id: str, target: CacheFolder, *, on_bytes: OnBytes) -> int:
    """Copy a complete run out of a mirrored cache, array files included; returns the number of files received.

    Killed, the same call goes on. Every file gets its name after its size and checksum were found to be those of its record.

    Raises:
        UsageError: the run is not complete. DamagedError: a file is not the one of its record. BusyError: another process works
            on the run.
    """
    remote, document = source.remote, source.run_document(run_id)
    if remote is None:
        raise UsageError("not a cache that is elsewhere", place=str(source.root))
    here, there = target.run_paths(run_id), source.run_paths(run_id)
    generation = current_generation(there)
    records = committed_shards(there, generation)
    if len(records) < len(document.shards):
        raise UsageError(f"the run {document.name!r} is not complete", hint="pull it when it is; or some of its layers")
    n_files = 0
    with hold_lock(here.lock, what=f"the run {document.name!r}"):
        info = read_generation(there.generation(generation))
        inner = (*generation_files(info.layout, info.codec), "zarr.json")
        n_files += sum(_copy(there.generation(generation) / name, here.generation(generation) / name) for name in inner)
        for dataset in document.datasets:
            label = source.paths.annotation(dataset.dataset, dataset.inputs_digest)
            mine = target.paths.annotation(dataset.dataset, dataset.inputs_digest)
            if label.exists() and not mine.exists():  # labels may have been mended here
                n_files += _copy(label, mine)
        n_files += _copy(there.current, here.current) + _copy(there.document, here.document)
        for record in records:
            for file in record.files:
                n_files += _receive(remote, there, file, here, on_bytes)
            n_files += _copy(there.shard(generation, record.shard_idx), here.shard(generation, record.shard_idx))
    return n_files


def item_of(document: RunDocument) -> Item:
    """A run as an item of a listing, without its files."""
    return Item(kind="run", id=document.run_id, name=document.name, about={"model": document.model.name}, files=())


def _copy(source: Path, target: Path) -> int:
    data = source.read_bytes()
    if target.exists() and target.read_bytes() == data:
        return 0
    make_folder(target.parent)
    write_file_atomically(target, data)
    return 1


def _receive(remote: RemoteRoot, there: RunPaths, file: FileRecord, here: RunPaths, on_bytes: OnBytes) -> int:
    target, mirrored = here.folder / file.path, there.folder / file.path
    if target.exists() and target.stat().st_size == file.n_bytes and _crc32c(target) == file.crc32c:
        on_bytes(file.n_bytes)
        return 0
    if mirrored.exists():
        on_bytes(file.n_bytes)
        return _copy(mirrored, target)
    make_folder(target.parent)
    part = target.with_name(f".{target.name}.{file.crc32c:08x}.part")
    inside, size = f"runs/{here.folder.name}/{file.path}", part.stat().st_size if part.exists() else 0
    with disk_errors(part), part.open("ab") as out:
        on_bytes(min(size, file.n_bytes))
        if size < file.n_bytes:
            for piece in remote.store.pieces(inside, first=size):
                out.write(piece)
                on_bytes(len(piece))
        out.flush()
        os.fsync(out.fileno())
    if part.stat().st_size != file.n_bytes or _crc32c(part) != file.crc32c:
        part.unlink()
        place = f"{remote.address.text}/{inside}"
        raise DamagedError(
            "its checksum is not that of its record", place=place, hint="pull again; else verify it there"
        )
    part.replace(target)
    fsync_folder(target.parent)
    return 1


def _crc32c(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while piece := file.read(2**22):
            crc = google_crc32c.extend(crc, piece)
    return crc
