"""The committed shards of one generation: their records, files and geometry, and what to say about rows that are not there."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from steercache.core.errors import DamagedError, NotFoundError
from steercache.core.layout import FileRecord, ShardRecord, SiteLayout, StoreLayout
from steercache.store.geometry import ShardGeometry, shard_geometry
from steercache.store.mapped import VERIFY
from steercache.store.shard import site_file_name

RowIndex = npt.NDArray[np.int64]

_STATUS = "steercache cache status"


class CommittedShards:
    """Shards of the generation at `path`; `records` may read a record at first use."""

    def __init__(self, path: Path, layout: StoreLayout, records: Mapping[int, ShardRecord]) -> None:
        self.path = path
        self.layout = layout
        self._records = records

    @property
    def shard_idxs(self) -> tuple[int, ...]:
        """Their numbers, ascending."""
        return tuple(shard_idx for shard_idx in sorted(self._records) if self._has(shard_idx))

    def record(self, shard_idx: int) -> ShardRecord:
        """The record of one shard. Raises NotFoundError where it is not committed."""
        if not self._has(shard_idx):
            raise NotFoundError(f"shard {shard_idx} is not committed", place=str(self.path), hint=_STATUS)
        return self._records[shard_idx]

    def n_rows(self, shard_idx: int) -> int:
        """Used rows of a shard; 0 where it is not committed."""
        return self._records[shard_idx].n_rows if self._has(shard_idx) else 0

    def geometry(self, site: SiteLayout, shard_idx: int) -> ShardGeometry:
        """Where the rows of a site of a shard lie. Raises NotFoundError where it is not committed."""
        record = self.record(shard_idx)
        if record.n_rows > self.layout.rows_per_shard:
            raise DamagedError(f"shard {shard_idx} claims {record.n_rows} rows", place=str(self.path), hint=VERIFY)
        return shard_geometry(self.layout, site, record.n_rows)

    def file(self, site: SiteLayout, shard_idx: int) -> tuple[Path, FileRecord]:
        """The file of a site of a shard. Raises NotFoundError or, where the record has none, DamagedError."""
        inner = site_file_name(site.site, shard_idx)
        for file in self.record(shard_idx).files:
            if file.path == f"{self.path.name}/{inner}":
                return self.path / inner, file
        raise DamagedError(f"shard {shard_idx} has no record of {inner}", place=str(self.path), hint=VERIFY)

    def _has(self, shard_idx: int) -> bool:
        return 0 <= shard_idx < self.layout.n_shards and shard_idx in self._records

    def refuse_unknown(self, rows: RowIndex) -> None:
        """Raise NotFoundError naming those of `rows` that no committed shard has, if there are any."""
        shard_n = rows // self.layout.rows_per_shard
        shards, place_n = np.unique(shard_n, return_inverse=True)
        known = np.array([self.n_rows(int(s)) for s in shards], dtype=np.int64)
        absent = np.unique(rows[rows - shard_n * self.layout.rows_per_shard >= known[place_n]])
        if not len(absent):
            return
        shown = ", ".join(str(row) for row in absent[:5]) + (", ..." if len(absent) > 5 else "")
        shard_idx = int(absent[0] // self.layout.rows_per_shard)
        n_rows = self.n_rows(shard_idx)
        why = f"shard {shard_idx} has {n_rows} rows" if n_rows else f"shard {shard_idx} is not committed"
        raise NotFoundError(f"{len(absent)} rows are not there: {shown} ({why})", place=str(self.path), hint=_STATUS)


class RowPlaces:
    """Of every shard, how many rows it has and how many its file has for each layer; filled in as shards are opened."""

    def __init__(self, shards: CommittedShards) -> None:
        self._shards, self._rows_per_shard = shards, shards.layout.rows_per_shard
        self.used = np.full(shards.layout.n_shards, -1, dtype=np.int64)  # -1 until the shard is opened
        self.slots = np.zeros(shards.layout.n_shards, dtype=np.int64)  # unused ones included

    def locate(self, rows: RowIndex, open_shard: Callable[[int], None]) -> tuple[RowIndex, RowIndex]:
        """The shard of each row, and its number inside it; shards that are not open are opened.

        Raises:
            NotFoundError: no committed shard has some of the rows. As `open_shard`.
        """
        shard_n = rows // self._rows_per_shard
        first, last = int(shard_n.min()), int(shard_n.max())
        if first < 0 or last >= len(self.used):
            self._shards.refuse_unknown(rows)
        slot_n = rows - shard_n * self._rows_per_shard
        if bool((slot_n >= self.used[shard_n]).any()):  # not opened yet, or not there
            self._shards.refuse_unknown(rows)
            for shard_idx in np.unique(shard_n).tolist():
                open_shard(shard_idx)
        return shard_n, slot_n
