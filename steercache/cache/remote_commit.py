"""Committing runs to an object store: data, coordinates, tables, and from its record on a shard exists.

No object is renamed, and no listing is looked at. A shard's objects have planned names, and whoever traces it under the run's
numerics writes the same bytes, so that a second attempt, or one that was only slow, changes nothing. Records, `run.json` and
`CURRENT` are put where there is none, and replaced only where they are still those that were read, by whoever holds the lease.
"""

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from steercache.cache.documents import RunDocument
from steercache.cache.paths import FIRST_GENERATION, RunPaths
from steercache.core.errors import BusyError, NotFoundError
from steercache.core.layout import FileRecord, ShardRecord
from steercache.objects.interface import ObjectChangedError, ObjectStore, Sums
from steercache.objects.lease import Fence
from steercache.store.metadata import document_bytes

MOST_RECORD: Final = 64 * 2**20
MOST_DOCUMENT: Final = 2**30  # of `run.json`, which names every shard
MOST_TRIES: Final = 20
SMALL: Final = 4 * 2**20  # bytes up to which a file is sent again rather than asked for
AT_ONCE: Final = 8  # small files on their way


def run_key(run_id: str, path: str = "") -> str:
    """The key of a file of a run, by its path inside the run's folder."""
    return f"runs/{run_id}/{path}".rstrip("/")


def lease_key(run_id: str) -> str:
    """The key of the lease that a run's coordinator holds."""
    return run_key(run_id, "LEASE")


def record_key(run_id: str, shard_idx: int) -> str:
    """The key of the record that commits a shard."""
    return run_key(run_id, f"shards/{FIRST_GENERATION}/{shard_idx:05d}.json")


def commit_shard(store: ObjectStore, paths: RunPaths, record: ShardRecord, fence: Fence) -> None:
    """Send a shard that lies complete in the folder `paths`; does nothing where it is committed already.

    Raises:
        BusyError: another coordinator has taken the run, or others write the record all the time. UsageError: the store
            refuses, or does not answer.
    """
    key = record_key(paths.folder.name, record.shard_idx)
    fence.check(store)
    if store.head(key) is not None:
        return
    data = paths.shard(FIRST_GENERATION, record.shard_idx).read_bytes()
    _send(store, paths, record)
    fence.check(store)
    if store.put_new(key, data, sums=Sums()) is None:
        _replace_record(store, paths, record, fence, data)


def _replace_record(store: ObjectStore, paths: RunPaths, record: ShardRecord, fence: Fence, data: bytes) -> None:
    """Put this attempt's files and record in the place of another's, which computed other bits and was not this coordinator's.

    Only a run that was forced to go on under other numerics comes here: the coordinator before was taken for dead, and its
    worker was not.
    """
    key = record_key(paths.folder.name, record.shard_idx)
    for _ in range(MOST_TRIES):
        found = store.get(key, most=MOST_RECORD)
        fence.check(store)
        _send(store, paths, record)
        try:
            store.swap(key, data, tag=None if found is None else found.info.tag)
        except ObjectChangedError:
            continue
        return
    raise _others_write(store, key)


def _send(store: ObjectStore, paths: RunPaths, record: ShardRecord) -> None:
    """Put the files of a shard: large ones in turn, each in parts at once, then the small ones side by side."""
    large = [file for file in record.files if file.n_bytes > SMALL]
    for file in large:
        _send_file(store, paths, file)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        small = [file for file in record.files if file.n_bytes <= SMALL]
        for _ in pool.map(lambda file: _send_file(store, paths, file), small):
            pass


def _send_file(store: ObjectStore, paths: RunPaths, file: FileRecord) -> None:
    """Put a file; a large one that an earlier attempt has put whole is left."""
    key, sums = run_key(paths.folder.name, file.path), Sums(crc32c=file.crc32c)
    if file.n_bytes > SMALL:
        there = store.head(key)
        if there is not None and there.n_bytes == file.n_bytes and there.sums.confirms(sums):
            return
    store.put(key, paths.folder / file.path, sums=sums)


def change_document(
    store: ObjectStore, key: str, change: Callable[[dict[str, Any]], Mapping[str, Any]], *, check: Callable[[], None]
) -> None:
    """Change a JSON document, in the place of the one that was read; `check` raises where the run is no longer ours.

    It is called between reading and writing: what a later holder writes makes this write fail.

    Raises:
        NotFoundError: there is none. BusyError: others write it all the time.
    """
    for _ in range(MOST_TRIES):
        found = store.get(key, most=MOST_DOCUMENT)
        if found is None:
            raise NotFoundError("not there", place=f"{store.name}/{key}", hint="build the run again")
        before = json.loads(bytes(found.data))
        after = change(before)
        if after == before:
            return
        check()
        try:
            store.swap(key, document_bytes(after), tag=found.info.tag)
        except ObjectChangedError:
            continue
        return
    check()
    raise _others_write(store, key)


def _others_write(store: ObjectStore, key: str) -> BusyError:
    return BusyError("others write it all the time", place=f"{store.name}/{key}", hint="call it again")


def check_that_the_run_is_there(store: ObjectStore, document: RunDocument) -> None:
    """Raises NotFoundError where this process does not see the run that it is to write."""
    key = run_key(document.run_id, "run.json")
    if store.head(key) is None:
        raise NotFoundError(
            "this process does not see the run that it is to write",
            place=f"{store.name}/{key}",
            hint="give it the same environment as the coordinator: endpoint, region, credentials",
        )
