"""Reading a generation: rows of a layer in any order, or whole layers without copying."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from steercache.core.errors import NotFoundError
from steercache.core.layout import CodecName, ShardRecord, SiteLayout, StoreLayout
from steercache.store.blocks import open_raw
from steercache.store.codecs import chunk_codec
from steercache.store.coded_block import ChunkCache, open_coded
from steercache.store.committed import CommittedShards
from steercache.store.dtypes import numpy_dtype
from steercache.store.elsewhere import Elsewhere
from steercache.store.generation import read_generation
from steercache.store.remote_rows import RemoteCodedRows, RemoteRows
from steercache.store.sites import ArenaRows, BlockRows, SiteRows

RowIndex = npt.NDArray[np.int64]
Rows = npt.NDArray[Any]


def open_generation(
    path: Path, shards: Iterable[ShardRecord] | Mapping[int, ShardRecord], *, elsewhere: Elsewhere | None = None
) -> "GenerationReader":
    """Open the generation at `path`, whose committed shards are `shards`; their files are opened when they are needed.

    A mapping from shard number to record may read its records lazily: opening then costs the same for any number of shards.
    With `elsewhere` only the generation's metadata is at `path`: blocks of the files are brought from there.

    Raises:
        NotFoundError: no generation is there. DamagedError: its metadata is damaged.
    """
    records = shards if isinstance(shards, Mapping) else {record.shard_idx: record for record in shards}
    return GenerationReader(path, records, elsewhere=elsewhere)


class GenerationReader:
    """Committed rows of one generation; safe to use from several threads.

    `side_by_side` maps uncompressed shards into one range of addresses where the system can (`store/arena.py`).
    """

    def __init__(
        self,
        path: Path,
        records: Mapping[int, ShardRecord],
        *,
        side_by_side: bool = True,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        info = read_generation(path)
        self.path = path
        self.layout: StoreLayout = info.layout
        self.codec: CodecName = info.codec
        self.lossy = info.lossy
        self._side_by_side = side_by_side
        self._elsewhere = elsewhere
        self._dtype = numpy_dtype(info.layout.dtype)
        self._shards = CommittedShards(path, info.layout, records)
        self._sites: dict[str, SiteRows] = {}
        self._chunks = ChunkCache()

    @property
    def shard_idxs(self) -> tuple[int, ...]:
        """Committed shards, ascending."""
        return self._shards.shard_idxs

    def record(self, shard_idx: int) -> ShardRecord:
        """The record of a committed shard. Raises NotFoundError where it is not committed."""
        return self._shards.record(shard_idx)

    def n_rows(self, shard_idx: int) -> int:
        """Used rows of a committed shard. Raises NotFoundError where it is not committed."""
        return self.record(shard_idx).n_rows

    def gather(self, site: str, layer: int, rows: RowIndex) -> Rows:
        """Rows of one layer in the given order, shape (n, d), in the stored dtype; duplicates are allowed.

        Raises:
            NotFoundError: the site, the layer or some rows are not there. DamagedError: files contradict their record.
        """
        kept, layer_pos = self._find(site, layer)
        wanted = np.ascontiguousarray(rows, dtype=np.int64)
        if not len(wanted):
            return np.empty((0, kept.width), dtype=self._dtype)
        return self._rows(kept).gather(layer_pos, wanted).view(self._dtype)

    def layer_views(self, site: str, layer: int) -> "LayerViews":
        """Pairs (first row, rows of shape (n, d)), one per committed shard, opened one by one; raw ones are not copied.

        Raises:
            NotFoundError: the site or the layer is not there.
        """
        return LayerViews(self, site, self._find(site, layer)[1])

    def shard_layer(self, site: str, layer_pos: int, shard_idx: int) -> Rows:
        """All used rows of one layer of one shard, shape (n, d), in the stored dtype; raw ones are not copied.

        Raises:
            NotFoundError: the shard is not committed. DamagedError: its file contradicts its record.
        """
        return self._rows(self.layout.site(site)).layer(layer_pos, shard_idx).view(self._dtype)

    def close(self) -> None:
        """Let go of the files; arrays handed out stay valid."""
        self._sites = {}
        self._chunks.close()

    def __enter__(self) -> "GenerationReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _find(self, site: str, layer: int) -> tuple[SiteLayout, int]:
        for kept in self.layout.sites:
            if kept.site == site:
                if layer in kept.layers:
                    return kept, kept.layer_pos(layer)
                layers = ", ".join(str(n) for n in kept.layers)
                raise NotFoundError(f"layer {layer} of {site} was not kept; there are: {layers}", place=str(self.path))
        sites = ", ".join(s.site for s in self.layout.sites)
        raise NotFoundError(f"no site {site!r}; there are: {sites}", place=str(self.path))

    def _rows(self, site: SiteLayout) -> SiteRows:
        if site.site not in self._sites:  # two threads may both make one: either serves
            self._sites[site.site] = self._open_site(site)
        return self._sites[site.site]

    def _open_site(self, site: SiteLayout) -> SiteRows:
        if self._elsewhere is not None and self.codec == "raw":
            return RemoteRows(self._shards, site, self._elsewhere)
        if self.codec != "raw":
            codec = chunk_codec(self.codec, self.layout.dtype)
            if self._elsewhere is not None:
                return RemoteCodedRows(self._shards, site, self._elsewhere, codec=codec, chunks=self._chunks)
            return BlockRows(self._shards, site, partial(open_coded, codec=codec, chunks=self._chunks))
        if self._side_by_side:
            try:
                return ArenaRows(self._shards, site)
            except OSError:  # not on this system, or its limit on addresses is low: one by one, then
                pass
        return BlockRows(self._shards, site, open_raw)


class LayerViews(Sequence[tuple[int, Rows]]):
    """One layer of every committed shard, in row order; each is opened when it is looked at."""

    def __init__(self, reader: GenerationReader, site: str, layer_pos: int) -> None:
        self._reader = reader
        self._site = site
        self._layer_pos = layer_pos
        self._shard_idxs = reader.shard_idxs

    def __len__(self) -> int:
        return len(self._shard_idxs)

    @overload
    def __getitem__(self, at: int) -> tuple[int, Rows]: ...

    @overload
    def __getitem__(self, at: slice) -> list[tuple[int, Rows]]: ...

    def __getitem__(self, at: int | slice) -> tuple[int, Rows] | list[tuple[int, Rows]]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        shard_idx = self._shard_idxs[at]
        rows_nd = self._reader.shard_layer(self._site, self._layer_pos, shard_idx)
        return shard_idx * self._reader.layout.rows_per_shard, rows_nd

    def __iter__(self) -> Iterator[tuple[int, Rows]]:
        """One after the other; the next one is opened before this one is used, so that the disk works meanwhile."""
        if not len(self):
            return
        current = self[0]
        for i in range(1, len(self)):
            ahead = self[i]
            yield current
            current = ahead
        yield current
