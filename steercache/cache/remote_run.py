"""Begin, resume and finish a run that lies in an object store: under a lease, with the store's documents as the truth.

What this machine keeps of the run is a mirror of its documents, read from the store before and after, and never ahead of it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from steercache.cache.commit import RunWriter, begin_run, first_attributes, resumable
from steercache.cache.documents import (
    PlannedShard,
    RunDocument,
    parse_run_document,
    parse_shard_record,
    run_document_bytes,
)
from steercache.cache.handle import CacheFolder
from steercache.cache.paths import FIRST_GENERATION
from steercache.cache.remote import RemoteRoot
from steercache.cache.remote_commit import MOST_DOCUMENT, MOST_RECORD, change_document, lease_key, record_key, run_key
from steercache.cache.shard_places import StoredPlace
from steercache.cache.source import StoredRecords, current_generation
from steercache.core.errors import BusyError, NotFoundError, UsageError
from steercache.core.layout import ShardRecord
from steercache.objects.catalogue import add_items, read_catalogue
from steercache.objects.interface import ObjectChangedError, ObjectStore, Sums
from steercache.objects.lease import Lease, hold_lease
from steercache.objects.listing import Item
from steercache.store.checksum import crc32c
from steercache.store.generation import generation_files
from steercache.store.metadata import document_bytes, group_document


class RemoteRunWriter:
    """A run in an object store that is being filled; made by `begin_remote_run`, which holds its lease."""

    def __init__(self, remote: RemoteRoot, lease: Lease, mirrored: RunWriter) -> None:
        self._remote, self._lease, self._mirrored = remote, lease, mirrored
        self.cache, self.document, self.paths = mirrored.cache, mirrored.document, mirrored.paths
        self.place = StoredPlace(remote.address.text, lease.fence, remote.store)

    def pending(self) -> list[PlannedShard]:
        """Shards without a record, in order. Raises DamagedError where a record cannot be read."""
        return self._mirrored.pending()

    def record_of(self, shard_idx: int) -> ShardRecord:
        """The record of a shard that this build has traced. Raises BusyError where the lease was lost."""
        key = record_key(self.document.run_id, shard_idx)
        found = self._remote.store.get(key, most=MOST_RECORD)
        if found is None:
            raise NotFoundError("the record is not there", place=f"{self._remote.store.name}/{key}", hint="build again")
        return parse_shard_record(bytes(found.data), f"{self._remote.store.name}/{key}")

    def tell_index(self, shard_idx: int) -> None:
        """The index of this machine follows at the end, and whoever reads before brings its own up to date."""

    def records(self) -> StoredRecords:
        """Records of the shards that were committed when the mirror was last brought up to date."""
        return self._mirrored.records()

    def finish(self) -> str | None:
        """Mark the run complete when nothing is pending, and bring mirror and index up to date; returns who holds the index."""
        run_id = self.document.run_id
        self._remote.refresh()
        if self._mirrored.is_complete():
            key = run_key(run_id, f"{FIRST_GENERATION}/zarr.json")
            change_document(self._remote.store, key, _completed, check=self._lease.check)
            self._remote.refresh()
        return self._mirrored.finish()


@contextmanager
def begin_remote_run(
    cache: CacheFolder, remote: RemoteRoot, document: RunDocument, *, force: bool = False
) -> Iterator[RemoteRunWriter]:
    """Begin a run in an object store, or resume it; holds its lease for the length of the block.

    Raises:
        BusyError: another coordinator holds it, on whatever machine. UsageError: as `begin_run`, or the store refuses.
    """
    store, run_id, paths = remote.store, document.run_id, cache.run_paths(document.run_id)
    with hold_lease(store, lease_key(run_id), what=f"the run {document.name!r}") as lease:
        _put_labels(cache, remote, document)
        begun = _stored_document(store, run_id)
        if begun is not None:
            _put_in_catalogue(store, begun)  # whoever began it may have been killed before
            remote.refresh()
        kept = document if begun is None else resumable(begun, document, paths, force=force)
        if begun is None or not paths.current.exists():
            _put_first_generation(store, kept)
        if kept is not begun:
            _put_run_document(store, lease, kept)
            _put_in_catalogue(store, kept)
        remote.refresh()
        with begin_run(cache, kept, force=force) as mirrored:
            writer = RemoteRunWriter(remote, lease, mirrored)
            if current_generation(paths) != FIRST_GENERATION and writer.pending():
                raise UsageError(
                    "this run was compacted before it was complete",
                    place=remote.address.text,
                    hint="pull it, build it to its end there, and push it",
                )
            yield writer


def _stored_document(store: ObjectStore, run_id: str) -> RunDocument | None:
    key = run_key(run_id, "run.json")
    found = store.get(key, most=MOST_DOCUMENT)
    return None if found is None else parse_run_document(bytes(found.data), f"{store.name}/{key}")


def _put_first_generation(store: ObjectStore, document: RunDocument) -> None:
    """What a run has before its first shard and before `run.json`, from which on it exists."""
    group = group_document(document.layout, "raw", first_attributes(document))
    files = {f"{FIRST_GENERATION}/{name}": data for name, data in generation_files(document.layout, "raw").items()}
    files |= {f"{FIRST_GENERATION}/zarr.json": document_bytes(group), "CURRENT": f"{FIRST_GENERATION}\n".encode()}
    for name, data in files.items():
        store.put_new(run_key(document.run_id, name), data)


def _put_in_catalogue(store: ObjectStore, document: RunDocument) -> None:
    """A run that was pushed whole is listed with its files, and stays so."""
    known = read_catalogue(store)
    if known is not None and any((i.kind, i.id) == ("run", document.run_id) for i in known.listing.items):
        return
    about: dict[str, str | int] = {
        "model": document.model.name,
        "data": ", ".join(d.dataset for d in document.datasets),
        "sites": ", ".join(f"{s.site} x {len(s.layers)}" for s in document.layout.sites),
        "dtype": document.layout.dtype,
        "samples": document.n_samples,
        "rows": document.n_rows,
    }
    run = Item(kind="run", id=document.run_id, name=document.name, about=about, files=(), by_records=True)
    add_items(store, [run])


def _put_labels(cache: CacheFolder, remote: RemoteRoot, document: RunDocument) -> None:
    """Send the labels that the plan has kept or mended on this machine."""
    for part in document.datasets:
        path = cache.paths.annotation(part.dataset, part.inputs_digest)
        if not path.exists():
            continue
        key, data = path.relative_to(cache.root).as_posix(), path.read_bytes()
        there = remote.store.get(key, most=MOST_DOCUMENT)
        if there is None or bytes(there.data) != data:
            remote.store.put(key, data, sums=Sums(crc32c=crc32c(data)))


def _put_run_document(store: ObjectStore, lease: Lease, kept: RunDocument) -> None:
    key = run_key(kept.run_id, "run.json")
    found = store.get(key, most=MOST_DOCUMENT)
    lease.check()
    try:
        store.swap(key, run_document_bytes(kept), tag=None if found is None else found.info.tag)
    except ObjectChangedError as error:
        place = f"{store.name}/{key}"
        raise BusyError("another process has begun the run this moment", place=place, hint="call it again") from error


def _completed(document: dict[str, Any]) -> dict[str, Any]:
    return {**document, "attributes": {**document["attributes"], "complete": True}}
