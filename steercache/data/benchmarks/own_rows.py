"""Rows of a user's own questions: cells of a JSONL, CSV or Parquet file, and the pictures that they name or hold."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from steercache.core.errors import DamagedError, ManifestError, Problem, SteercacheError
from steercache.core.examples import ImageRef
from steercache.core.excerpts import excerpt
from steercache.core.ids import digest_bytes
from steercache.data.arrow import parquet_rows
from steercache.data.benchmarks.pictures import check_head, file_picture
from steercache.data.benchmarks.tables import RowGroups
from steercache.data.lines import csv_rows, jsonl_rows
from steercache.data.rows import Row as TableRow
from steercache.data.rows import check_header

# By meaning: the column's names, the first that the file has is taken.
NAMES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "question": ("question", "prompt", "text"),
        "answer": ("answer",),
        "choices": ("choices", "options"),
        "image": ("image", "images"),
        "group": ("group", "group_id"),
        "task": ("task",),
        "split": ("split",),
    }
)
REQUIRED: Final = ("question", "answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnTable:
    """Rows of a file, or what is wrong with one, by the meaning of their columns; `has` are the meanings that it has."""

    rows: tuple[TableRow | Problem, ...]
    has: frozenset[str]


def read_table(path: Path) -> OwnTable:
    """Every row of the file. Pictures inside a Parquet file stay there: their cells hold references.

    Raises:
        ManifestError: no column of questions or of answers, or a file that cannot be read.
    """
    suffix, file = path.suffix.lower(), path.name
    if suffix == ".parquet":
        names = _parquet_names(path)
        columns = _columns(file, names)
        kept = tuple(name for meaning, name in columns.items() if meaning != "image")
        rows: list[TableRow | Problem] = list(parquet_rows(path, file, wanted=kept))
        if "image" in columns:
            rows = [*_with_stored_pictures(rows, path, columns["image"])]
    else:
        read = jsonl_rows(path, file) if suffix == ".jsonl" else csv_rows(path, file, wanted=())
        rows = list(read)
        names = list(dict.fromkeys(name for row in rows if isinstance(row, TableRow) for name in row.values))
        columns = _columns(file, names)
    renamed = [_renamed(row, columns) if isinstance(row, TableRow) else row for row in rows]
    return OwnTable(rows=tuple(renamed), has=frozenset(columns))


def _columns(file: str, names: list[str]) -> dict[str, str]:
    """The file's column of every meaning. Raises ManifestError where there is no question or no answer."""
    lower = {name.strip().lower(): name for name in reversed(names)}
    found = {
        meaning: next(lower[alias] for alias in aliases if alias in lower)
        for meaning, aliases in NAMES.items()
        if any(alias in lower for alias in aliases)
    }
    check_header(file, [*names, *(meaning for meaning in found if meaning not in names)], REQUIRED)
    return found


def _renamed(row: TableRow, columns: Mapping[str, str]) -> TableRow:
    values = {meaning: row.values.get(name) for meaning, name in columns.items()}
    return TableRow(file=row.file, line=row.line, values=values)


def _parquet_names(path: Path) -> list[str]:
    try:
        return list(pq.read_schema(path.absolute()).names)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        problem = Problem(loc="", kind="unreadable", message=f"not readable as Parquet: {error}", file=path.name)
        raise ManifestError("this data file cannot be read", problems=[problem], place=path.name) from error


def _with_stored_pictures(rows: list[TableRow | Problem], path: Path, column: str) -> Iterator[TableRow | Problem]:
    """The rows with the cells of `column`, their bytes replaced by what reads them again."""
    groups = RowGroups(path)
    try:
        with pq.ParquetFile(path.absolute()) as file:
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            starts = [0, *accumulate(sizes)]
            number = 0
            for group in range(len(sizes)):
                for batch in file.iter_batches(batch_size=64, row_groups=[group], columns=[column]):
                    for cell in batch.column(0):
                        row, idx = rows[number], number - starts[group]
                        number += 1
                        if isinstance(row, Problem):
                            yield row
                            continue
                        read = partial(groups.picture, column, group, idx)
                        stored = _stored(cell.as_py(), read)
                        yield TableRow(file=row.file, line=row.line, values={**row.values, column: stored})
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DamagedError(f"the pictures cannot be read: {error}", place=path.name) from error


@dataclass(frozen=True, slots=True)
class StoredBytes:
    """A picture inside a Parquet file: the digest and first bytes of it, and what reads it."""

    digest: str
    head: bytes
    load: Callable[[], bytes]


def _stored(value: Any, read: Callable[[int], bytes]) -> Any:
    if isinstance(value, list):
        return [_stored_one(item, partial(read, i)) for i, item in enumerate(value)]
    return _stored_one(value, partial(read, 0))


def _stored_one(value: Any, load: Callable[[], bytes]) -> Any:
    data = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(data, bytes):
        return StoredBytes(digest_bytes(data), data[:16], load)
    return value.get("path") if isinstance(value, dict) else value


def pictures_of(value: Any, folder: Path, place: str) -> tuple[list[ImageRef], list[str], str | None]:
    """The pictures of a cell with the digests of their bytes, and what is wrong with the first that cannot be used."""
    cells = value if isinstance(value, list) else [value]
    images: list[ImageRef] = []
    digests: list[str] = []
    for cell in cells:
        if isinstance(cell, dict):  # a path as `datasets` writes it
            cell = cell.get("path")
        if isinstance(cell, StoredBytes):
            image, digest, problem = ImageRef(name=place, load=cell.load), cell.digest, check_head(cell.head)
        elif isinstance(cell, str) and cell.strip():
            try:
                image = file_picture(folder, cell)
                data = image.load()
            except SteercacheError as error:
                return [], [], error.message if cell in error.message else f"{excerpt(cell)}: {error.message}"
            digest, problem = digest_bytes(data), check_head(data[:16])
        else:
            return [], [], "the picture is missing"
        if problem is not None:
            return [], [], problem
        images.append(image)
        digests.append(digest)
    return (images, digests, None) if images else ([], [], "the picture is missing")


def choices_of(value: Any) -> tuple[str, ...] | None:
    """Choices as texts: a list, or in CSV a JSON list or texts between `|`; None where they are neither.

    >>> choices_of("cat | dog"), choices_of("[1, 2]"), choices_of(None)
    (('cat', 'dog'), ('1', '2'), ())
    """
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = [part.strip() for part in value.split("|")] if "|" in value else value
    if not isinstance(value, list):
        return None
    texts = [cell_text(item) for item in value]
    return None if any(not text for text in texts) else tuple(text or "" for text in texts)


def cell_text(value: Any) -> str | None:
    """A cell as text: text without blanks around it, or a whole number; None where it is neither, "" where it is empty."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and value.is_integer():  # whole numbers beside empty cells, as data frames write them
        value = int(value)
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, str) or any("\ud800" <= c <= "\udfff" for c in value):
        return None
    return value.strip()
