"""Which state of the files the index equals: written with what was taken in, compared before every read."""

from collections.abc import Mapping

import duckdb
import pyarrow as pa


def read_seen(con: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """Path, relative to the root, to time of change in ns, as of the last time the index was brought up to date."""
    return dict(con.execute("SELECT path, mtime_ns FROM seen").fetchall())


def write_seen(con: duckdb.DuckDBPyConnection, seen: Mapping[str, int]) -> None:
    """Remember a state, in the transaction that made the index equal to it."""
    table = pa.table({"path": pa.array(seen.keys(), pa.string()), "mtime_ns": pa.array(seen.values(), pa.int64())})
    con.execute("DELETE FROM seen")
    con.register("seen_now", table)
    con.execute("INSERT INTO seen SELECT * FROM seen_now")
    con.unregister("seen_now")
