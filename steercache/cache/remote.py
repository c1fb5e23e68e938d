"""A root that is elsewhere: its mirror here, and the rows that are read from there."""

import hashlib
import os
import threading
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

import google_crc32c

from steercache.cache.clean import clean_vector, header_of, refuse_traces
from steercache.cache.mirror import refresh_mirror
from steercache.cache.paths import RunPaths
from steercache.core.errors import SteercacheWarning, UnreachableError, UsageError
from steercache.core.layout import FileRecord, ShardRecord
from steercache.core.vectors import SteeringVector
from steercache.objects.addresses import StoreAddress, parse_address
from steercache.objects.blocks import BlockReader
from steercache.objects.catalogue import add_items
from steercache.objects.interface import ObjectStore, Sums
from steercache.objects.limit import BlockLimit, used_bytes
from steercache.objects.listing import Item, ListedFile
from steercache.objects.mirrors import address_of
from steercache.objects.opening import open_store
from steercache.objects.segments import Segments
from steercache.store.durable import make_folder
from steercache.store.reader import GenerationReader

if TYPE_CHECKING:
    from steercache.cache.handle import CacheFolder

BLOCKS: Final = "blocks"
LIMIT_VARIABLE: Final = "STEERCACHE_READ_CACHE_GB"
READ_CACHE_GB: Final = 10.0
REFRESH_S: Final = 60.0  # that documents count before a query asks whether there are newer ones


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteStatus:
    """Where a root is, and what of it is here; sizes in bytes."""

    address: str
    n_bytes_read_cache: int
    most_bytes_read_cache: int


class RemoteRoot:
    """The place that a local folder mirrors."""

    def __init__(self, root: Path, address: StoreAddress, *, read_cache_bytes: int) -> None:
        self.root, self.address = root, address
        self.segments = Segments(root / BLOCKS)
        self.limit = BlockLimit(self.segments, read_cache_bytes)
        self._readers: dict[str, BlockReader] = {}
        self._asked_at = time.monotonic()
        self._lock = threading.Lock()

    @cached_property
    def store(self) -> ObjectStore:
        """The objects. Raises MissingExtraError."""
        return open_store(self.address)

    def status(self) -> RemoteStatus:
        """Where it is, and what of it is here."""
        return RemoteStatus(
            address=self.address.text,
            n_bytes_read_cache=used_bytes(self.segments.folder),
            most_bytes_read_cache=self.limit.most_bytes,
        )

    def refresh(self, *, create: bool = False) -> int:
        """Bring the mirror up to date; returns how many documents were received. Raises as `refresh_mirror`."""
        n_received = refresh_mirror(self.store, self.root, create=create)
        self._asked_at = time.monotonic()
        return n_received

    def refresh_now_and_then(self) -> None:
        """`refresh`, if the last one of this process is some time ago; where the store does not answer, the mirror serves."""
        if time.monotonic() - self._asked_at <= REFRESH_S:
            return
        self._asked_at = time.monotonic()
        try:
            self.refresh(create=True)
        except UnreachableError as error:
            message = f"{error.place}: {error.message}; answers are from what was mirrored before"
            warnings.warn(message, SteercacheWarning, stacklevel=3)

    def blocks(self, run_id: str) -> BlockReader:
        """What brings the rows of a run."""
        with self._lock:
            if run_id not in self._readers:
                make_folder(self.segments.folder)
                self._readers[run_id] = BlockReader(self.store, f"runs/{run_id}", self.segments, self.limit)
            return self._readers[run_id]

    def problems(self, run_id: str, record: FileRecord) -> list[str]:
        """What is wrong with an object of a run, which is read whole; one that is right is believed from then on."""
        path, crc, n_bytes = f"runs/{run_id}/{record.path}", 0, 0
        info = self.store.head(path)
        if info is None:
            return [f"{record.path}: the file of a committed shard is missing"]
        if info.n_bytes != record.n_bytes:
            return [f"{record.path}: {info.n_bytes} bytes, but {record.n_bytes} were committed"]
        for piece in self.store.pieces(path):
            crc, n_bytes = google_crc32c.extend(crc, piece), n_bytes + len(piece)
        if (crc, n_bytes) != (record.crc32c, record.n_bytes):
            return [f"{record.path}: the checksum differs"]
        self.blocks(run_id).accept(record, info.tag)
        return []


_known: dict[Path, RemoteRoot] = {}
_known_lock = threading.Lock()


def remote_of(root: Path) -> RemoteRoot | None:
    """What a folder mirrors; None for an ordinary root. Nothing is asked of the store."""
    text = address_of(root)
    if text is None:
        return None
    with _known_lock:
        place = root.absolute()
        found = _known.get(place)
        if found is None or found.address.text != text:
            found = _known[place] = RemoteRoot(place, parse_address(text), read_cache_bytes=_limit())
        return found


def set_read_cache(root: Path, n_bytes: int) -> None:
    """Let this process keep at most so many bytes of blocks of what `root` mirrors."""
    remote = remote_of(root)
    if remote is not None and remote.limit.most_bytes != n_bytes:
        with _known_lock:
            _known[root.absolute()] = RemoteRoot(root.absolute(), remote.address, read_cache_bytes=n_bytes)


def forget_remote(root: Path) -> None:
    """Forget what this process knows of a mirror that goes."""
    with _known_lock:
        _known.pop(root.absolute(), None)


def open_rows(
    paths: RunPaths, generation: str, records: Mapping[int, ShardRecord], *, side_by_side: bool = True
) -> GenerationReader:
    """The rows of a generation, wherever its arrays are."""
    remote = remote_of(paths.folder.parent.parent)
    elsewhere = None if remote is None else remote.blocks(paths.folder.name)
    return GenerationReader(paths.generation(generation), records, side_by_side=side_by_side, elsewhere=elsewhere)


def publish_vector(cache: "CacheFolder", path: Path, vector: SteeringVector) -> None:
    """Send a vector that was saved to where the cache is, and add it to the listing; nothing happens for an ordinary root.

    Raises:
        UsageError: the store refuses or does not answer; the vector is saved here.
    """
    remote = remote_of(cache.root)
    if remote is None:
        return
    inside = path.relative_to(cache.root).as_posix()
    data = clean_vector(path.read_bytes())
    refuse_traces(header_of(data), cache.root, inside)
    sha256 = hashlib.sha256(data).hexdigest()
    listed = ListedFile(path=inside, n_bytes=len(data), sha256=sha256)
    item = Item(kind="vector", id=vector.vector_id, name=vector.name, about=about_vector(vector), files=(listed,))
    remote.store.put(inside, data, sums=Sums(sha256=sha256))
    add_items(remote.store, [item])


def about_vector(vector: SteeringVector) -> dict[str, str | int]:
    """What a listing says of a vector."""
    about: dict[str, str | int] = {
        "method": vector.method,
        "concept": vector.concept or "",
        "layers": len(vector.layers),
    }
    return about | ({} if vector.fitted_on is None else {"model": vector.fitted_on.name})


def _limit() -> int:
    text = os.environ.get(LIMIT_VARIABLE) or str(READ_CACHE_GB)
    try:
        return round(float(text) * 1e9)
    except (ValueError, OverflowError):
        raise UsageError(f"{LIMIT_VARIABLE} is {text[:40]!r}", hint="a number of gigabytes, such as 20") from None
