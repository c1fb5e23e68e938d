"""Tables that are Arrow: Parquet files and the hub's `datasets`; a few hundred rows in memory at a time."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from steercache.core.errors import Problem
from steercache.data.rows import Row, Rows, missing_columns, unreadable

BATCH_ROWS = 256


def parquet_rows(path: Path, file: str, *, wanted: tuple[str, ...]) -> Rows:
    """Rows of a Parquet file; only the wanted columns are read.

    Raises:
        ManifestError: it is no Parquet file, is damaged, or lacks a wanted column.
    """
    try:
        with pq.ParquetFile(path) as table:
            missing_columns(file, table.schema_arrow.names, wanted)
            yield from batch_rows(table.iter_batches(batch_size=BATCH_ROWS, columns=list(wanted)), file, wanted)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(file, f"not readable as Parquet: {str(error).splitlines()[0]}") from None


def batch_rows(batches: Iterable[Any], file: str, wanted: tuple[str, ...]) -> Rows:
    """Rows of Arrow batches or tables, numbered from 1 through all of them."""
    line = 0
    for batch in batches:
        columns = [list(_cells(batch.column(name))) for name in wanted]
        for cells in zip(*columns, strict=True):
            line += 1
            broken = [name for name, cell in zip(wanted, cells, strict=True) if cell is _BROKEN]
            if broken:
                yield Problem(loc=broken[0], kind="encoding", message="not UTF-8", file=file, line=line)
            else:
                yield Row(file=file, line=line, values=dict(zip(wanted, cells, strict=True)))


_BROKEN = object()  # stands for a cell whose bytes are not UTF-8; Arrow does not check when it writes


def _cells(column: Any) -> Iterator[Any]:
    try:
        yield from column.to_pylist()
    except UnicodeDecodeError:
        yield from map(_cell, column)


def _cell(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return _BROKEN
