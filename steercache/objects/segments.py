"""Local copies of blocks of objects, in sparse files: a segment's blocks at their places, then a table of their checksums.

A block is there when its checksum is. It is written after the block, without waiting for the disk: what a power loss leaves is
found by the checksum when a process first reads the block, and brought again. The files of one object and one tag never hold
anything but that object's bytes, so that several processes may write the same block at once.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import google_crc32c
import numpy as np
import numpy.typing as npt

from steercache.store.durable import disk_errors
from steercache.store.elsewhere import BLOCK_BYTES, SEGMENT_BYTES

PER_SEGMENT: Final = SEGMENT_BYTES // BLOCK_BYTES
_FILE_BYTES: Final = SEGMENT_BYTES + 4 * PER_SEGMENT
_RUN_BYTES: Final = 2**20  # read at once to compare checksums
_SUFFIX: Final = ".seg"
Sums32 = npt.NDArray[np.uint32]


def key_of(*parts: object) -> str:
    """A name for files, of what the parts say."""
    return hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class Segments:
    """The segments of every object below a folder, by the object's key, its tag and the segment's number."""

    folder: Path

    def tags(self, key: str) -> set[str]:
        """Keys of the tags of which something is here."""
        try:
            return {name.partition(".")[0] for name in os.listdir(self._of(key)) if name.endswith(_SUFFIX)}
        except FileNotFoundError:
            return set()

    def open(self, key: str, tag: str, segment: int, *, make: bool = False) -> int | None:
        """A descriptor of a segment, which the caller closes; None where there is none and `make` is false."""
        path = self.path(key, tag, segment)
        flags = os.O_RDWR | os.O_CLOEXEC
        try:
            with disk_errors(path):
                if not make:
                    return os.open(path, flags)
                path.parent.mkdir(parents=True, exist_ok=True)
                fd = os.open(path, flags | os.O_CREAT, 0o666)
        except FileNotFoundError:
            if make:  # its folder was removed between the two calls
                return self.open(key, tag, segment, make=True)
            return None
        if os.fstat(fd).st_size < _FILE_BYTES:
            os.truncate(fd, _FILE_BYTES)  # of the same length, whoever does it
        return fd

    def path(self, key: str, tag: str, segment: int) -> Path:
        """The file of a segment."""
        return self._of(key) / f"{tag}.{segment:06d}{_SUFFIX}"

    def forget(self, key: str, *, but: str | None = None) -> None:
        """Remove what is here of an object, but for one tag."""
        for tag in self.tags(key) - {but}:
            for path in self._of(key).glob(f"{tag}.*"):
                path.unlink(missing_ok=True)

    def files(self) -> Iterator[os.DirEntry[str]]:
        """Every segment."""
        for outer in _scan(self.folder):
            for inner in _scan(outer.path):
                yield from (entry for entry in _scan(inner.path) if entry.name.endswith(_SUFFIX))

    def _of(self, key: str) -> Path:
        return self.folder / key[:2] / key


def _scan(path: str | Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def read_sums(fd: int) -> Sums32:
    """Checksums of a segment's blocks; 0 where a block is not there."""
    table = os.pread(fd, 4 * PER_SEGMENT, SEGMENT_BYTES)
    if len(table) < 4 * PER_SEGMENT:
        return np.zeros(PER_SEGMENT, dtype=np.uint32)
    return np.frombuffer(table, dtype="<u4")


def intact(fd: int, blocks: npt.NDArray[np.int64], sums: Sums32, *, n_bytes: int) -> npt.NDArray[np.bool_]:
    """Which of the segment's `blocks` (ascending) are there with the checksums of the table; `n_bytes` of the segment are
    used."""
    good: npt.NDArray[np.bool_] = sums[blocks] != 0
    at = 0
    while at < len(blocks):
        end = at + 1
        while end < len(blocks) and blocks[end] == blocks[end - 1] + 1 and (end - at) * BLOCK_BYTES < _RUN_BYTES:
            end += 1
        if good[at:end].any():
            start = int(blocks[at]) * BLOCK_BYTES
            data = os.pread(fd, min((end - at) * BLOCK_BYTES, n_bytes - start), start)
            found = sums_of(data)
            for i in range(at, end):
                good[i] &= i - at < len(found) and found[i - at] == sums[blocks[i]]
        at = end
    return good


def sums_of(data: Any) -> Sums32:
    """CRC-32C of every block of some bytes that begin with one."""
    view = memoryview(data).cast("B")
    starts = range(0, len(view), BLOCK_BYTES)
    return np.array([google_crc32c.value(bytes(view[a : a + BLOCK_BYTES])) for a in starts], dtype="<u4")


def write_blocks(fd: int, path: Path, first_block: int, data: Any, sums: Sums32) -> None:
    """Put blocks that follow each other into a segment, then their checksums."""
    with disk_errors(path):
        _write(fd, memoryview(data).cast("B"), first_block * BLOCK_BYTES)
        _write(fd, memoryview(sums.tobytes()), SEGMENT_BYTES + 4 * first_block)


def _write(fd: int, view: memoryview, offset: int) -> None:
    while view.nbytes:
        n_written = os.pwrite(fd, view, offset)
        view, offset = view[n_written:], offset + n_written
