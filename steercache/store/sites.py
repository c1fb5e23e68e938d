"""The committed rows of one site, in the two ways of reading them: side by side in an arena, or shard by shard."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from steercache.core.layout import FileRecord, SiteLayout
from steercache.store.arena import Arena
from steercache.store.blocks import ShardBlock, check_raw_index, read_index
from steercache.store.committed import CommittedShards, RowPlaces
from steercache.store.dtypes import bits_dtype
from steercache.store.geometry import ShardGeometry, shard_geometry
from steercache.store.grouping import take_grouped
from steercache.store.mapped import opened

RowIndex = npt.NDArray[np.int64]
Bits = npt.NDArray[Any]

OPEN_BLOCKS = 1024  # shards; opening one again costs a tenth of a millisecond


class SiteRows(Protocol):
    """Rows of one site over all committed shards, as unsigned integers of the stored type's size: bit for bit."""

    def gather(self, layer_pos: int, rows: RowIndex) -> Bits:
        """Rows of one layer in the given order, shape (n, d), n > 0. Raises NotFoundError or DamagedError."""
        ...

    def layer(self, layer_pos: int, shard_idx: int) -> Bits:
        """All used rows of one layer of one shard, shape (n, d). Raises NotFoundError or DamagedError."""
        ...


class ArenaRows:
    """Uncompressed shards in one arena: a gather over any number of shards is one fancy index.

    Raises:
        OSError: the system cannot reserve the addresses.
    """

    def __init__(self, shards: CommittedShards, site: SiteLayout) -> None:
        layout = shards.layout
        full = shard_geometry(layout, site, layout.rows_per_shard)
        self._shards = shards
        self._site = site
        self._arena = Arena(layout.n_shards, full.file_bytes, width=site.width, bits=bits_dtype(layout.dtype))
        self._places = RowPlaces(shards)
        self._lock = threading.Lock()

    def gather(self, layer_pos: int, rows: RowIndex) -> Bits:
        """Rows of one layer in the given order, shape (n, d)."""
        shard_n, slot_n = self._places.locate(rows, self._place)
        index_n = slot_n + shard_n * self._arena.rows_apart + self._places.slots[shard_n] * layer_pos
        found: Bits = self._arena.rows_nd.take(index_n, axis=0, mode="clip")  # in range: "clip" skips a check
        return found

    def layer(self, layer_pos: int, shard_idx: int) -> Bits:
        """All used rows of one layer of one shard, shape (n, d), without copying."""
        self._place(shard_idx)
        start = shard_idx * self._arena.rows_apart + int(self._places.slots[shard_idx]) * layer_pos
        return self._arena.view(start, int(self._places.used[shard_idx]))

    def _place(self, shard_idx: int) -> None:
        geometry = self._shards.geometry(self._site, shard_idx)
        with self._lock:
            if self._places.used[shard_idx] >= 0:
                return
            path, record = self._shards.file(self._site, shard_idx)
            with opened(path, record.n_bytes) as fd:
                check_raw_index(read_index(fd, path, geometry), path, record, geometry)
                self._arena.place(shard_idx, fd)
            self._places.slots[shard_idx] = geometry.filled_chunks * geometry.chunk_rows
            self._places.used[shard_idx] = geometry.n_rows


OpenBlock = Callable[[Path, FileRecord, ShardGeometry], ShardBlock]


class BlockRows:
    """Shards opened one by one, the latest used ones kept: for compressed shards, and where there are no arenas."""

    def __init__(self, shards: CommittedShards, site: SiteLayout, open_block: OpenBlock) -> None:
        self._shards = shards
        self._site = site
        self._open = open_block
        self._rows_per_shard = shards.layout.rows_per_shard
        self._bits = bits_dtype(shards.layout.dtype)
        self._blocks: OrderedDict[int, ShardBlock] = OrderedDict()
        self._lock = threading.Lock()

    def gather(self, layer_pos: int, rows: RowIndex) -> Bits:
        """Rows of one layer in the given order, shape (n, d)."""
        self._shards.refuse_unknown(rows)
        shard_n = rows // self._rows_per_shard
        out_nd = np.empty((len(rows), self._site.width), dtype=self._bits)

        def take(shard_idx: int, slots: RowIndex, part: Bits) -> None:
            self._block(shard_idx).take(layer_pos, slots, part)

        take_grouped(shard_n, rows - shard_n * self._rows_per_shard, out_nd, take)
        return out_nd

    def layer(self, layer_pos: int, shard_idx: int) -> Bits:
        """All used rows of one layer of one shard, shape (n, d)."""
        return self._block(shard_idx).layer(layer_pos)

    def _block(self, shard_idx: int) -> ShardBlock:
        with self._lock:
            if shard_idx in self._blocks:
                self._blocks.move_to_end(shard_idx)
                return self._blocks[shard_idx]
            path, record = self._shards.file(self._site, shard_idx)
            block = self._open(path, record, self._shards.geometry(self._site, shard_idx))
            self._blocks[shard_idx] = block
            if len(self._blocks) > OPEN_BLOCKS:
                self._blocks.popitem(last=False)
            return block
