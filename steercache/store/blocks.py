"""One site of one committed shard, opened: its rows by slot, whatever codec they are stored in."""

import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from steercache.core.errors import DamagedError
from steercache.core.layout import FileRecord
from steercache.store.geometry import ChunkIndex, ShardGeometry, unpack_index
from steercache.store.mapped import VERIFY, map_descriptor, opened

Rows = npt.NDArray[Any]
Slots = npt.NDArray[np.int64]


class ShardBlock(Protocol):
    """Rows of one site of one shard, as unsigned integers of the stored type's size: bit for bit."""

    def layer(self, layer_pos: int) -> Rows:
        """All used rows of one layer, shape (n, d)."""
        ...

    def take(self, layer_pos: int, slots: Slots, out: Rows) -> None:
        """Put the rows at `slots`, which are known to be used, into `out`, shape (n, d)."""
        ...


class RawBlock:
    """An uncompressed shard: a layer is a run of bytes of the file."""

    __slots__ = ("_bits_lnd", "_n_rows")

    def __init__(self, bits_lnd: Rows, n_rows: int) -> None:
        self._bits_lnd = bits_lnd
        self._n_rows = n_rows

    def layer(self, layer_pos: int) -> Rows:
        """All used rows of one layer, shape (n, d), without copying."""
        view: Rows = self._bits_lnd[layer_pos, : self._n_rows]
        return view

    def take(self, layer_pos: int, slots: Slots, out: Rows) -> None:
        """Put the rows at `slots` into `out`, shape (n, d)."""
        # With "clip" numpy writes into `out` directly; that the slots are in range has been checked.
        self._bits_lnd[layer_pos].take(slots, axis=0, out=out, mode="clip")


def open_raw(path: Path, record: FileRecord, geometry: ShardGeometry) -> RawBlock:
    """Map an uncompressed shard.

    Raises:
        DamagedError: missing, of another size, or its chunk index is not that of its rows.
    """
    with opened(path, record.n_bytes) as fd:
        check_raw_index(read_index(fd, path, geometry), path, record, geometry)
        bits = map_descriptor(fd, record.n_bytes)[: geometry.data_bytes].view(f"<u{geometry.item_bytes}")
    n_slots = geometry.filled_chunks * geometry.chunk_rows
    return RawBlock(bits.reshape(geometry.n_layers, n_slots, geometry.width), geometry.n_rows)


def read_index(fd: int, path: Path, geometry: ShardGeometry) -> ChunkIndex:
    """The chunk index at the end of a shard's file. Raises DamagedError where its own checksum does not hold."""
    at = os.fstat(fd).st_size - geometry.index_bytes
    index = unpack_index(os.pread(fd, geometry.index_bytes, max(0, at)), geometry)
    if index is None:
        raise DamagedError("the chunk index is damaged", place=str(path), hint=VERIFY)
    return index


def check_raw_index(index: ChunkIndex, path: Path, record: FileRecord, geometry: ShardGeometry) -> None:
    """Raise DamagedError unless the index is that of an uncompressed shard: every layer one run of bytes."""
    if record.n_bytes != geometry.file_bytes or not np.array_equal(index, geometry.raw_index()):
        raise DamagedError("the chunk index does not fit the shard's rows", place=str(path), hint=VERIFY)
