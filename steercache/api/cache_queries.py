"""SQL, named queries and selections over a cache."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from steercache.api.cache_core import CacheCore
from steercache.api.runs import Run
from steercache.core.selection import Selection
from steercache.index.relation import Relation
from steercache.queries.formats import FormatName
from steercache.queries.library import Query

if TYPE_CHECKING:
    import pyarrow as pa

    from steercache.index.guard import Limits


class QueryMethods(CacheCore):
    """SQL, named queries and selections over a cache."""

    def sql(self, sql: str, /, *, tables: Mapping[str, Any] | None = None, **bindings: Any) -> Relation:
        """The result of one SELECT as a DuckDB relation (`.df()`, `.pl()`, `.to_arrow_table()`, `.fetchall()`).

        `$name` in the text takes the value of the keyword `name`. `tables` maps names to pandas or polars frames or Arrow
        tables of yours that the query can join.

        Raises:
            QueryError: the SQL, a binding or a table is wrong or not allowed, or a limit was reached.
        """
        return self._session.sql(sql, tables=tables, **bindings)

    def query(self, name_or_sql: str, /, **bindings: Any) -> Relation:
        """The result of a named query, of a query file's text, or of SQL; `queries()` lists the names.

        Raises:
            NotFoundError: no query has that name. QueryError: as `sql`.
        """
        return self._session.query(name_or_sql, **bindings)

    def head(self, name_or_sql: str, n: int = 20, *, bindings: Mapping[str, Any] | None = None) -> "pa.Table":
        """The first `n` rows of a query as an Arrow table; what follows is not computed. Raises as `query`."""
        from steercache.api.querying import head

        return head(self._session, name_or_sql, n, bindings or {})

    def head_isolated(
        self,
        name_or_sql: str,
        n: int = 20,
        *,
        bindings: Mapping[str, Any] | None = None,
        limits: "Limits | None" = None,
    ) -> "pa.Table":
        """As `head`, in a process of its own, whose time and memory limits hold from outside; costs about a second more.

        `limits` replace those of `steercache.open`. Raises as `query`; QueryError also where the process had to be ended.
        """
        from steercache.api.querying import head_isolated

        return head_isolated(self._session, name_or_sql, n, bindings or {}, limits)

    def write(
        self,
        name_or_sql: str,
        sink: str | PathLike[str] | BinaryIO,
        *,
        format: FormatName = "parquet",  # noqa: A002
        limit: int | None = None,
        bindings: Mapping[str, Any] | None = None,
    ) -> int:
        """Write a query's result to a file, or into an open binary file, batch by batch; returns the number of rows.

        A file takes its name only when it is complete. `limit` stops after so many rows.

        Raises:
            QueryError, NotFoundError: as `query`. UsageError: the file cannot be written.
        """
        from steercache.api.querying import write

        file = Path(sink) if isinstance(sink, str | PathLike) else sink
        return write(self._session, name_or_sql, bindings or {}, sink=file, format_name=format, limit=limit)

    def queries(self) -> Mapping[str, Query]:
        """The named queries by name: those that ship and those of the folders given to `steercache.open`."""
        return self._session.library

    def find_query(self, name_or_sql: str) -> Query | None:
        """The named query, or the query that a text with a header is; None for plain SQL.

        Raises:
            NotFoundError: no query has that name. QueryError: the header is wrong.
        """
        return self._session.read(name_or_sql)[0]

    def select(
        self,
        name_or_sql: str,
        /,
        *,
        run: str | Run | None = None,
        site: str = "resid_post",
        where: str | None = None,
        **bindings: Any,
    ) -> Selection:
        """Rows that a query picks, ready to be gathered or fitted.

        `run` is a run, its name, id or a unique prefix; without it, the newest complete text run that has the concept. `where`
        keeps the rows whose tokens a target selects, by the text that steering takes: "kind = 'text' and from_end < 5"; a
        weight per token becomes the row's.

        Raises:
            QueryError: as `sql`; or the rows belong to several runs, were picked twice, or were not kept.
            NotFoundError: no such query or run, or the run does not have `site`.
        """
        return self._session.select(name_or_sql, run=_run_name(run), site=site, where=where, **bindings)

    def select_isolated(
        self,
        name_or_sql: str,
        /,
        *,
        run: str | Run | None = None,
        site: str = "resid_post",
        bindings: Mapping[str, Any] | None = None,
        where: str | None = None,
    ) -> Selection:
        """As `select`, for SQL that you did not write: it runs in a process of its own, with limits that hold from outside.

        Time and memory are those of `steercache.open(limits=...)`; a query that ships runs in this process. Costs about a
        second more. `fit`, `refit` and queries of your own folders do this by themselves.

        Raises:
            QueryError: as `select`; or the process had to be ended. NotFoundError: as `select`.
        """
        return self._session.select_isolated(name_or_sql, run=_run_name(run), site=site, bindings=bindings, where=where)

    def runs(self) -> Relation:
        """Every run, newest first: one row with name, model, rows, size and status."""
        return self._session.runs()

    def vectors(self, *, controls: bool = False) -> Relation:
        """Every vector, newest first: one row with id, name, method, concept, layers, best layer and run.

        With `controls`, the random, permuted and null directions of evaluations too.
        """
        return self._session.query("vectors_overview", controls=controls)

    def sweeps(self) -> Relation:
        """Every sweep (a grid, an evaluation, an analysis), newest first: one row with id, name, status and counts."""
        return self._session.query("sweeps_overview")


def _run_name(run: str | Run | None) -> str | None:
    return None if run is None else str(run)
