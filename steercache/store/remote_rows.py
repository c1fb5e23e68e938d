"""The committed rows of one site whose files lie elsewhere: the blocks that hold the asked rows are brought, all at once."""

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from steercache.core.errors import BusyError, DamagedError
from steercache.core.layout import FileRecord, SiteLayout
from steercache.store.codecs import ChunkCodec
from steercache.store.coded_block import ChunkCache, CodedBlock
from steercache.store.committed import CommittedShards, RowPlaces
from steercache.store.dtypes import bits_dtype
from steercache.store.elsewhere import BLOCK_BYTES, Elsewhere, SegmentReplacedError
from steercache.store.geometry import ShardGeometry, shard_geometry, unpack_index
from steercache.store.grouping import take_grouped
from steercache.store.mapped import VERIFY
from steercache.store.segment_maps import SegmentMaps, bring_all

RowIndex = npt.NDArray[np.int64]
Bits = npt.NDArray[Any]

AHEAD_BYTES: Final = 128 * 2**20  # of a layer, brought with the shard that is asked for
OPEN_SHARDS: Final = 512  # compressed ones
_ATTEMPTS: Final = 5
_Opened = tuple[SegmentMaps, CodedBlock]
_T = TypeVar("_T")


def _again(attempt: Callable[[], _T], drop: Callable[[], None]) -> _T:
    """What `attempt` returns; once more, with new maps, where another thread or process replaced a segment."""
    for _ in range(_ATTEMPTS):
        try:
            return attempt()
        except SegmentReplacedError:
            drop()
    raise BusyError(
        "blocks are removed as soon as they are brought: more is read at once than the read cache holds",
        hint="give the read cache a larger limit, or read with fewer threads and processes",
    )


class RemoteRows:
    """Uncompressed shards elsewhere: as `ArenaRows`, after bringing what is lacking."""

    def __init__(self, shards: CommittedShards, site: SiteLayout, elsewhere: Elsewhere) -> None:
        layout = shards.layout
        self._shards, self._site, self._elsewhere = shards, site, elsewhere
        self._rows_per_shard = layout.rows_per_shard
        self._full = shard_geometry(layout, site, layout.rows_per_shard)
        self._bits = bits_dtype(layout.dtype)
        self._places = RowPlaces(shards)
        self._files: dict[int, FileRecord] = {}
        self._maps: SegmentMaps | None = None
        self._lock = threading.Lock()

    def gather(self, layer_pos: int, rows: RowIndex) -> Bits:
        """Rows of one layer in the given order, shape (n, d)."""
        shard_n, slot_n = self._places.locate(rows, self._open)
        at_n = slot_n + self._places.slots[shard_n] * layer_pos
        return _again(lambda: self._take(shard_n, at_n), self._drop)

    def layer(self, layer_pos: int, shard_idx: int) -> Bits:
        """All used rows of one layer of one shard, shape (n, d); those of the next shards are brought with them."""
        self._open(shard_idx)
        n_rows = int(self._places.used[shard_idx])
        if not n_rows:
            return np.empty((0, self._site.width), dtype=self._bits)
        _again(lambda: self._bring_ahead(layer_pos, shard_idx), self._drop)
        return self.gather(layer_pos, shard_idx * self._rows_per_shard + np.arange(n_rows, dtype=np.int64))

    def _take(self, shard_n: RowIndex, at_n: RowIndex) -> Bits:
        """Rows by shard and by place in the shard's file."""
        maps, row_bytes = self._current(), self._full.row_bytes
        lacking = maps.lacking(at_n * row_bytes, (at_n + 1) * row_bytes, shard_n)
        if len(lacking):
            most = self._elsewhere.most_bytes
            if len(lacking) * BLOCK_BYTES > most and len(at_n) > 1:
                return self._in_parts(shard_n, at_n, -(-len(lacking) * BLOCK_BYTES // most))
            maps.bring(lacking, chunk_bytes=self._full.chunk_bytes)
        else:
            maps.touch(seldom=True)
        found: Bits = maps.arena.rows_nd.take(at_n + shard_n * maps.arena.rows_apart, axis=0, mode="clip")
        return found

    def _in_parts(self, shard_n: RowIndex, at_n: RowIndex, n_parts: int) -> Bits:
        out_nd = np.empty((len(at_n), self._site.width), dtype=self._bits)
        order_n = np.lexsort((at_n, shard_n))
        for part in np.array_split(order_n, min(max(2, n_parts), len(order_n))):
            out_nd[part] = _again(partial(self._take, shard_n[part], at_n[part]), self._drop)
        return out_nd

    def _bring_ahead(self, layer_pos: int, shard_idx: int) -> None:
        maps, row_bytes = self._current(), self._full.row_bytes
        most, ahead = min(AHEAD_BYTES, self._elsewhere.most_bytes), 0
        files: list[int] = []
        first: list[int] = []
        end: list[int] = []
        for number in (idx for idx in self._shards.shard_idxs if idx >= shard_idx):
            self._open(number)
            n_bytes = int(self._places.used[number]) * row_bytes
            if (files and ahead + n_bytes > most) or not n_bytes:
                break
            start = int(self._places.slots[number]) * layer_pos * row_bytes
            files.append(number)
            first.append(start)
            end.append(start + n_bytes)
            ahead += n_bytes
            if number == shard_idx and not len(maps.lacking(*_whole(first, end, files))):
                return  # it was brought with one before
        if ahead <= most:  # else `gather` brings it in parts
            maps.bring(maps.lacking(*_whole(first, end, files)), chunk_bytes=self._full.chunk_bytes)

    def _open(self, shard_idx: int) -> None:
        if 0 <= shard_idx < len(self._places.used) and self._places.used[shard_idx] >= 0:
            return
        geometry = self._shards.geometry(self._site, shard_idx)
        path, record = self._shards.file(self._site, shard_idx)
        if record.n_bytes != geometry.file_bytes:
            raise DamagedError("its record does not fit the shard's rows", place=str(path), hint=VERIFY)
        with self._lock:
            self._files[shard_idx] = record
            if self._maps is not None:
                self._maps.add_file(shard_idx, record)
            self._places.slots[shard_idx] = geometry.filled_chunks * geometry.chunk_rows
            self._places.used[shard_idx] = geometry.n_rows

    def _current(self) -> SegmentMaps:
        with self._lock:
            if self._maps is None or not self._maps.is_usable:
                n_files, full = self._shards.layout.n_shards, self._full
                self._maps = SegmentMaps(
                    self._elsewhere, n_files, full.file_bytes, width=self._site.width, bits=self._bits
                )
                for number, record in self._files.items():
                    self._maps.add_file(number, record)
            return self._maps

    def _drop(self) -> None:
        with self._lock:
            self._maps = None


def _whole(first: list[int], end: list[int], files: list[int]) -> tuple[RowIndex, RowIndex, RowIndex]:
    """Every block of some byte ranges, as ranges of one block each at most."""
    starts = [np.arange(a, b, BLOCK_BYTES, dtype=np.int64) for a, b in zip(first, end, strict=True)]
    file_n = np.repeat(np.array(files, dtype=np.int64), [len(s) for s in starts])
    start_n = np.concatenate(starts)
    end_n = np.minimum(start_n + BLOCK_BYTES, np.repeat(np.array(end, dtype=np.int64), [len(s) for s in starts]))
    return start_n, end_n, file_n


class RemoteCodedRows:
    """Compressed shards elsewhere: their indexes are brought first, then the chunks that hold the asked rows."""

    def __init__(
        self,
        shards: CommittedShards,
        site: SiteLayout,
        elsewhere: Elsewhere,
        *,
        codec: ChunkCodec,
        chunks: ChunkCache,
    ) -> None:
        self._shards, self._site, self._elsewhere = shards, site, elsewhere
        self._codec, self._chunks = codec, chunks
        self._rows_per_shard = shards.layout.rows_per_shard
        self._bits = bits_dtype(shards.layout.dtype)
        self._opened: dict[int, _Opened] = {}
        self._lock = threading.Lock()

    def gather(self, layer_pos: int, rows: RowIndex) -> Bits:
        """Rows of one layer in the given order, shape (n, d)."""
        self._shards.refuse_unknown(rows)
        shard_n = rows // self._rows_per_shard
        slot_n = rows - shard_n * self._rows_per_shard
        chunk_n = slot_n // self._shards.layout.chunk_rows
        wanted = {int(s): np.unique(chunk_n[shard_n == s]).tolist() for s in np.unique(shard_n)}
        out_nd = np.empty((len(rows), self._site.width), dtype=self._bits)

        def attempt() -> None:
            blocks = self._ready(layer_pos, wanted)
            take_grouped(shard_n, slot_n, out_nd, lambda s, slots, part: blocks[s].take(layer_pos, slots, part))

        _again(attempt, self._drop)
        return out_nd

    def layer(self, layer_pos: int, shard_idx: int) -> Bits:
        """All used rows of one layer of one shard, shape (n, d)."""
        filled = self._shards.geometry(self._site, shard_idx).filled_chunks
        return _again(
            lambda: self._ready(layer_pos, {shard_idx: list(range(filled))})[shard_idx].layer(layer_pos), self._drop
        )

    def _ready(self, layer_pos: int, wanted: dict[int, list[int]]) -> dict[int, CodedBlock]:
        """Shards, opened, with these chunks here."""
        with self._lock:
            opened = {s: self._opened[s] for s in wanted if s in self._opened and self._opened[s][0].is_usable}
        opened |= self._open([s for s in wanted if s not in opened])
        lacking = []
        for shard_idx, chunks in wanted.items():
            maps, block = opened[shard_idx]
            spans = [block.span(layer_pos, chunk) for chunk in chunks]
            if spans:
                first, end = [offset for offset, _ in spans], [offset + n for offset, n in spans]
                lacking.append((maps, maps.lacking(*_whole(first, end, [0] * len(spans)))))
        bring_all(self._elsewhere, lacking)
        return {shard_idx: opened[shard_idx][1] for shard_idx in wanted}

    def _open(self, shard_idxs: list[int]) -> dict[int, _Opened]:
        """Shards with their indexes, which are brought together."""
        found, lacking = {}, []
        for shard_idx in shard_idxs:
            path, record = self._shards.file(self._site, shard_idx)
            geometry = self._shards.geometry(self._site, shard_idx)
            maps = SegmentMaps(self._elsewhere, 1, record.n_bytes, width=1, bits=np.dtype(np.uint8))
            maps.add_file(0, record)
            at = max(0, record.n_bytes - geometry.index_bytes)
            lacking.append((maps, maps.lacking(*_whole([at], [record.n_bytes], [0]))))
            found[shard_idx] = path, record, geometry, maps
        bring_all(self._elsewhere, lacking)
        opened = {idx: (maps, self._block(path, record, geo, maps)) for idx, (path, record, geo, maps) in found.items()}
        with self._lock:
            self._opened = {**self._opened, **opened}
            while len(self._opened) > max(OPEN_SHARDS, len(opened)):
                del self._opened[next(iter(self._opened))]
        return opened

    def _block(self, path: Path, record: FileRecord, geometry: ShardGeometry, maps: SegmentMaps) -> CodedBlock:
        mapped = maps.arena.rows_nd.reshape(-1)[: record.n_bytes]
        index = unpack_index(mapped, geometry)
        if index is None:
            raise DamagedError("the chunk index is damaged", place=str(path), hint=VERIFY)
        return CodedBlock(path, record, geometry, mapped, index, codec=self._codec, chunks=self._chunks)

    def _drop(self) -> None:
        with self._lock:
            self._opened = {}
