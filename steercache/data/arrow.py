"""Tables that are Arrow: Parquet files and the hub's `datasets`; a few hundred rows in memory at a time."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from steercache.core.errors import Problem
from steercache.core.excerpts import first_line_of
from steercache.data.rows import Row, Rows, check_header, unreadable

BATCH_ROWS = 256


def parquet_rows(path: Path, file: str, *, wanted: tuple[str, ...]) -> Rows:
    """Rows of a Parquet file; only the wanted columns are read.

    Raises:
        ManifestError: it is no Parquet file, is damaged, lacks a wanted column, or has two of its name.
    """
    try:
        with pq.ParquetFile(path) as table:
            check_header(file, table.schema_arrow.names, wanted)
            yield from batch_rows(table.iter_batches(batch_size=BATCH_ROWS, columns=list(wanted)), file, wanted)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # Unicode: the name of a column
        raise unreadable(file, f"not readable as Parquet: {first_line_of(error)}") from None


def batch_rows(batches: Iterable[Any], file: str, wanted: tuple[str, ...]) -> Rows:
    """Rows of Arrow batches or tables, numbered from 1 through all of them."""
    line = 0
    for batch in batches:
        columns = [list(_cells(batch.column(name))) for name in wanted]
        for cells in zip(*columns, strict=True):
            line += 1
            broken = next(
                ((name, cell) for name, cell in zip(wanted, cells, strict=True) if type(cell) is _Broken), None
            )
            if broken:
                name, cell = broken
                yield Problem(loc=name, kind=cell.kind, message=cell.message, file=file, line=line)
            else:
                yield Row(file=file, line=line, values=dict(zip(wanted, cells, strict=True)))


@dataclass(frozen=True, slots=True)
class _Broken:
    """Stands for a cell whose value Python has no object for."""

    kind: str
    message: str


# Arrow does not check text when it writes; dates and durations go beyond Python's; a time zone may be unknown here.
_UNREADABLE = (ValueError, ArithmeticError, LookupError)


def _cells(column: Any) -> Iterator[Any]:
    try:
        yield from column.to_pylist()
    except _UNREADABLE:
        yield from map(_cell, column)


def _cell(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return _Broken("encoding", "not UTF-8")
    except _UNREADABLE as error:
        return _Broken("value", f"{scalar.type} that cannot be read: {first_line_of(error)}")
