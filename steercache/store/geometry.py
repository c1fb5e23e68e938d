"""Where a shard's bytes lie in its file: chunks in (layer, row) order, then the index that Zarr's sharding codec reads.

With every chunk of one length, the rows of a layer are one contiguous run of bytes. The index holds an (offset, length) pair
of little-endian u64 per chunk, (2^64-1, 2^64-1) for a chunk that is not there, and a CRC-32C at its end
(Zarr v3 sharding-indexed codec, version 1.0).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from steercache.core.layout import ITEM_BYTES, SiteLayout, StoreLayout
from steercache.store.checksum import crc32c

ChunkIndex = npt.NDArray[np.uint64]  # (n_layers, chunks_per_shard, 2)

MISSING = np.uint64(2**64 - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardGeometry:
    """One site of one shard, uncompressed: `n_rows` used rows of `n_layers` layers, `width` values of `item_bytes` each."""

    n_layers: int
    width: int
    item_bytes: int
    chunk_rows: int
    chunks_per_shard: int
    n_rows: int

    @property
    def filled_chunks(self) -> int:
        """Chunks of each layer that hold at least one row; the others are missing."""
        return -(-self.n_rows // self.chunk_rows)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of one layer."""
        return self.width * self.item_bytes

    @property
    def chunk_bytes(self) -> int:
        """Bytes of one chunk; the last one is filled up with NaN."""
        return self.chunk_rows * self.row_bytes

    @property
    def layer_bytes(self) -> int:
        """Bytes of one layer of the shard."""
        return self.filled_chunks * self.chunk_bytes

    @property
    def data_bytes(self) -> int:
        """Bytes before the index."""
        return self.n_layers * self.layer_bytes

    @property
    def index_bytes(self) -> int:
        """Bytes of the index with its checksum."""
        return self.n_layers * self.chunks_per_shard * 16 + 4

    @property
    def file_bytes(self) -> int:
        """Bytes of an uncompressed shard's file."""
        return self.data_bytes + self.index_bytes

    def offset(self, layer_pos: int, slot: int) -> int:
        """Where a row begins in an uncompressed file."""
        return layer_pos * self.layer_bytes + slot * self.row_bytes

    def raw_index(self) -> ChunkIndex:
        """The index of an uncompressed file."""
        index = np.full((self.n_layers, self.chunks_per_shard, 2), MISSING, dtype="<u8")
        starts = np.arange(self.n_layers * self.filled_chunks, dtype="<u8").reshape(self.n_layers, self.filled_chunks)
        index[:, : self.filled_chunks, 0] = starts * np.uint64(self.chunk_bytes)
        index[:, : self.filled_chunks, 1] = self.chunk_bytes
        return index


def shard_geometry(layout: StoreLayout, site: SiteLayout, n_rows: int) -> ShardGeometry:
    """The geometry of one site of a shard with `n_rows` used rows."""
    return ShardGeometry(
        n_layers=len(site.layers),
        width=site.width,
        item_bytes=ITEM_BYTES[layout.dtype],
        chunk_rows=layout.chunk_rows,
        chunks_per_shard=layout.chunks_per_shard,
        n_rows=n_rows,
    )


def pack_index(index: ChunkIndex) -> bytes:
    """The bytes at a shard's end: the index and its checksum."""
    body = index.tobytes()
    return body + crc32c(body).to_bytes(4, "little")


def packed_index(geometry: ShardGeometry, chunk_lengths: Sequence[int]) -> ChunkIndex:
    """The index of a compressed file whose chunks lie end to end in (layer, row) order."""
    index = np.full((geometry.n_layers, geometry.chunks_per_shard, 2), MISSING, dtype="<u8")
    lengths_lc = np.asarray(chunk_lengths, dtype="<u8").reshape(geometry.n_layers, geometry.filled_chunks)
    ends_lc = np.cumsum(lengths_lc, dtype="<u8").reshape(lengths_lc.shape)
    index[:, : geometry.filled_chunks, 0] = ends_lc - lengths_lc
    index[:, : geometry.filled_chunks, 1] = lengths_lc
    return index


def unpack_index(file_bytes: Any, geometry: ShardGeometry) -> ChunkIndex | None:
    """The index at the end of a shard's file (bytes or an array of them); None where its checksum does not hold."""
    if len(file_bytes) < geometry.index_bytes:
        return None
    tail = bytes(file_bytes[len(file_bytes) - geometry.index_bytes :])
    if crc32c(tail[:-4]) != int.from_bytes(tail[-4:], "little"):
        return None
    return np.frombuffer(tail[:-4], dtype="<u8").reshape(geometry.n_layers, geometry.chunks_per_shard, 2)
