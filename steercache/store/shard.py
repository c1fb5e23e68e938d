"""Writing one shard: every layer of its rows, its coordinates, and nothing under its name until all of it is on the disk."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from steercache.core.layout import FileRecord, NonFinite, StoreLayout
from steercache.store import durable
from steercache.store.checksum import crc32c
from steercache.store.dtypes import bits_dtype, numpy_dtype
from steercache.store.geometry import shard_geometry
from steercache.store.metadata import COORDINATES
from steercache.store.non_finite import SITES_WITH_GAPS
from steercache.store.site_file import Piece, Rows, SiteFile, piece_of
from steercache.store.staging import Staging


def site_file_name(site: str, shard_idx: int) -> str:
    """The path of a site's shard inside its generation."""
    return f"{site}/c.0.{shard_idx}.0"


def coordinate_file_name(name: str, shard_idx: int) -> str:
    """The path of a coordinate's shard inside its generation."""
    return f"{name}/c.{shard_idx}"


def shard_file_names(layout: StoreLayout, shard_idx: int) -> list[str]:
    """The paths of all files of a shard inside its generation."""
    sites = [site_file_name(site.site, shard_idx) for site in layout.sites]
    return [*sites, *(coordinate_file_name(name, shard_idx) for name in COORDINATES)]


class ShardWriter:
    """The shard `shard_idx` of the generation at `path`, `n_rows` used rows; for one writing thread.

    Rows are put together in memory of `staging`, which goes from one writer to the next; space on the disk is reserved at the
    start. After a crash a new writer of the same shard begins again.

    Raises:
        BudgetError: no space. UsageError: the folder cannot be written.
    """

    def __init__(
        self, path: Path, layout: StoreLayout, shard_idx: int, *, n_rows: int, staging: Staging | None = None
    ) -> None:
        if not 0 <= shard_idx < layout.n_shards or not 0 <= n_rows <= layout.rows_per_shard:
            raise ValueError(f"shard {shard_idx} with {n_rows} rows does not fit {layout}")
        self.path = path
        self.layout = layout
        self.shard_idx = shard_idx
        self.n_rows = n_rows
        self._dtype = numpy_dtype(layout.dtype)
        self._bits = bits_dtype(layout.dtype)
        self.non_finite: tuple[NonFinite, ...] = ()  # known once the shard is finished
        self._files: dict[str, SiteFile] = {}
        memory = Staging() if staging is None else staging
        try:
            for site in layout.sites:
                target = path / site_file_name(site.site, shard_idx)
                self._files[site.site] = SiteFile(target, shard_geometry(layout, site, n_rows), memory)
        except BaseException:
            self.abort()
            raise

    def write(self, site: str, layer_pos: int, slot: int, block_nd: npt.NDArray[Any]) -> None:
        """Put a block at slots `slot` to `slot + n` of one layer: contiguous rows, of shape (n, d), in the run's dtype.

        Blocks may come in any order; one that comes again takes the place of the first.

        Raises:
            ValueError: the block is of another type or shape, or does not fit. BudgetError: no space.
        """
        file = self._checked(site, layer_pos, block_nd)
        file.write(layer_pos, block_nd.view(self._bits), [self.piece(slot, range(len(block_nd)))])

    def piece(self, slot: int, rows: Rows) -> Piece:
        """Ascending `rows` of a block as a piece for `write_pieces`, from `slot` on; the same for every site and layer.

        Raises:
            ValueError: the shard has no such slots.
        """
        if slot < 0 or slot + len(rows) > self.n_rows:
            raise ValueError(f"{self.path}: slots {slot} to {slot + len(rows)} of {self.n_rows}")
        return piece_of(slot, rows)

    def write_pieces(self, site: str, layer_pos: int, block_md: npt.NDArray[Any], pieces: Sequence[Piece]) -> None:
        """Put rows of a block into one layer: each contiguous, of shape (m, d), in the run's dtype.

        Raises:
            ValueError: the block is of another type or shape, or lacks rows. BudgetError: no space.
        """
        self._checked(site, layer_pos, block_md).write(layer_pos, block_md.view(self._bits), pieces)

    def _checked(self, site: str, layer_pos: int, block_md: npt.NDArray[Any]) -> SiteFile:
        """The file that a block belongs in. Raises ValueError for a block that fits none."""
        if site not in self._files:
            raise ValueError(f"{site!r} is no site of this shard, or the shard is finished or given up")
        file = self._files[site]
        geometry = file.geometry
        rows_lie = (
            block_md.size == 0 or block_md[0].flags.c_contiguous
        )  # rows may lie apart: layers of one file in turn
        if block_md.dtype != self._dtype or block_md.shape[1:] != (geometry.width,) or not rows_lie:
            raise ValueError(f"{site}: a contiguous (n, {geometry.width}) {self._dtype} block was expected")
        if not 0 <= layer_pos < geometry.n_layers:
            raise ValueError(f"{site}: layer {layer_pos} of {geometry.n_layers}")
        return file

    def finish(
        self, *, sample_idx: npt.NDArray[Any], position: npt.NDArray[Any], token_id: npt.NDArray[Any]
    ) -> tuple[FileRecord, ...]:
        """Seal the shard with the coordinates of its rows, each (n_rows,), and give its files their names, durably.

        Raises:
            ValueError: rows or coordinates are missing. BudgetError: no space.
        """
        columns = {"sample_idx": sample_idx, "position": position, "token_id": token_id}
        for name, values in columns.items():
            if values.shape != (self.n_rows,) or values.dtype != np.int32:
                raise ValueError(f"{name}: {values.shape} {values.dtype} for {self.n_rows} rows of int32")
        try:
            return self._finish(columns)
        except BaseException:
            self.abort()
            raise

    def _finish(self, columns: Mapping[str, npt.NDArray[Any]]) -> tuple[FileRecord, ...]:
        run_folder = self.path.name
        records, renames = [], []
        for site, file in self._files.items():
            file.seal(self.layout.dtype, gaps=site in SITES_WITH_GAPS)
            of_site = self.layout.site(site)
            self.non_finite += tuple(
                NonFinite(site=of_site.site, layer=layer, n_rows=n)
                for layer, n in zip(of_site.layers, file.non_finite_l, strict=True)
                if n
            )
            records.append(file.record(f"{run_folder}/{site_file_name(site, self.shard_idx)}"))
            renames.append((file.temporary, file.path))
        for name, values in columns.items():
            inner = coordinate_file_name(name, self.shard_idx)
            data = self._coordinate(values)
            renames.append((durable.write_temporary(self.path / inner, data), self.path / inner))
            records.append(FileRecord(path=f"{run_folder}/{inner}", n_bytes=len(data), crc32c=crc32c(data)))
        durable.publish(renames)
        self._files = {}
        return tuple(records)

    def abort(self) -> None:
        """Remove the temporary files; what an earlier shard committed stays."""
        for file in self._files.values():
            file.discard()
        self._files = {}

    def _coordinate(self, values: npt.NDArray[Any]) -> bytes:
        padded = np.full(self.layout.rows_per_shard, -1, dtype="<i4")
        padded[: self.n_rows] = values
        return padded.tobytes()
