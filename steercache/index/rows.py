"""Python mappings as rows of a small table, by way of Arrow."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import duckdb
import pyarrow as pa

from steercache.core.errors import DamagedError
from steercache.core.ids import canonical_json

Row = Mapping[str, Any]
_MISFITS = (duckdb.ConstraintException, duckdb.BinderException, duckdb.ConversionException, duckdb.OutOfRangeException)
_OWNERS = ("sweep_id", "vector_id", "run_id")  # ids in a row that say whose files it comes from
_JSON = frozenset({"manifest", "numerics", "params", "decoding", "details", "parts"})


def insert(con: duckdb.DuckDBPyConnection, table: str, rows: Sequence[Row]) -> None:
    """Append rows; keys are columns, a column that a row lacks is NULL, a key that is no column is an error."""
    if not rows:
        return
    with _fitting(table, rows):
        names = list(dict.fromkeys(name for row in rows for name in row))
        columns = {name: pa.array([_plain(name, row.get(name)) for row in rows]) for name in names}
        with registered(con, new_rows=pa.table(columns)):
            con.execute(f"INSERT INTO {table} BY NAME SELECT * FROM new_rows")


def replace(con: duckdb.DuckDBPyConnection, table: str, rows: Sequence[Row], *, key: Sequence[str]) -> None:
    """Append rows in the place of those that carry the same values in the columns `key`."""
    if rows:
        names = ", ".join(key)
        with _fitting(table, rows):
            keys = pa.table({name: pa.array([row[name] for row in rows]) for name in key})
        with registered(con, new_keys=keys):
            con.execute(f"DELETE FROM {table} WHERE ({names}) IN (SELECT ({names}) FROM new_keys)")
        insert(con, table, rows)


@contextmanager
def _fitting(table: str, rows: Sequence[Row]) -> Iterator[None]:
    """Rows come from files: values that a table cannot take are damage to a file.

    Raises:
        DamagedError: names the table and what the first row belongs to.
    """
    try:
        yield
    except (*_MISFITS, pa.ArrowException, ValueError, TypeError, KeyError, OverflowError) as error:
        owner = next((f"{name} {rows[0][name]}" for name in _OWNERS if name in rows[0]), None)
        message = f"a file's rows do not fit the table {table}: {(str(error).strip().splitlines() or [''])[0]}"
        hint = "restore the file from a copy, or remove it and make it again"
        raise DamagedError(message, place=owner, hint=hint) from error


@contextmanager
def registered(con: duckdb.DuckDBPyConnection, **tables: pa.Table) -> Iterator[None]:
    """Arrow tables under names of their own, for the length of the block."""
    for name, table in tables.items():
        con.register(name, table)
    yield
    for name in tables:  # after an error the transaction is over, and the connection with it
        con.unregister(name)


def _plain(name: str, value: Any) -> Any:
    """JSON columns as text, times as UTC without a zone, as the tables hold them."""
    if value is None:
        return None
    if name in _JSON:
        return canonical_json(value).decode()
    if name.endswith("_at"):
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
        return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
    return value
