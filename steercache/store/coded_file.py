"""One site's compressed file of a shard under construction: chunks of any length, laid end to end in (layer, row) order."""

from collections.abc import Iterable
from pathlib import Path

from steercache.core.layout import FileRecord
from steercache.store import durable
from steercache.store.checksum import combine_all, crc32c
from steercache.store.geometry import ShardGeometry, pack_index, packed_index


class CodedFile:
    """A compressed shard file of one site, filled layer by layer, sealed by `seal`, named by `durable.publish`."""

    def __init__(self, path: Path, geometry: ShardGeometry) -> None:
        self.path = path
        self.geometry = geometry
        self._fd: int | None
        self.temporary, self._fd = durable.create_temporary(path)
        self._n_bytes = 0
        self._lengths: list[int] = []
        self._chunk_crc: list[int] = []
        self._index = b""

    def append(self, chunks: Iterable[bytes]) -> None:
        """Write the next chunks."""
        if self._fd is None:
            raise ValueError("the file is sealed or given up")
        for packed in chunks:
            durable.pwrite(self._fd, packed, self._n_bytes)
            self._n_bytes += len(packed)
            self._lengths.append(len(packed))
            self._chunk_crc.append(crc32c(packed))

    def seal(self) -> None:
        """Write the index and wait for the disk. Raises ValueError where chunks are missing."""
        geometry = self.geometry
        n_chunks = geometry.n_layers * geometry.filled_chunks
        if self._fd is None or len(self._lengths) != n_chunks:
            raise ValueError(f"{self.path}: {len(self._lengths)} of {n_chunks} chunks")
        self._index = pack_index(packed_index(geometry, self._lengths))
        durable.pwrite(self._fd, self._index, self._n_bytes)
        durable.fsync(self._fd)
        durable.close(self._fd)
        self._fd = None

    def record(self, run_path: str) -> FileRecord:
        """The sealed file's size and checksums, under the path `run_path`."""
        pieces = [*zip(self._chunk_crc, self._lengths, strict=True), (crc32c(self._index), len(self._index))]
        return FileRecord(
            path=run_path,
            n_bytes=self._n_bytes + len(self._index),
            crc32c=combine_all(pieces),
            chunk_crc32c=tuple(self._chunk_crc),
        )

    def discard(self) -> None:
        """Close and remove the temporary file."""
        if self._fd is not None:
            durable.close(self._fd)
            self._fd = None
        durable.remove(self.temporary)
