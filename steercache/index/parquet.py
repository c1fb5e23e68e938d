"""Parquet files as views of a writing connection: DuckDB reads them by itself, so that memory holds no whole file."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from steercache.core.errors import DamagedError
from steercache.core.excerpts import first_line_of
from steercache.index.database import file_error
from steercache.index.io_errors import UnreadableIndexError
from steercache.index.schemas import ADDED_LATER, ANNOTATIONS, REMEDY, check_parquet


def table_of(path: Path) -> str:
    """SQL for the rows of one file. The path is taken literally, whatever signs of a pattern are in it."""
    return f"read_parquet({_literal(path)}, hive_partitioning = false)"


def _literal(path: Path) -> str:
    escaped = "".join(f"[{c}]" if c in "*?[" else c for c in str(path.absolute())).replace("'", "''")
    return f"'{escaped}'"


def rows_of(path: Path, schema: pa.Schema) -> str:
    """SQL for the rows of one file with every column of `schema`: those that were added later are NULL in older files."""
    lacking = [f"NULL AS {name}" for name in _lacking(path, schema)]
    return f"FROM {table_of(path)}" if not lacking else f"SELECT *, {', '.join(lacking)} FROM {table_of(path)}"


def _lacking(path: Path, schema: pa.Schema) -> tuple[str, ...]:
    """Columns of `schema` that the file is too old to have."""
    found = pq.read_schema(path.absolute()).names
    return tuple(name for name in schema.names if name in ADDED_LATER and name not in found)


def rows_of_shards(files: Sequence[tuple[int, Path]], schema: pa.Schema) -> str:
    """SQL for the rows of shards' files, pairs (shard_idx, file), one after the other, with a column `shard_idx`.

    Consecutive files with the same columns are one scan: planning a union takes time and memory by the square of its parts, and
    600 of them do not fit the writer's memory.
    """
    parts = []
    for lacking, some in groupby(files, key=lambda file: _lacking(file[1], schema)):
        these = list(some)
        columns = ", ".join(f"NULL AS {name}" if name in lacking else name for name in schema.names)
        paths, idxs = ", ".join(_literal(path) for _, path in these), ", ".join(str(idx) for idx, _ in these)
        parts.append(
            f"SELECT {columns}, ([{idxs}]::INTEGER[])[file_index::BIGINT + 1] AS shard_idx"
            f" FROM read_parquet([{paths}], hive_partitioning = false)"
        )
    return " UNION ALL ".join(parts)


def labels_of(annotations: Sequence[Path]) -> str:
    """SQL for the rows of annotation files with a column `dataset`, the name of each file's folder.

    Raises:
        DamagedError: a file is missing or has other columns.
    """
    columns, parts = ", ".join(ANNOTATIONS.names), []
    for path in annotations:
        check_parquet(path, ANNOTATIONS)
        dataset = path.parent.name.replace("'", "''")
        parts.append(f"SELECT {columns}, '{dataset}' AS dataset FROM ({rows_of(path, ANNOTATIONS)})")
    return " UNION ALL ".join(parts) if parts else f"SELECT {columns}, dataset FROM samples WHERE false"


@contextmanager
def views(con: duckdb.DuckDBPyConnection, **tables: str) -> Iterator[None]:
    """Temporary views over SQL, for the length of the block."""
    for name, sql in tables.items():
        con.execute(f"CREATE OR REPLACE TEMP VIEW {name} AS {sql}")
    yield
    for name in tables:  # after an error the transaction is over, and the connection with it
        con.execute(f"DROP VIEW {name}")


@contextmanager
def held(con: duckdb.DuckDBPyConnection, name: str, sql: str) -> Iterator[None]:
    """A temporary table of what SQL finds, for the length of the block: of files that are needed several times, opened once."""
    con.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS {sql}")
    yield
    con.execute(f"DROP TABLE {name}")


@contextmanager
def blaming(*paths: Path) -> Iterator[None]:
    """Errors of DuckDB while it reads files are about those files, unless they are about the index.

    Raises:
        DamagedError: a file's content is not what its schema says.
    """
    try:
        yield
    except (duckdb.OutOfMemoryException, duckdb.InterruptException):
        raise
    except duckdb.Error as error:
        about_index = file_error(error, paths[0])
        if about_index is not None and not isinstance(about_index, UnreadableIndexError):
            raise
        named = ", ".join(str(path) for path in ([p for p in paths if not _is_readable(p)] or paths))
        raise DamagedError(
            f"not the Parquet rows expected: {first_line_of(error)}", place=named, hint=REMEDY
        ) from error


def _is_readable(path: Path) -> bool:
    try:
        pq.read_table(path.absolute())
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        return False
    return True


def check_labels(con: duckdb.DuckDBPyConnection, annotations: Sequence[Path]) -> None:
    """Refuse two labels for one sample in the view `labels_file`. Raises DamagedError."""
    twice = con.execute(
        "SELECT dataset, ordinal FROM labels_file GROUP BY dataset, sample_id, ordinal HAVING count(*) > 1 ORDER BY ALL"
    ).fetchall()
    if twice:
        dataset, ordinal = twice[0][0], twice[0][1]
        raise DamagedError(
            f"{len(twice)} samples are labelled twice, the first is sample {ordinal} of {dataset!r}",
            place=", ".join(str(p) for p in annotations),
            hint="build the data set again: that writes its labels anew",
        )
