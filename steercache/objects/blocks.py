"""Bringing blocks of objects: those that are kept here are compared with their checksums, the others come by range requests."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import google_crc32c
import numpy as np

from steercache.core.errors import DamagedError
from steercache.core.layout import FileRecord
from steercache.objects.interface import ObjectChangedError, ObjectInfo, ObjectStore, Sums
from steercache.objects.limit import BlockLimit
from steercache.objects.segments import PER_SEGMENT, Segments, intact, key_of, read_sums, sums_of, write_blocks
from steercache.store.elsewhere import BLOCK_BYTES, SEGMENT_BYTES, Blocks, WantedBlocks

REQUEST_BYTES: Final = 4 * 2**20  # at most, of one request
GAP_BYTES: Final = 128 * 1024  # read along rather than asked around: a request costs more
REQUESTS_AT_ONCE: Final = 32
TRUSTED_S: Final = 300.0  # that a tag counts before it is asked for again
_VERIFY = "steercache cache verify"


@dataclass(frozen=True, slots=True)
class _Request:
    """Blocks that follow each other, of one wanted file."""

    wanted: WantedBlocks
    first: int
    n_blocks: int


class _Object:
    """What this process knows of one object."""

    def __init__(self, path: str, key: str, expected: ObjectInfo) -> None:
        self.path, self.key, self.expected = path, key, expected
        self.tag: str | None = None
        self.lock = threading.Lock()

    @property
    def tag_key(self) -> str:
        return key_of(self.tag)


class BlockReader:
    """A `store.elsewhere.Elsewhere` over the objects below one folder of a store.

    An object is known by its path, size and checksum of the record, and by the tag that the store gave it: blocks of another
    tag are never given out. An object that was replaced since blocks of it were kept is refused, unless a checksum put beside
    it says that it is the one of the record.
    """

    def __init__(
        self,
        store: ObjectStore,
        folder: str,
        segments: Segments,
        limit: BlockLimit,
        *,
        sha256_of: Callable[[str], str | None] = lambda path: None,
    ) -> None:
        self._store, self._folder, self._segments, self._limit = store, folder, segments, limit
        self._sha256_of = sha256_of
        self._objects: dict[str, _Object] = {}
        self._epoch, self._removals, self._since = 0, limit.n_removals, time.monotonic()
        self._lock = threading.Lock()

    @property
    def most_bytes(self) -> int:
        """To ask for at once."""
        return self._limit.at_once

    def epoch(self) -> int:
        """Changes when copies were removed, and when tags are to be asked for again."""
        if self._limit.n_removals != self._removals or time.monotonic() - self._since > TRUSTED_S:
            with self._lock:
                if time.monotonic() - self._since > TRUSTED_S:
                    self._objects, self._since = {}, time.monotonic()
                    self._epoch += 1
                if self._limit.n_removals != self._removals:
                    self._removals = self._limit.n_removals
                    self._epoch += 1
        return self._epoch

    def touch(self, record: FileRecord, segments: Sequence[int]) -> None:
        """Note that segments were read again."""
        known = self._object(record)
        for segment in segments if known.tag is not None else ():
            try:
                os.utime(self._segments.path(known.key, known.tag_key, segment))
            except FileNotFoundError:
                continue

    def bring(self, wanted: Sequence[WantedBlocks]) -> None:
        """As `Elsewhere.bring`."""
        try:
            self._bring(wanted)
        except ObjectChangedError:  # since its tag was asked for: one that confirms its checksum is read again
            with self._lock:
                self._objects = {}
            try:
                self._bring(wanted)
            except ObjectChangedError as error:
                raise DamagedError(
                    "it was replaced while it was read", place=self._place(str(error)), hint=_VERIFY
                ) from None

    def accept(self, record: FileRecord, tag: str) -> None:
        """Note that the object of this tag was read whole and is the one of its record: what is kept of others goes."""
        known = self._object(record)
        self._segments.forget(known.key, but=key_of(tag))
        with self._lock:
            self._objects.pop(known.path, None)

    def _bring(self, wanted: Sequence[WantedBlocks]) -> None:
        known = [self._object(one.record) for one in wanted]
        unknown = {o.path: o for o in known if o.tag is None and self._segments.tags(o.key)}
        _side_by_side(self._ask_for_tag, unknown.values())
        requests: list[_Request] = []
        for one, of in zip(wanted, known, strict=True):
            blocks = one.blocks if of.tag is None else self._not_kept(one, of)
            requests += _requests(one, blocks)
        if requests:
            self._limit.note(sum(request.n_blocks for request in requests) * BLOCK_BYTES)
            _side_by_side(self._fetch, requests)

    def _object(self, record: FileRecord) -> _Object:
        path = f"{self._folder}/{record.path}"
        found = self._objects.get(path)
        if found is None or found.expected.sums.crc32c != record.crc32c:
            sums = Sums(crc32c=record.crc32c, sha256=self._sha256_of(path))
            expected = ObjectInfo(n_bytes=record.n_bytes, tag="", sums=sums)
            key = key_of(self._store.name, path, record.n_bytes, record.crc32c)
            found = _Object(path, key, expected)
            with self._lock:
                self._objects[path] = found
        return found

    def _ask_for_tag(self, known: _Object) -> None:
        info = self._store.head(known.path)
        if info is None:
            message = "the file of a committed shard is missing"
            raise DamagedError(message, place=self._place(known.path), hint=_VERIFY)
        self._meet(known, info)

    def _meet(self, known: _Object, info: ObjectInfo) -> None:
        """Take the tag of an object that was seen, if it is the one of the record, and the one that was seen before."""
        with known.lock:
            if known.tag == info.tag:
                return
            if known.tag is not None:
                raise ObjectChangedError(known.path)
            if info.n_bytes != known.expected.n_bytes:
                message = f"{info.n_bytes} bytes, but {known.expected.n_bytes} were committed"
                raise DamagedError(message, place=self._place(known.path), hint=_VERIFY)
            if info.sums.contradicts(known.expected.sums):
                message = "its checksum is not that of its record"
                raise DamagedError(message, place=self._place(known.path), hint=_VERIFY)
            others = self._segments.tags(known.key) - {key_of(info.tag)}
            if others and not info.sums.confirms(known.expected.sums):
                message = "it was replaced since parts of it were read, and nothing says by what"
                raise DamagedError(message, place=self._place(known.path), hint=_VERIFY)
            known.tag = info.tag

    def _not_kept(self, wanted: WantedBlocks, known: _Object) -> Blocks:
        """Blocks that are not here; the segments of those that are have been placed."""
        missing = []
        for segment in np.unique(wanted.blocks // PER_SEGMENT).tolist():
            blocks = wanted.blocks[wanted.blocks // PER_SEGMENT == segment]
            fd = self._segments.open(known.key, known.tag_key, segment)
            if fd is None:
                missing.append(blocks)
                continue
            try:
                n_bytes = wanted.record.n_bytes - segment * SEGMENT_BYTES
                good = intact(fd, blocks - segment * PER_SEGMENT, read_sums(fd), n_bytes=n_bytes)
                if good.any():
                    wanted.place(segment, fd)
                    os.utime(fd)
                missing.append(blocks[~good])
            finally:
                os.close(fd)
        return np.concatenate(missing) if missing else wanted.blocks[:0]

    def _fetch(self, request: _Request) -> None:
        wanted, known = request.wanted, self._object(request.wanted.record)
        start = request.first * BLOCK_BYTES
        n_bytes = min(request.n_blocks * BLOCK_BYTES, wanted.record.n_bytes - start)
        found = self._store.get_range(known.path, start, n_bytes, tag=known.tag)
        self._meet(known, found.info)
        view = memoryview(found.data).cast("B")
        self._compare_chunks(wanted, start, view)
        sums, at = sums_of(view), 0
        while at < request.n_blocks:
            segment, first = divmod(request.first + at, PER_SEGMENT)
            n = min(PER_SEGMENT - first, request.n_blocks - at)
            fd = self._segments.open(known.key, known.tag_key, segment, make=True)
            assert fd is not None  # it was made
            try:
                path = self._segments.path(known.key, known.tag_key, segment)
                write_blocks(fd, path, first, view[at * BLOCK_BYTES : (at + n) * BLOCK_BYTES], sums[at : at + n])
                wanted.place(segment, fd)
            finally:
                os.close(fd)
            at += n

    def _compare_chunks(self, wanted: WantedBlocks, start: int, view: memoryview) -> None:
        """Compare chunks that came whole with the checksums of the record."""
        length = wanted.chunk_bytes
        if not length:
            return
        first, end = -(-start // length), min((start + len(view)) // length, len(wanted.record.chunk_crc32c))
        for chunk in range(first, end):
            at = chunk * length - start
            if google_crc32c.value(bytes(view[at : at + length])) != wanted.record.chunk_crc32c[chunk]:
                message = f"its bytes from {chunk * length} to {(chunk + 1) * length} are not those that were committed"
                raise DamagedError(message, place=self._place(f"{self._folder}/{wanted.record.path}"), hint=_VERIFY)

    def _place(self, path: str) -> str:
        return f"{self._store.name}/{path}"


def _requests(wanted: WantedBlocks, blocks: Blocks) -> list[_Request]:
    """Blocks as few requests: over small gaps, up to the largest size."""
    found: list[_Request] = []
    gap, most = GAP_BYTES // BLOCK_BYTES, REQUEST_BYTES // BLOCK_BYTES
    if not len(blocks):
        return found
    cuts = np.flatnonzero(np.diff(blocks) > gap + 1) + 1
    for part in np.split(blocks, cuts):
        first, end = int(part[0]), int(part[-1]) + 1
        found += [_Request(wanted, at, min(most, end - at)) for at in range(first, end, most)]
    return found


_pool: ThreadPoolExecutor | None = None
_pool_pid = 0
_pool_lock = threading.Lock()


def _side_by_side(work: Callable[[Any], None], items: Iterable[Any]) -> None:
    """Do something for each item, several at once; the first error is raised when all have ended."""
    listed = list(items)
    if len(listed) < 2:
        for item in listed:
            work(item)
        return
    futures = [requests_pool().submit(work, item) for item in listed]
    errors = [future.exception() for future in futures]
    for error in errors:
        if error is not None:
            raise error


def requests_pool() -> ThreadPoolExecutor:
    """The threads that wait for answers; of this process: a forked child has its parent's pool, without threads."""
    global _pool, _pool_pid
    with _pool_lock:
        if _pool is None or _pool_pid != os.getpid():
            _pool = ThreadPoolExecutor(REQUESTS_AT_ONCE, thread_name_prefix="steercache-request")
            _pool_pid = os.getpid()
        return _pool
