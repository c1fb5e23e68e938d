"""Opening an index file so that nothing inside it can reach another file: locked down before the file is attached.

An index may come from another machine or person. Its views, triggers, macros and defaults are code: external access and
settings are closed to the connection first, and what it is made of is compared with our migrations (`objects`) before
anything is read.
"""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb

from steercache.core.locks import NoLocksError
from steercache.index.place import duckdb_name

ALIAS = "steercache"  # catalog name of the index inside a connection
Config = dict[str, str | bool | int | float | list[str]]


LOGS = (
    ".wal",
    ".wal.checkpoint",
    ".wal.recovery",
)  # what DuckDB keeps beside a file; the latter two only of a killed writer


def logs_of(path: Path) -> tuple[Path, ...]:
    """DuckDB's write-ahead logs beside the file, whether they are there or not."""
    return tuple(path.with_name(path.name + log) for log in LOGS)


def attach_to_read(path: Path, config: Config) -> duckdb.DuckDBPyConnection:
    """A database in memory with the index attached to be read: it can open that file and no other.

    What a query sets or registers dies with the connection. Settings are locked with the limits of the SQL that is run on it.
    """
    name = duckdb_name(path)
    con = duckdb.connect(":memory:", config=config)
    return _attach(
        con, name, [f"SET allowed_paths = {_list([name, *(name + log for log in LOGS)])}", *_CLOSED], "(READ_ONLY)"
    )


def attach_to_write(path: Path, config: Config, *, first: Sequence[str] = ()) -> duckdb.DuckDBPyConnection:
    """A database in memory with the index attached to be written: it can open files of the index's folder and no others.

    `first` is SQL to run before settings are locked.

    Raises:
        NoLocksError: the file system has no record locks, without which DuckDB writes no file.
    """
    name, is_new = duckdb_name(path), not path.exists()
    folders = {str(Path(name).parent), str(path.absolute().parent)}  # with links followed, and as the caller names it
    allowed = sorted(folders | {_as_pattern(folder) for folder in folders})
    con = duckdb.connect(":memory:", config={**config, "temp_directory": f"{name}.tmp"})
    closed = [f"SET allowed_directories = {_list(allowed)}", *_CLOSED, "SET lock_configuration = true"]
    try:
        return _attach(con, name, [*first, *closed], "")
    except NoLocksError:
        if is_new:  # made before the lock was refused: an empty file is no index to the next reader
            path.unlink(missing_ok=True)
        raise


_CLOSED = ("SET enable_external_access = false",)


def _attach(
    con: duckdb.DuckDBPyConnection, name: str, before: Sequence[str], options: str
) -> duckdb.DuckDBPyConnection:
    try:
        for statement in before:
            con.execute(statement)
        with naming_missing_locks(Path(name)):
            con.execute(f"ATTACH {_quoted(name)} AS {ALIAS} {options}")
        con.execute(f"USE {ALIAS}")
    except BaseException:
        con.close()
        raise
    return con


@contextmanager
def naming_missing_locks(path: Path) -> Iterator[None]:
    """Say of a file that DuckDB opens where its file system has no record locks. Raises NoLocksError."""
    try:
        yield
    except duckdb.IOException as error:
        if (refused := _no_locks(error)) is None:
            raise
        raise NoLocksError(path, refused) from error


def _no_locks(error: duckdb.IOException) -> OSError | None:
    """The system's refusal of a lock that the file system does not have; None for a lock that somebody holds."""
    text = str(error)
    if "Could not set lock" not in text:
        return None
    if "File locks are not supported" in text:  # DuckDB's words for EOPNOTSUPP
        return OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    codes = (errno.ENOLCK, errno.ENOSYS)
    return next((OSError(code, os.strerror(code)) for code in codes if os.strerror(code) in text), None)


def _as_pattern(folder: str) -> str:
    """As `parquet.table_of` writes a path in SQL, signs of a pattern in brackets."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in folder)


def _list(names: Sequence[str]) -> str:
    return f"[{', '.join(map(_quoted, names))}]"


def _quoted(name: str) -> str:
    return "'" + name.replace("'", "''") + "'"
