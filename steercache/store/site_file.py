"""One site's file of a shard under construction: rows go straight to their place, checksums grow along."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from steercache.core.layout import FileRecord
from steercache.store import durable
from steercache.store.addresses import map_bytes
from steercache.store.checksum import combine_all, crc32c, extend
from steercache.store.geometry import ShardGeometry, pack_index

Bits = npt.NDArray[Any]


class SiteFile:
    """An uncompressed shard file of one site, filled by `write`, sealed by `seal`, named by `durable.rename`.

    While a layer's rows arrive in ascending order, the checksum of each chunk is extended on the way through; a layer that
    was written out of order is read back once when the file is sealed.
    """

    def __init__(self, path: Path, geometry: ShardGeometry) -> None:
        self.path = path
        self.geometry = geometry
        self.temporary = durable.temporary_name(path)
        durable.remove_unfinished(path)
        self._fd: int | None = durable.create(self.temporary)
        self._written = np.zeros((geometry.n_layers, geometry.n_rows), dtype=np.bool_)
        self._next_slot = [0] * geometry.n_layers  # -1: out of order
        self._crc = [0] * geometry.n_layers  # of the chunk that is being filled
        self._chunk_crc: list[list[int]] = [[] for _ in range(geometry.n_layers)]
        try:
            durable.reserve(self._fd, geometry.file_bytes)
        except BaseException:
            self.discard()
            raise

    def write(self, layer_pos: int, slot: int, bits_nd: Bits) -> None:
        """Put contiguous rows of one layer at `slot`; `bits_nd` is their unsigned view, shape (n, d), n > 0."""
        if self._fd is None:
            raise ValueError("the shard is finished or given up")
        durable.pwrite(self._fd, bits_nd, self.geometry.offset(layer_pos, slot))
        self._written[layer_pos, slot : slot + len(bits_nd)] = True
        if self._next_slot[layer_pos] == slot:
            self._checksum(layer_pos, slot, bits_nd)
        else:
            self._next_slot[layer_pos] = -1

    def seal(self, nan: int) -> None:
        """Fill the last chunks with NaN, write the index, and wait for the disk.

        Raises:
            ValueError: rows are missing; which ones is said.
        """
        if self._fd is None:
            raise ValueError("the shard is finished or given up")
        if not self._written.all():
            layer_pos, slot = np.argwhere(~self._written)[0]
            n_missing = int((~self._written).sum())
            raise ValueError(f"{self.path}: {n_missing} rows never came, first layer {layer_pos}, slot {slot}")
        self._fill_up(nan)
        durable.pwrite(self._fd, pack_index(self.geometry.raw_index()), self.geometry.data_bytes)
        self._read_back()
        durable.fsync(self._fd)
        durable.close(self._fd)
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

    def _checksum(self, layer_pos: int, slot: int, bits_nd: Bits) -> None:
        chunk_rows = self.geometry.chunk_rows
        start, end = 0, len(bits_nd)
        while start < end:
            room = chunk_rows - (slot + start) % chunk_rows
            crc = extend(self._crc[layer_pos], bits_nd[start : start + room])
            start += room
            if start <= end:  # the chunk is full
                self._chunk_crc[layer_pos].append(crc)
                crc = 0
            self._crc[layer_pos] = crc
        self._next_slot[layer_pos] = slot + end

    def _fill_up(self, nan: int) -> None:
        geometry = self.geometry
        n_unused = geometry.filled_chunks * geometry.chunk_rows - geometry.n_rows
        if not n_unused or self._fd is None:
            return
        nans_nd = np.full((n_unused, geometry.width), nan, dtype=f"<u{geometry.item_bytes}")
        for layer_pos in range(geometry.n_layers):
            durable.pwrite(self._fd, nans_nd, geometry.offset(layer_pos, geometry.n_rows))
            if self._next_slot[layer_pos] == geometry.n_rows:
                self._checksum(layer_pos, geometry.n_rows, nans_nd)

    def _read_back(self) -> None:
        geometry = self.geometry
        late = [pos for pos, slot in enumerate(self._next_slot) if slot < 0]
        if not late or self._fd is None:
            return
        mapped = map_bytes(self._fd, geometry.data_bytes)
        for layer_pos in late:
            starts = range(geometry.offset(layer_pos, 0), geometry.offset(layer_pos + 1, 0), geometry.chunk_bytes)
            self._chunk_crc[layer_pos] = [crc32c(mapped[s : s + geometry.chunk_bytes]) for s in starts]
