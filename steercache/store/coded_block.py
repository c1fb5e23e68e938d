"""A compressed shard, opened: chunks are decoded when they are needed, several at once, and the latest are kept."""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from steercache.core.errors import DamagedError
from steercache.core.layout import FileRecord
from steercache.store.blocks import read_index
from steercache.store.checksum import crc32c
from steercache.store.codecs import ChunkCodec
from steercache.store.geometry import ChunkIndex, ShardGeometry
from steercache.store.grouping import take_grouped
from steercache.store.mapped import VERIFY, Bytes, map_descriptor, opened

Rows = npt.NDArray[Any]
Slots = npt.NDArray[np.int64]
ChunkKey = tuple[Path, int, int]  # file, layer position, chunk

KEPT_BYTES = 128 * 2**20  # about 450 chunks of 256 rows of 576 bfloat16


class ChunkCache:
    """Decoded chunks, the latest used up to `max_bytes`, and the threads that decode them (the codecs release the GIL)."""

    def __init__(self, *, max_bytes: int = KEPT_BYTES) -> None:
        self._max_bytes = max_bytes
        self._n_bytes = 0
        self._chunks: OrderedDict[ChunkKey, Rows] = OrderedDict()
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._pool_pid = 0

    def get(self, keys: Sequence[ChunkKey], decode: Callable[[ChunkKey], Rows]) -> list[Rows]:
        """The chunks of `keys`, decoded where they are not kept; they are kept afterwards."""
        with self._lock:
            found = {key: self._chunks[key] for key in keys if key in self._chunks}
            for key in found:
                self._chunks.move_to_end(key)
        missing = [key for key in keys if key not in found]
        decoded = dict(zip(missing, self.decode(missing, decode), strict=True))
        with self._lock:
            for key, rows in decoded.items():
                if key not in self._chunks:
                    self._n_bytes += rows.nbytes
                self._chunks[key] = rows
            while self._n_bytes > self._max_bytes:
                self._n_bytes -= self._chunks.popitem(last=False)[1].nbytes
        return [found[key] if key in found else decoded[key] for key in keys]

    def decode(self, keys: Sequence[ChunkKey], decode: Callable[[ChunkKey], Rows]) -> list[Rows]:
        """The chunks of `keys`, decoded and not kept."""
        if len(keys) < 2:
            return [decode(key) for key in keys]
        with self._lock:
            if (
                self._pool is None or self._pool_pid != os.getpid()
            ):  # a forked child has its parent's pool, without threads
                n_threads = min(8, os.cpu_count() or 1)
                self._pool = ThreadPoolExecutor(n_threads, thread_name_prefix="steercache-decode")
                self._pool_pid = os.getpid()
            pool = self._pool
        return list(pool.map(decode, keys))

    def close(self) -> None:
        """Let go of the chunks and the threads."""
        with self._lock:
            self._chunks.clear()
            self._n_bytes = 0
            pool, self._pool = self._pool, None
        if pool is not None and self._pool_pid == os.getpid():
            pool.shutdown()


class CodedBlock:
    """A compressed shard. A chunk's checksum is compared before it is decoded: that costs nothing beside decoding it."""

    __slots__ = ("_chunks", "_codec", "_geometry", "_index", "_mapped", "_path", "_record")

    def __init__(
        self,
        path: Path,
        record: FileRecord,
        geometry: ShardGeometry,
        mapped: Bytes,
        index: ChunkIndex,
        *,
        codec: ChunkCodec,
        chunks: ChunkCache,
    ) -> None:
        self._path = path
        self._record = record
        self._geometry = geometry
        self._codec = codec
        self._chunks = chunks
        self._index = index
        self._mapped = mapped
        _check_index(self._index, self._mapped, geometry, record, path)

    def span(self, layer_pos: int, chunk: int) -> tuple[int, int]:
        """Where a chunk lies in the file: first byte and number of bytes."""
        offset, length = (int(n) for n in self._index[layer_pos, chunk])
        return offset, length

    def layer(self, layer_pos: int) -> Rows:
        """All used rows of one layer, shape (n, d)."""
        geometry = self._geometry
        if not geometry.n_rows:
            return np.empty((0, geometry.width), dtype=f"<u{geometry.item_bytes}")
        keys = [(self._path, layer_pos, chunk) for chunk in range(geometry.filled_chunks)]
        rows: Rows = np.concatenate(self._chunks.decode(keys, self._decode))[: geometry.n_rows]
        return rows

    def take(self, layer_pos: int, slots: Slots, out: Rows) -> None:
        """Put the rows at `slots` into `out`, shape (n, d)."""
        chunk_n = slots // self._geometry.chunk_rows
        wanted = np.unique(chunk_n).tolist()
        decoded = self._chunks.get([(self._path, layer_pos, chunk) for chunk in wanted], self._decode)
        rows_of = dict(zip(wanted, decoded, strict=True))

        def take(chunk: int, places: Slots, part: Rows) -> None:
            rows_of[chunk].take(places, axis=0, out=part, mode="clip")

        take_grouped(chunk_n, slots - chunk_n * self._geometry.chunk_rows, out, take)

    def _decode(self, key: ChunkKey) -> Rows:
        _, layer_pos, chunk = key
        geometry = self._geometry
        offset, length = self.span(layer_pos, chunk)
        packed = self._mapped[offset : offset + length]
        expected = self._record.chunk_crc32c[layer_pos * geometry.filled_chunks + chunk]
        if crc32c(packed) != expected:
            raise self._damaged(layer_pos, chunk, "its checksum differs")
        try:
            return self._codec.decode(packed, (geometry.chunk_rows, geometry.width))
        except (ValueError, RuntimeError) as error:
            raise self._damaged(layer_pos, chunk, str(error)) from error

    def _damaged(self, layer_pos: int, chunk: int, why: str) -> DamagedError:
        what = f"chunk {chunk} of layer position {layer_pos} is damaged: {why}"
        return DamagedError(what, place=str(self._path), hint=VERIFY)


def open_coded(
    path: Path, record: FileRecord, geometry: ShardGeometry, *, codec: ChunkCodec, chunks: ChunkCache
) -> CodedBlock:
    """Map a compressed shard.

    Raises:
        DamagedError: missing, of another size, or its chunk index does not fit its record.
    """
    with opened(path, record.n_bytes) as fd:
        index = read_index(fd, path, geometry)
        mapped = map_descriptor(fd, record.n_bytes)
    return CodedBlock(path, record, geometry, mapped, index, codec=codec, chunks=chunks)


def _check_index(index: ChunkIndex, mapped: Bytes, geometry: ShardGeometry, record: FileRecord, path: Path) -> None:
    filled = index[:, : geometry.filled_chunks].reshape(-1, 2)
    # Offsets and lengths beyond the file are caught before they are added: u64 sums would wrap.
    fits = bool((filled <= len(mapped)).all()) and bool((filled.sum(axis=1) <= len(mapped)).all())
    if not fits or len(record.chunk_crc32c) != len(filled):
        raise DamagedError("the chunk index does not fit the shard's rows", place=str(path), hint=VERIFY)
