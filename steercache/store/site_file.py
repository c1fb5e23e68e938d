"""One site's file of a shard under construction: put together in memory, written past the page cache in one go."""

import mmap
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from steercache.core.layout import DType, FileRecord
from steercache.store import durable
from steercache.store.checksum import combine_all, crc32c
from steercache.store.dtypes import nan_bits
from steercache.store.geometry import ShardGeometry, pack_index
from steercache.store.non_finite import count_non_finite
from steercache.store.staging import Staging

Bits = npt.NDArray[Any]
Rows = range | npt.NDArray[np.int64]
# First slot, number of rows, and which rows of a block they are.
Piece = tuple[int, int, slice | Rows]


def piece_of(slot: int, rows: Rows) -> Piece:
    """Ascending rows of a block, which lie one behind the other from `slot` on.

    >>> piece_of(6, np.array([10, 11, 12])), piece_of(9, np.array([14, 16]))
    ((6, 3, slice(10, 13, None)), (9, 2, array([14, 16])))
    """
    n = len(rows)
    if n and int(rows[-1]) - int(rows[0]) == n - 1:
        return slot, n, slice(int(rows[0]), int(rows[-1]) + 1)  # a view: nothing is copied twice
    return slot, n, rows


class SiteFile:
    """An uncompressed shard file of one site, filled by `write`, put on the disk by `seal`, named by `durable.rename`.

    Its bytes lie in memory of `staging` from the first row to the seal; the space on the disk is reserved at the start.
    """

    def __init__(self, path: Path, geometry: ShardGeometry, staging: Staging) -> None:
        self.path = path
        self.geometry = geometry
        self._staging = staging
        self._memory: mmap.mmap | None = None
        self._has_arrived_ls = np.zeros((geometry.n_layers, geometry.n_rows), dtype=np.bool_)
        self._chunk_crc: list[int] = []
        self.non_finite_l: list[int] = []  # rows of each layer with a value that is not finite, once sealed
        self._fd: int | None
        self.temporary, self._fd = durable.create_temporary(path)
        try:
            durable.reserve(self._fd, geometry.file_bytes)
        except BaseException:
            self.discard()
            raise

    def write(self, layer_pos: int, bits_md: Bits, pieces: Sequence[Piece]) -> None:
        """Put rows of one layer where they belong: those of `bits_md`, their unsigned view of shape (m, d), in `pieces`."""
        slots_sd, has_arrived_s = self._slots()[layer_pos], self._has_arrived_ls[layer_pos]
        for slot, n_rows, rows in pieces:
            piece_nd = bits_md[rows]
            if len(piece_nd) != n_rows:
                raise ValueError(f"{n_rows} rows for slot {slot}, the block has {len(piece_nd)} of them")
            slots_sd[slot : slot + n_rows] = piece_nd
            has_arrived_s[slot : slot + n_rows] = True

    def seal(self, dtype: DType, *, gaps: bool = False) -> None:
        """Fill the last chunks with NaN, add the index, write all of it, and wait for the disk.

        Counts `non_finite_l` on the way; with `gaps`, rows of NaN alone are not counted.

        Raises:
            ValueError: rows are missing; the message names them.
        """
        fd, geometry, slots_lsd = self._open(), self.geometry, self._slots()
        self._check_complete()
        slots_lsd[:, geometry.n_rows :] = nan_bits(dtype)
        self._chunk_crc, self.non_finite_l = [], [0] * geometry.n_layers
        for layer_pos, first in product(range(geometry.n_layers), range(0, slots_lsd.shape[1], geometry.chunk_rows)):
            chunk_nd = slots_lsd[layer_pos, first : first + geometry.chunk_rows]
            self._chunk_crc.append(crc32c(chunk_nd.reshape(-1)))
            used_nd = chunk_nd[: geometry.n_rows - first]
            self.non_finite_l[layer_pos] += count_non_finite(used_nd, dtype, gaps=gaps)
        file_bytes = memoryview(self._taken())[: geometry.file_bytes]
        file_bytes[geometry.data_bytes :] = pack_index(geometry.raw_index())
        durable.write_past_cache(fd, file_bytes)
        durable.fsync(fd)
        self._close()

    def record(self, run_path: str) -> FileRecord:
        """The sealed file's size and checksums, under the path `run_path`."""
        index = pack_index(self.geometry.raw_index())
        pieces = [(crc, self.geometry.chunk_bytes) for crc in self._chunk_crc] + [(crc32c(index), len(index))]
        return FileRecord(
            path=run_path,
            n_bytes=self.geometry.file_bytes,
            crc32c=combine_all(pieces),
            chunk_crc32c=tuple(self._chunk_crc),
        )

    def discard(self) -> None:
        """Close and remove the temporary file; a sealed and renamed one stays."""
        self._close()
        durable.remove(self.temporary)

    def _open(self) -> int:
        if self._fd is None:
            raise ValueError("the shard is finished or given up")
        return self._fd

    def _taken(self) -> mmap.mmap:
        """The memory in which the file lies, from the first row to the seal."""
        self._open()
        if self._memory is None:
            self._memory = self._staging.take(self.geometry.file_bytes)
        return self._memory

    def _slots(self) -> Bits:
        """All slots of all layers, shape (l, s, d), with those of the last chunk that stay unused."""
        geometry = self.geometry
        bits = np.dtype(f"<u{geometry.item_bytes}")
        flat_n = np.frombuffer(self._taken(), dtype=bits, count=geometry.data_bytes // geometry.item_bytes)
        return flat_n.reshape(geometry.n_layers, geometry.filled_chunks * geometry.chunk_rows, geometry.width)

    def _check_complete(self) -> None:
        missing_ls = ~self._has_arrived_ls
        if missing_ls.any():
            layer_pos, slot = np.argwhere(missing_ls)[0]
            n_missing = int(missing_ls.sum())
            raise ValueError(f"{self.path}: {n_missing} rows never came, first layer {layer_pos}, slot {slot}")

    def _close(self) -> None:
        if self._fd is not None:
            durable.close(self._fd)
            self._fd = None
        if self._memory is not None:
            self._staging.give(self._memory)
            self._memory = None
