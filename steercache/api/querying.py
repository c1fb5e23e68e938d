"""A query's result as rows for a table, or written batch by batch: what `Cache.head` and `Cache.write` do."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from steercache.core.errors import UsageError
from steercache.core.unfinished import create_unfinished, release
from steercache.index.guard import Limits as Limits
from steercache.queries.bindings import guessed as guessed
from steercache.queries.formats import WRITERS, FormatName, first_rows
from steercache.queries.formats import plain as plain
from steercache.queries.isolated import isolated
from steercache.queries.library import Query, find_query, load_library
from steercache.queries.library import read_sql as read_sql
from steercache.queries.session import Session


def named_queries() -> Mapping[str, Query]:
    """The queries that ship, by name."""
    return load_library()


def named_query(name: str) -> Query:
    """One of the queries that ship. Raises NotFoundError."""
    return find_query(load_library(), name)


def head(session: Session, name_or_sql: str, n: int, bindings: Mapping[str, Any]) -> pa.Table:
    """The first `n` rows; what follows is never computed if it need not be. Raises as `Cache.query`."""
    with session.stream(name_or_sql, bindings) as reader:
        return pa.Table.from_batches(list(first_rows(reader, n)), schema=reader.schema)


def head_isolated(
    session: Session, name_or_sql: str, n: int, bindings: Mapping[str, Any], limits: Limits | None
) -> pa.Table:
    """See `Cache.head_isolated`."""
    _, text = session.read(name_or_sql)
    with isolated(session.cache.root, text, bindings, limits=limits or session.limits) as answer:
        return pa.Table.from_batches(list(first_rows(answer.reader, n)), schema=answer.reader.schema)


def write(
    session: Session,
    name_or_sql: str,
    bindings: Mapping[str, Any],
    *,
    sink: BinaryIO | Path,
    format_name: FormatName,
    limit: int | None,
) -> int:
    """Write the result into an open binary file, or a file by path; returns the number of rows. See `Cache.write`."""
    if not isinstance(sink, Path):
        with session.stream(name_or_sql, bindings) as reader:
            return WRITERS[format_name](first_rows(reader, limit), sink)
    part = None
    try:
        part, fd = create_unfinished(sink)
        with open(fd, "wb") as file:
            n_rows = write(session, name_or_sql, bindings, sink=file, format_name=format_name, limit=limit)
        part.replace(sink)
    except OSError as error:
        hint = "choose another file"
        raise UsageError(f"cannot be written: {error.strerror}", place=str(sink), hint=hint) from error
    finally:
        if part is not None:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            release(part)
    return n_rows
