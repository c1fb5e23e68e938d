"""Files that lie elsewhere, in one range of addresses: which blocks are here, and the maps of the segments that hold them."""

import os
import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from steercache.core.layout import FileRecord
from steercache.store.arena import Arena
from steercache.store.elsewhere import (
    BLOCK_BYTES,
    SEGMENT_BYTES,
    Blocks,
    Elsewhere,
    SegmentReplacedError,
    WantedBlocks,
)

MOST_MAPS: Final = 16_000  # of one object; Linux allows 65,530 of a process by default
TOUCH_EVERY_S: Final = 10.0  # that segments which are read from memory are noted as used
_PER_SEGMENT: Final = SEGMENT_BYTES // BLOCK_BYTES


def bring_all(elsewhere: Elsewhere, lacking: Sequence[tuple["SegmentMaps", Blocks]], *, chunk_bytes: int = 0) -> None:
    """Bring what several maps lack, at most as many bytes at once as the local copies allow. Raises as `Elsewhere.bring`."""
    batch: list[tuple[SegmentMaps, Blocks]] = []
    n_bytes = 0
    for maps, blocks in lacking:
        size = len(blocks) * BLOCK_BYTES
        if batch and n_bytes + size > elsewhere.most_bytes:
            _bring(elsewhere, batch, chunk_bytes)
            batch, n_bytes = [], 0
        if size:
            batch.append((maps, blocks))
            n_bytes += size
    if batch:
        _bring(elsewhere, batch, chunk_bytes)


def _bring(elsewhere: Elsewhere, batch: Sequence[tuple["SegmentMaps", Blocks]], chunk_bytes: int) -> None:
    for maps, _ in batch:
        maps.touch()
    elsewhere.bring([one for maps, blocks in batch for one in maps.wanted(blocks, chunk_bytes=chunk_bytes)])
    for maps, blocks in batch:
        maps.brought(blocks)


class SegmentMaps:
    """Room for `n_files` files of at most `file_bytes` bytes, of which blocks are mapped when they were brought.

    Never mapped anew where something is mapped already: arrays over the addresses may be in use.

    Raises:
        OSError: the system has no such addresses to give.
    """

    def __init__(self, elsewhere: Elsewhere, n_files: int, file_bytes: int, *, width: int, bits: np.dtype[Any]) -> None:
        self.epoch = elsewhere.epoch()
        self.arena = Arena(n_files, file_bytes, width=width, bits=bits, in_parts=True)
        self.blocks_apart = -(-file_bytes // BLOCK_BYTES)
        self._elsewhere = elsewhere
        self._sure = np.zeros(n_files * self.blocks_apart, dtype=np.bool_)  # by file and block
        self._segments_apart = -(-self.blocks_apart // _PER_SEGMENT)
        self._touched = np.zeros(n_files * self._segments_apart, dtype=np.bool_)  # by file and segment
        self._records: dict[int, FileRecord] = {}
        self._placed: dict[tuple[int, int], tuple[int, int]] = {}
        self._lock = threading.Lock()
        self._touch_at = time.monotonic() + TOUCH_EVERY_S

    @property
    def is_usable(self) -> bool:
        """Whether what is mapped still counts."""
        return self.epoch == self._elsewhere.epoch() and len(self._placed) < MOST_MAPS

    def add_file(self, number: int, record: FileRecord) -> None:
        """Say which file has a number."""
        self._records[number] = record

    def lacking(self, first_n: npt.NDArray[np.int64], end_n: npt.NDArray[np.int64], files_n: Any) -> Blocks:
        """Blocks that are not here yet of byte ranges [first, end) of files, by `file * blocks_apart + block`, ascending."""
        base_n = files_n * self.blocks_apart
        block_n, last_n = base_n + first_n // BLOCK_BYTES, base_n + (end_n - 1) // BLOCK_BYTES
        self._touched[files_n * self._segments_apart + first_n // SEGMENT_BYTES] = True
        found = []
        while len(block_n):
            absent = ~self._sure[block_n]
            if absent.any():
                found.append(block_n[absent])
            further = block_n < last_n
            if not further.any():
                break
            block_n, last_n = block_n[further] + 1, last_n[further]
        return np.unique(np.concatenate(found)) if found else np.empty(0, dtype=np.int64)

    def bring(self, blocks: Blocks, *, chunk_bytes: int = 0) -> None:
        """Bring what `lacking` found. Raises as `Elsewhere.bring`."""
        bring_all(self._elsewhere, [(self, blocks)], chunk_bytes=chunk_bytes)

    def wanted(self, blocks: Blocks, *, chunk_bytes: int = 0) -> list[WantedBlocks]:
        """Blocks that `lacking` found, file by file."""
        numbers, starts = np.unique(blocks // self.blocks_apart, return_index=True)
        return [
            WantedBlocks(
                record=self._records[number],
                blocks=part - number * self.blocks_apart,
                place=partial(self._place, number),
                chunk_bytes=chunk_bytes,
            )
            for number, part in zip(numbers.tolist(), np.split(blocks, starts[1:]), strict=True)
            if len(part)
        ]

    def brought(self, blocks: Blocks) -> None:
        """Note that blocks are here, and mapped."""
        self._sure[blocks] = True

    def touch(self, *, seldom: bool = False) -> None:
        """Note the segments that were read as used; with `seldom` only if that is due."""
        now = time.monotonic()
        if seldom and now < self._touch_at:
            return
        self._touch_at = now + TOUCH_EVERY_S
        touched = self._touched.copy()  # what other threads change while it is searched
        self._touched[touched] = False
        file_n, segment_n = np.divmod(np.flatnonzero(touched), self._segments_apart)
        for number in np.unique(file_n).tolist():
            mapped = [segment for segment in segment_n[file_n == number].tolist() if (number, segment) in self._placed]
            if mapped:
                self._elsewhere.touch(self._records[number], mapped)

    def _place(self, number: int, segment: int, fd: int) -> None:
        found = os.fstat(fd)
        identity = (found.st_dev, found.st_ino)
        with self._lock:
            placed = self._placed.get((number, segment))
            if placed == identity:
                return
            if placed is not None:
                raise SegmentReplacedError(f"segment {segment}")
            self.arena.place_part(number, segment * SEGMENT_BYTES, SEGMENT_BYTES, fd)
            self._placed[number, segment] = identity
