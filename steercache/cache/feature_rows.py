"""Features of a shard as a Parquet file, sorted by feature and row so that whole row groups are skipped, and back."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from steercache.cache.feature_files import Encoding, FeatureShard
from steercache.cache.paths import EncodingPaths
from steercache.core.errors import DamagedError, NotFoundError
from steercache.core.features import FeatureActs, stable_order
from steercache.core.ids import SHORT_ID
from steercache.core.layout import FileRecord
from steercache.core.selection import RowIndex
from steercache.index.features import FEATURE_ROWS
from steercache.store import durable
from steercache.store.checksum import extend

GROUP_ROWS: Final = 65_536
_AGAIN = "encode the run again: that computes what is missing or damaged"
_ENCODINGS = {"row_idx": "DELTA_BINARY_PACKED", "feature": "DELTA_BINARY_PACKED", "value": "PLAIN"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entries:
    """Activations that are not zero, of some rows, each array (m,): `slot` is the row within its shard, `feature` the latent.

    They are in the order of rows, and within a row of features.
    """

    slot: npt.NDArray[np.int32]
    feature: npt.NDArray[np.int32]
    value: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.slot)

    @property
    def n_bytes(self) -> int:
        """Bytes in memory."""
        return self.slot.nbytes + self.feature.nbytes + self.value.nbytes


class FeatureFileWriter:
    """The Parquet file of one shard, under construction; memory holds one stretch of it.

    Each call of `add` becomes a stretch sorted by feature and row; stretches cover ascending rows, so that one of bounded size
    may end within the shard. Leaving the block without `finish` removes what was written.
    """

    def __init__(self, path: Path, *, first_row: int, n_features: int) -> None:
        self._path, self._first_row, self._n_features = path, first_row, n_features
        self.n_entries = 0

    def __enter__(self) -> "FeatureFileWriter":
        durable.make_folder(self._path.parent)
        self._file = _DurableFile(self._path)
        self._writer = pq.ParquetWriter(
            pa.PythonFile(self._file, mode="w"),
            FEATURE_ROWS,
            compression="none",
            use_dictionary=False,
            column_encoding=_ENCODINGS,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._file.discard()

    def add(self, parts: Sequence[Entries]) -> None:
        """Sort the parts, which follow each other, into one stretch and write it."""
        feature = np.concatenate([part.feature for part in parts])
        order = stable_order(feature, self._n_features)
        slot = np.concatenate([part.slot for part in parts])[order]
        value = np.concatenate([part.value for part in parts])[order]
        columns = (slot.astype(np.int64) + self._first_row, feature[order], value)
        self._writer.write_table(
            pa.table([pa.array(column) for column in columns], schema=FEATURE_ROWS), row_group_size=GROUP_ROWS
        )
        self.n_entries += len(order)

    def finish(self, *, below: Path) -> FileRecord:
        """Put the file under its name, durably; its record names it relative to `below`."""
        self._writer.close()
        self._file.publish()
        return FileRecord(
            path=self._path.relative_to(below).as_posix(), n_bytes=self._file.n_bytes, crc32c=self._file.crc32c
        )


class _DurableFile:
    """A file under construction, as Arrow writes to one, with size and checksum of what went through."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary, self._fd = durable.create_temporary(path)
        self._open = self._unnamed = True
        self.n_bytes, self.crc32c = 0, 0

    def write(self, data: bytes) -> int:
        if (
            not self._open
        ):  # Arrow closes a writer that was left, when it is collected: its descriptor may be another file's now
            return len(data)
        durable.pwrite(self._fd, data, self.n_bytes)
        self.crc32c = extend(self.crc32c, bytes(data))
        self.n_bytes += len(data)
        return len(data)

    def tell(self) -> int:
        return self.n_bytes

    def flush(self) -> None:
        """Nothing waits in memory."""

    @property
    def closed(self) -> bool:
        return not self._open

    def close(self) -> None:
        """Left to `publish` and `discard`."""

    def publish(self) -> None:
        durable.fsync(self._fd)
        self._close()
        durable.publish([(self._temporary, self._path)])
        self._unnamed = False

    def discard(self) -> None:
        self._close()
        if self._unnamed:
            durable.remove(self._temporary)

    def _close(self) -> None:
        if self._open:
            durable.close(self._fd)
            self._open = False


class EncodedRows:
    """Features of a run's rows by one SAE, read from the files; holds nothing open."""

    def __init__(self, encoding: Encoding) -> None:
        self.encoding = encoding

    def __repr__(self) -> str:
        sae, run_id = self.encoding.document.sae, self.encoding.document.run_id[:SHORT_ID]
        return f"<{self.encoding.n_rows:,} rows of run {run_id} as features of {sae.name!r}>"

    @property
    def n_features(self) -> int:
        """Number of features of the SAE."""
        return self.encoding.document.sae.d_sae

    def read(self, rows: RowIndex) -> FeatureActs:
        """Features of `rows`, rows of the run's arrays, in the given order; duplicates are allowed.

        Raises:
            NotFoundError: some rows have no features here. DamagedError: a file contradicts its record.
        """
        wanted, place = np.unique(np.asarray(rows, dtype=np.int64), return_inverse=True)
        acts = self._ascending(wanted)
        return acts if np.array_equal(place, np.arange(len(wanted))) else acts.rows(place)

    def read_shard(self, shard_idx: int) -> FeatureActs:
        """Features of all rows of a shard, in the order of its rows. Raises as `read`."""
        first = shard_idx * self.encoding.rows_per_shard
        return self._ascending(np.arange(first, first + self._record(shard_idx).n_rows, dtype=np.int64))

    def read_feature(
        self, feature: int, *, shards: Collection[int] | None = None
    ) -> tuple[RowIndex, npt.NDArray[np.float32]]:
        """Rows in which one feature fires, ascending, and its activations there; other row groups are not read.

        `shards` are those whose rows are wanted (None: all).

        Raises:
            NotFoundError: the SAE has no such feature. DamagedError: a file contradicts its record.
        """
        if not 0 <= feature < self.n_features:
            raise NotFoundError(f"no feature {feature}; the SAE has features 0 to {self.n_features - 1}")
        rows, values = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.float32)]
        for shard_idx, record in self.encoding.fresh.items():
            if shards is not None and shard_idx not in shards:
                continue
            for batch in groups_of(self.encoding.paths, record, feature=feature):
                mine = batch["feature"] == feature
                rows.append(batch["row_idx"][mine])
                values.append(batch["value"][mine])
        row, value = np.concatenate(rows), np.concatenate(values)
        order = np.argsort(row, kind="stable")
        return row[order], value[order]

    def _record(self, shard_idx: int) -> FeatureShard:
        if shard_idx not in self.encoding.fresh:
            why = "are stale" if shard_idx in self.encoding.stale else "are not there"
            raise NotFoundError(
                f"features of shard {shard_idx} {why}",
                place=str(self.encoding.paths.folder),
                hint="encode the run again",
            )
        return self.encoding.fresh[shard_idx]

    def _ascending(self, wanted: RowIndex) -> FeatureActs:
        """Features of ascending rows without duplicates."""
        per_shard = self.encoding.rows_per_shard
        places, features, values = [], [], []
        for shard_idx in np.unique(wanted // per_shard).tolist():
            record, first = self._record(shard_idx), shard_idx * per_shard
            mine = np.flatnonzero(wanted // per_shard == shard_idx)
            place_of = np.full(record.n_rows, -1, dtype=np.int64)
            slots = wanted[mine] - first
            if slots[-1] >= record.n_rows or slots[0] < 0:
                raise NotFoundError(f"row {first + slots[-1]} is not there: shard {shard_idx} has {record.n_rows} rows")
            place_of[slots] = mine
            for batch in groups_of(self.encoding.paths, record):
                place = place_of[batch["row_idx"] - first]
                kept = slice(None) if len(mine) == record.n_rows else place >= 0
                places.append(place[kept])
                features.append(batch["feature"][kept])
                values.append(batch["value"][kept])
        return FeatureActs.from_triples(
            np.concatenate([np.empty(0, dtype=np.int64), *places]),
            np.concatenate([np.empty(0, dtype=np.int32), *features]),
            np.concatenate([np.empty(0, dtype=np.float32), *values]),
            n_rows=len(wanted),
            n_features=self.n_features,
        )


def groups_of(
    paths: EncodingPaths, record: FeatureShard, *, feature: int | None = None
) -> Iterator[Mapping[str, npt.NDArray[Any]]]:
    """The columns of a shard's file, row group by row group; those that cannot hold `feature` are left out.

    Raises:
        DamagedError: the file is missing, short or not what its record says.
    """
    path = paths.folder / record.file.path
    try:
        if path.stat().st_size != record.file.n_bytes:
            raise DamagedError(
                f"{path.stat().st_size} bytes, the record says {record.file.n_bytes}", place=str(path), hint=_AGAIN
            )
        with pq.ParquetFile(path.absolute()) as file:
            if not file.schema_arrow.equals(FEATURE_ROWS) or file.metadata.num_rows != record.n_entries:
                raise DamagedError("not the features that its record names", place=str(path), hint=_AGAIN)
            for i in range(file.num_row_groups):
                if feature is not None:
                    bounds = file.metadata.row_group(i).column(1).statistics
                    if not bounds.min <= feature <= bounds.max:
                        continue
                table = file.read_row_group(i)
                yield {name: table[name].to_numpy() for name in FEATURE_ROWS.names}
    except FileNotFoundError as error:
        raise DamagedError("the file is missing", place=str(path), hint=_AGAIN) from error
    except (pa.ArrowException, OSError) as error:
        raise DamagedError(f"not readable: {error}", place=str(path), hint=_AGAIN) from error
