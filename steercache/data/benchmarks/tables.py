"""Rows of Parquet files: labels in memory, pictures by row at first use."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from steercache.core.errors import DamagedError, ManifestError
from steercache.core.examples import ImageRef
from steercache.core.ids import digest_bytes
from steercache.data.benchmarks.columns import PICTURE, PICTURES, check_columns
from steercache.data.benchmarks.pictures import HEAD, check_head, file_picture, read_head

Cell = Mapping[str, Any]  # one picture as stored: {"bytes": ..., "path": ...}
GROUPS_KEPT = 2  # row groups of a picture column kept in memory per file


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPicture:
    """A picture of one row as found while opening: how to read it, the digest of its bytes, and what is wrong with it."""

    image: ImageRef | None
    digest: str | None
    problem: tuple[str, str] | None = None  # kind, message


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRow:
    """One row: its place for messages, its labels, and its pictures by column (a column may hold several)."""

    place: str
    labels: Mapping[str, Any]
    pictures: Mapping[str, tuple[StoredPicture, ...]]


class RowGroups:
    """Pictures of one Parquet file by row; the row groups read last stay, so that reading in order reads each once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept: OrderedDict[tuple[str, int], pa.ChunkedArray] = OrderedDict()
        self._lock = Lock()

    def __reduce__(self) -> tuple[type["RowGroups"], tuple[Path]]:
        """In another process nothing is in memory yet."""
        return RowGroups, (self._path.absolute(),)

    def picture(self, column: str, group: int, idx: int, position: int) -> bytes:
        """Bytes of one picture. Raises DamagedError when the file is no longer what it was."""
        with self._lock:
            if (column, group) not in self._kept:
                try:
                    table = pq.ParquetFile(self._path).read_row_group(group, columns=[column])
                except (OSError, ValueError, IndexError, pa.ArrowException) as err:
                    raise DamagedError(f"the pictures cannot be read: {err}", place=self._path.name) from err
                self._kept[(column, group)] = table.column(0)
                while len(self._kept) > GROUPS_KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end((column, group))
            value = self._kept[(column, group)][idx].as_py()
        cell = value[position] if isinstance(value, list) else value
        data: bytes = cell if isinstance(cell, bytes) else cell["bytes"]
        return data


def parquet_rows(
    folder: Path, files: Sequence[Path], wanted: Mapping[str, str], *, optional: Sequence[str] = (), limit: int | None
) -> Iterator[TableRow]:
    """Rows of the files in order; memory holds one batch of pictures while reading.

    Raises:
        ManifestError: columns missing or of another type in any file; DamagedError: a file is no Parquet file.
    """
    opened = [(path, _open_parquet(path)) for path in files]
    for path, file in opened:
        check_columns(file.schema_arrow, wanted, place=path.name)
    images = [name for name, kind in wanted.items() if kind in (PICTURE, PICTURES)]
    left = limit
    for path, file in opened:
        names = [*wanted, *(name for name in optional if name in file.schema_arrow.names)]
        groups = RowGroups(path)
        row_no = 0
        for group in range(file.num_row_groups):
            idx = 0
            for batch in _batches(file, group, names):
                for row in batch:
                    if left == 0:
                        return
                    place = f"{path.name}:{row_no + 1}"
                    stored = {
                        name: stored_pictures(row.pop(name), place, folder, partial(groups.picture, name, group, idx))
                        for name in images
                    }
                    yield TableRow(place=place, labels=row, pictures=stored)
                    idx, row_no = idx + 1, row_no + 1
                    left = None if left is None else left - 1


def _open_parquet(path: Path) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(path)
        _ = file.schema_arrow.names  # a name that is not UTF-8 is a ValueError
        return file
    except (OSError, ValueError, pa.ArrowException) as err:
        raise DamagedError(f"not a readable Parquet file: {err}", place=path.name, hint="download it again") from err


def _batches(file: pq.ParquetFile, group: int, names: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
    try:
        for batch in file.iter_batches(batch_size=64, row_groups=[group], columns=list(names)):
            yield batch.to_pylist()
    except (OSError, ValueError, ArithmeticError, LookupError, pa.ArrowException) as err:
        raise DamagedError(f"row group {group} cannot be read: {err}", hint="download the file again") from err


def stored_pictures(
    value: Any, place: str, folder: Path | None, read: Callable[[int], bytes]
) -> tuple[StoredPicture, ...]:
    """The pictures of one cell, a picture or a list of them; `read(i)` gives the bytes of the i-th one later."""
    cells: list[Cell | None] = value if isinstance(value, list) else [value]
    return tuple(_one(cell, place, folder, partial(read, i)) for i, cell in enumerate(cells))


def _one(cell: Cell | None, place: str, folder: Path | None, load: Callable[[], bytes]) -> StoredPicture:
    """Look at one picture while its bytes are at hand; they are not kept."""
    if cell is None:
        return StoredPicture(image=None, digest=None, problem=("missing_image", "the picture is missing"))
    data, path = cell.get("bytes"), cell.get("path")
    if data is not None:
        problem = check_head(data[:HEAD])
        name = path or place
        image = ImageRef(name=f"{place} ({name})" if path else place, load=load)
        return StoredPicture(
            image=image, digest=digest_bytes(data), problem=("broken_image", problem) if problem else None
        )
    if not path or folder is None:
        message = "the picture has neither bytes nor a path that can be followed"
        return StoredPicture(image=None, digest=None, problem=("missing_image", message))
    return picture_in_folder(folder, path)


def picture_in_folder(folder: Path, relative: str) -> StoredPicture:
    """A picture that a row names by path; its group is its file, so only its first bytes are read."""
    try:
        image = file_picture(folder, relative)
    except ManifestError as err:
        return StoredPicture(image=None, digest=None, problem=("outside_folder", err.message))
    _, problem = read_head(folder, relative)
    kind = "missing_image" if problem and "cannot be read" in problem else "broken_image"
    return StoredPicture(image=image, digest=f"file:{relative}", problem=(kind, problem) if problem else None)
