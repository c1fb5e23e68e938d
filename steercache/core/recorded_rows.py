"""The rows that a vector was fitted on, selected again as its provenance says."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

from steercache.core.errors import UsageError
from steercache.core.selection import QueryRecord, Selection
from steercache.core.vectors import SteeringVector


class SelectsRows(Protocol):
    """What fitting again needs of a cache: `steercache.open(root)` has it."""

    def select_isolated(
        self,
        name_or_sql: str,
        /,
        *,
        run: str | None = None,
        site: str = "resid_post",
        bindings: Mapping[str, Any] | None = None,
        where: str | None = None,
    ) -> Selection: ...


def rows_of(vector: SteeringVector, session: SelectsRows) -> Selection:
    """The rows that a vector was fitted on, selected again by the query that its provenance holds.

    The query came with the vector's file: unless it is one that ships, it runs in a process of its own, within limits.

    Raises:
        UsageError: it was not fitted on a selection, or its query no longer picks rows of its run.
        QueryError: the query is not allowed, or reached a limit.
    """
    record, run_id = _record_of(vector)
    bindings = dict(record.bindings)
    run = bindings.pop("run", None)  # bound only where the query's text asks for it
    sel = session.select_isolated(record.text, run=run, site=vector.site, bindings=bindings, where=record.where)
    if sel.run_id != run_id:
        raise UsageError(f"the query now selects rows of run {sel.run_id}, not of {run_id}")
    return replace(sel, query=record, concept=vector.concept)


def _record_of(vector: SteeringVector) -> tuple[QueryRecord, str]:
    """The query and the run of a fitted vector. Provenance is free JSON, also of other programs, and may hold anything."""
    query, run_id = vector.provenance.get("query"), vector.provenance.get("run_id")
    if isinstance(query, Mapping) and isinstance(run_id, str):
        name, text, bindings, where = (query.get(key) for key in ("name", "text", "bindings", "where"))
        named = all(one is None or isinstance(one, str) for one in (name, where))
        if isinstance(text, str) and isinstance(bindings, Mapping) and named:
            return QueryRecord(name=name, text=text, bindings=bindings, where=where), run_id
    raise UsageError(
        f"{vector.name!r} was made by {vector.method!r}, which cannot be fitted again from a query",
        hint="only vectors that were fitted on rows of a cache can",
    )
