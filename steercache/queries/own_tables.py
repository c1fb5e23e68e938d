"""Frames of a caller's own that a query can join: pandas and polars frames, Arrow tables, mappings of columns."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from steercache.core.errors import QueryError


def as_arrow(tables: Mapping[str, Any] | None, *, taken: frozenset[str]) -> dict[str, pa.Table]:
    """`tables` as Arrow tables by name; `taken` are the names that the cache's own tables have.

    Raises:
        QueryError: a name that is taken or is no identifier, or a value that is not a table.
    """
    found = {}
    for name, frame in (tables or {}).items():
        if not name.isidentifier() or name.lower() in taken:
            why = "is a table of the cache" if name.lower() in taken else "is not a plain name"
            raise QueryError(f"the table {name!r} {why}", hint="use another name, such as my_labels")
        found[name] = _as_arrow(name, frame)
    return found


def _as_arrow(name: str, frame: Any) -> pa.Table:
    try:
        if isinstance(frame, pa.Table):
            return frame
        if isinstance(frame, Mapping):
            return pa.table(dict(frame))
        if hasattr(frame, "to_arrow"):  # polars
            return frame.to_arrow()
        if hasattr(frame, "to_arrow_table"):  # a DuckDB relation, such as another query's result
            return frame.to_arrow_table()
        if hasattr(frame, "__arrow_c_stream__"):
            return pa.table(frame)
        if type(frame).__module__.partition(".")[0] == "pandas":
            return pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise QueryError(f"the table {name!r} has columns that Arrow cannot hold: {error}") from error
    raise QueryError(
        f"the table {name!r} is a {type(frame).__name__}",
        hint="give a pandas or polars frame, an Arrow table, or a mapping of columns",
    )
