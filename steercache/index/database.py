"""`Index`: the DuckDB file, opened for one query or one transaction and let go again."""

import re
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import duckdb

from steercache.core.errors import BudgetError, BusyError, NotFoundError, SteercacheError, SteercacheWarning
from steercache.core.excerpts import first_line_of
from steercache.index.attach import Config, attach_to_read, attach_to_write, logs_of
from steercache.index.gate import describe_process, gate_of, retry, writers_lock
from steercache.index.io_errors import REBUILD, io_error, unreadable
from steercache.index.migrate import is_current, migrate
from steercache.index.objects import foreign_objects, trust_written
from steercache.index.place import duckdb_name

_HOLDER = re.compile(r"\(PID (\d+)\)")  # in DuckDB's message
_BROKEN = (duckdb.InternalException, duckdb.FatalException)  # what DuckDB says of a file that contradicts itself
WRITER: Config = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "memory_limit": "512MiB",  # a build beside it has better uses for memory, and one shard needs far less
}


def reader_config() -> Config:
    """Settings of a reading connection; what it spills goes to a folder of its own, which DuckDB removes with it."""
    return {
        "python_enable_replacements": "false",  # a table name in a query is a table, never a Python variable
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "temp_directory": str(Path(tempfile.gettempdir()) / f"steercache-{uuid.uuid4().hex}"),
    }


class Index:
    """The index at `path`. Holds nothing open between calls; `wait_s` is how long a held file is waited for.

    Raises:
        UsageError: DuckDB cannot keep a file at `path`.
    """

    def __init__(self, path: Path, *, wait_s: float = 10.0) -> None:
        duckdb_name(path)  # an index that DuckDB could not open is refused at once, not after an hour of building
        self.path = path
        self.wait_s = wait_s

    @contextmanager
    def read(self, *, wait_s: float | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection that can only read, for one query. An index of an older version is brought up to date first. Another
        process that holds the file is waited for `wait_s` seconds (None: as long as the index is).

        Raises:
            NotFoundError: there is no index yet.
            BusyError: another process is writing to it; names the process.
            DamagedError: it is not readable, or a newer steercache wrote it.
        """
        wait_s = self.wait_s if wait_s is None else wait_s
        with gate_of(self.path).hold(self.path, self.wait_s), naming_damage(self.path):
            con = retry(self._open_reader, wait_s=wait_s, again=is_busy)
            try:
                if not is_current(con, place=str(self.path)):
                    con.close()
                    with writers_lock(self.path, self.wait_s):
                        retry(self._open_writer, wait_s=self.wait_s, again=is_busy).close()
                    con = retry(self._open_reader, wait_s=wait_s, again=is_busy)
                yield con
            finally:
                con.close()

    @contextmanager
    def write(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection inside one transaction: committed when the block ends well, rolled back otherwise.

        Makes the file when there is none.

        Raises:
            BusyError: another process has it open; names the process.
            DamagedError: it is not readable, or a newer steercache wrote it.
            UsageError: the folder cannot be written to.
            BudgetError: the disk is full.
        """
        with (
            gate_of(self.path).hold(self.path, self.wait_s),
            writers_lock(self.path, self.wait_s),
            naming_damage(self.path),
        ):
            con = retry(self._open_writer, wait_s=self.wait_s, again=is_busy)
            try:
                con.execute("BEGIN")
                yield con
                con.execute("COMMIT")
            finally:
                con.close()  # an open transaction is rolled back
            trust_written(self.path)

    def _open_reader(self) -> duckdb.DuckDBPyConnection:
        if not self.path.exists():
            raise NotFoundError("there is no index yet", place=str(self.path), hint=REBUILD)
        con = attach_to_read(self.path, reader_config())
        try:
            if found := foreign_objects(con, self.path):
                raise ForeignIndexError(self.path, found)
        except BaseException:
            con.close()
            raise
        return con

    def _open_writer(self) -> duckdb.DuckDBPyConnection:
        """The file attached to be written, at its newest version; one that is not ours is moved aside and a new one begun."""
        if not self.path.exists():
            for log in logs_of(self.path):  # left by a rebuild that was killed; it belongs to no file
                log.unlink(missing_ok=True)
        con = attach_to_write(self.path, WRITER)
        try:
            if found := foreign_objects(con, self.path):
                con.close()
                set_aside(self.path, found)
                con = attach_to_write(self.path, WRITER)
            if not is_current(con, place=str(self.path)):
                con.execute("BEGIN")
                migrate(con)
                con.execute("COMMIT")
        except BaseException:
            con.close()
            raise
        return con


class ForeignIndexError(NotFoundError):
    """The file holds what our migrations do not make: as good as no index. Writing, or a rebuild, moves it aside."""

    def __init__(self, path: Path, found: list[str]) -> None:
        named = ", ".join(found[:5]) + (" ..." if len(found) > 5 else "")
        super().__init__(f"this index is not as steercache makes it: {named}", place=str(path), hint=REBUILD)


def set_aside(path: Path, found: list[str]) -> Path:
    """Rename an index that is not steercache's, with a note; returns the new name. The caller holds the writers' lock."""
    aside = path.with_name(f"{path.name}.aside-{uuid.uuid4().hex[:8]}")
    path.replace(aside)
    for log, moved in zip(logs_of(path), logs_of(aside), strict=True):
        with suppress(FileNotFoundError):
            log.replace(moved)
    error = ForeignIndexError(path, found)
    warnings.warn(
        f"{error.message}; it is kept as {aside.name}, and made again from the files", SteercacheWarning, stacklevel=2
    )
    return aside


def is_busy(error: Exception) -> bool:
    """Whether DuckDB reports that another process has the file open."""
    if isinstance(error, duckdb.IOException):
        return "Could not set lock" in str(error)
    # this very process has the file open by another way than `Index`: a notebook's own duckdb.connect
    return isinstance(error, duckdb.ConnectionException | duckdb.ResourceInUseException)


@contextmanager
def naming_damage(path: Path) -> Iterator[None]:
    """Turn what DuckDB says about the file itself into our errors; errors of the SQL pass through."""
    try:
        yield
    except duckdb.Error as error:
        translated = file_error(error, path)
        if translated is None:
            raise
        raise translated from error


def file_error(error: duckdb.Error, path: Path) -> SteercacheError | None:
    """Our error for one of DuckDB's about the file at `path`; None when the file is not to blame."""
    if is_busy(error):
        held = _HOLDER.search(str(error))
        holder = describe_process(held.group(1)) if held else "this process, by a connection of its own"
        return BusyError(f"the index is held by {holder}", place=str(path), hint="close it there, then try again")
    if isinstance(error, duckdb.OutOfMemoryException):
        return BudgetError(first_line_of(error), place=str(path), hint="free memory, then try again")
    found = io_error(error, place=path)
    if found is None and (isinstance(error, _BROKEN) or type(error) is duckdb.Error):
        return unreadable(first_line_of(error), path)
    return found
