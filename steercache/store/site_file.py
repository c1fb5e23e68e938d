"""One site's file of a shard under construction: rows go straight to their place, their checksums are kept."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from steercache.core.layout import FileRecord
from steercache.store import durable
from steercache.store.checksum import combine_all, crc32c
from steercache.store.geometry import ShardGeometry, pack_index
from steercache.store.piece_sums import PieceSums

Bits = npt.NDArray[Any]
Rows = range | npt.NDArray[np.int64]
# First slot, number of rows, and which rows of a block they are; within one chunk.
Piece = tuple[int, int, slice | Rows]


def cut_at_chunks(slot: int, rows: Rows, chunk_rows: int) -> list[Piece]:
    """Ascending rows of a block as pieces that lie one behind the other from `slot` on.

    >>> cut_at_chunks(6, np.array([10, 11, 12, 14]), 4)
    [(6, 2, slice(10, 12, None)), (8, 2, array([12, 14]))]
    """
    pieces: list[Piece] = []
    start = 0
    while start < len(rows):
        part = rows[start : start + chunk_rows - slot % chunk_rows]
        n, first, last = len(part), int(part[0]), int(part[-1])
        pieces.append((slot, n, slice(first, last + 1) if last - first == n - 1 else part))  # a slice is a view
        slot, start = slot + n, start + n
    return pieces


class SiteFile:
    """An uncompressed shard file of one site, filled by `write`, sealed by `seal`, named by `durable.rename`.

    Each piece is summed while it is in the core's cache anyway; nothing is read back, in whatever order rows arrive.
    """

    def __init__(self, path: Path, geometry: ShardGeometry) -> None:
        self.path = path
        self.geometry = geometry
        self.temporary = durable.temporary_name(path)
        durable.remove_unfinished(path)
        self._fd: int | None = durable.create(self.temporary)
        self._sums = PieceSums(geometry)
        self._chunk_crc: list[list[int]] = []
        try:
            durable.reserve(self._fd, geometry.file_bytes)
        except BaseException:
            self.discard()
            raise

    def write(self, layer_pos: int, bits_md: Bits, pieces: Sequence[Piece]) -> None:
        """Put rows of one layer where they belong: those of `bits_md`, their unsigned view of shape (m, d), in `pieces`."""
        fd = self._open()
        for slot, n_rows, rows in pieces:
            self._put(fd, layer_pos, slot, n_rows, bits_md[rows])

    def _open(self) -> int:
        if self._fd is None:
            raise ValueError("the shard is finished or given up")
        return self._fd

    def _put(self, fd: int, layer_pos: int, slot: int, n_rows: int, piece: Bits) -> None:
        if len(piece) != n_rows:
            raise ValueError(f"{n_rows} rows for slot {slot}, the block has {len(piece)} of them")
        self._sums.put(layer_pos, slot, n_rows, crc32c(piece))
        durable.pwrite(fd, piece, self.geometry.offset(layer_pos, slot))

    def seal(self, nan: int) -> None:
        """Fill the last chunks with NaN, write the index, and wait for the disk.

        Raises:
            ValueError: rows are missing, or came in pieces that overlap; which ones is said.
        """
        fd = self._open()
        try:
            self._sums.check(self.geometry.n_rows)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from None
        self._fill_up(fd, nan)
        durable.pwrite(fd, pack_index(self.geometry.raw_index()), self.geometry.data_bytes)
        self._chunk_crc = self._sums.of_chunks()
        durable.fsync(fd)
        durable.close(fd)
        self._fd = None

    def record(self, run_path: str) -> FileRecord:
        """The sealed file's size and checksums, under the path `run_path`."""
        index = pack_index(self.geometry.raw_index())
        chunks = [crc for layer in self._chunk_crc for crc in layer]
        pieces = [(crc, self.geometry.chunk_bytes) for crc in chunks] + [(crc32c(index), len(index))]
        return FileRecord(
            path=run_path,
            n_bytes=self.geometry.file_bytes,
            crc32c=combine_all(pieces),
            chunk_crc32c=tuple(chunks),
        )

    def discard(self) -> None:
        """Close and remove the temporary file; a sealed and renamed one stays."""
        if self._fd is not None:
            durable.close(self._fd)
            self._fd = None
        durable.remove(self.temporary)

    def _fill_up(self, fd: int, nan: int) -> None:
        geometry = self.geometry
        n_unused = geometry.filled_chunks * geometry.chunk_rows - geometry.n_rows
        if n_unused:
            nans_nd = np.full((n_unused, geometry.width), nan, dtype=f"<u{geometry.item_bytes}")
            for layer_pos in range(geometry.n_layers):
                self._put(fd, layer_pos, geometry.n_rows, n_unused, nans_nd)
