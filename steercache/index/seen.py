"""Which state of the files the index equals: written with what was taken in, compared before every read.

`seen` has one state per run, sweep and folder, and is read before every query. `sources` has what a change is narrowed down by,
and is read only when something changed. A state is a digest of what `stat` says; the index compares states and nothing else.
"""

from collections.abc import Mapping
from typing import NamedTuple

import duckdb
import pyarrow as pa


class SourceState(NamedTuple):
    """The state of a file that rows were made from, and the id that these rows carry."""

    state: int
    id: str


def read_seen(con: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """Path, relative to the root, to its state as of the last time the index was brought up to date."""
    return dict(con.execute("SELECT path, state FROM seen").fetchall())


def write_seen(con: duckdb.DuckDBPyConnection, seen: Mapping[str, int]) -> None:
    """Remember a state, in the transaction that made the index equal to it."""
    table = pa.table({"path": pa.array(seen.keys(), pa.string()), "state": pa.array(seen.values(), pa.int64())})
    _replace(con, "seen", table)


def read_sources(con: duckdb.DuckDBPyConnection) -> dict[str, SourceState]:
    """Path, relative to the root, to the state that its rows were made from."""
    rows = con.execute("SELECT path, state, id FROM sources").fetchall()
    return {path: SourceState(state, of) for path, state, of in rows}


def write_sources(con: duckdb.DuckDBPyConnection, sources: Mapping[str, SourceState]) -> None:
    """Replace what is remembered of single files."""
    table = pa.table(
        {
            "path": pa.array(sources.keys(), pa.string()),
            "state": pa.array([s.state for s in sources.values()], pa.int64()),
            "id": pa.array([s.id for s in sources.values()], pa.string()),
        }
    )
    _replace(con, "sources", table)


def _replace(con: duckdb.DuckDBPyConnection, name: str, table: pa.Table) -> None:
    con.execute(f"DELETE FROM {name}")
    con.register("rows_now", table)
    con.execute(f"INSERT INTO {name} SELECT * FROM rows_now")
    con.unregister("rows_now")
