"""`steercache.open`: a cache, and questions to it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from steercache.cache.documents import shares_rows
from steercache.cache.handle import CacheFolder, open_cache
from steercache.cache.remote import publish_vector
from steercache.cache.vectors import load_vector, save_vector, stored_vector
from steercache.core.errors import QueryError, UsageError
from steercache.core.ids import SHORT_ID
from steercache.core.selection import QueryRecord, Selection
from steercache.core.vectors import SteeringVector
from steercache.index.guard import Limits, bounded, run_query, stream_query
from steercache.index.relation import Relation, as_relation
from steercache.index.release import clear_traceback_frames
from steercache.index.rows import registered
from steercache.queries.bindings import newest_run
from steercache.queries.isolated import isolated
from steercache.queries.library import Query, find_query, load_library, looks_like_name, parse_query, yaml_header
from steercache.queries.own_tables import as_arrow
from steercache.queries.rows_where import rows_where
from steercache.queries.running import asking, running
from steercache.queries.selection import (
    PLACES,
    WORDS,
    check_places,
    first_claims,
    label_of,
    pair_of,
    picked_rows,
    weight_of,
)
from steercache.queries.token_clause import read_token_clause


class Session:
    """Questions to one cache. Every call opens the index for its own length; results hold nothing of it."""

    def __init__(self, cache: CacheFolder, *, library: Mapping[str, Query], limits: Limits) -> None:
        self.cache = cache
        self.library = library
        self.limits = limits

    def __repr__(self) -> str:
        return f"<cache {str(self.cache.root)!r}>"

    def sql(self, sql: str, /, *, tables: Mapping[str, Any] | None = None, **bindings: Any) -> Relation:
        """The result of one SELECT; `$name` in it takes the value of the keyword `name`.

        `tables` are frames of the caller's that the query can join, by name.

        Raises:
            QueryError: the SQL or a binding is wrong or not allowed, or a limit was reached.
        """
        with clear_traceback_frames():
            return as_relation(self._table(None, sql, bindings, tables=tables))

    def query(self, name_or_sql: str, /, **bindings: Any) -> Relation:
        """The result of a query by name, of a query file's text, or of SQL. Raises as `sql`, and NotFoundError."""
        query, text = self.read(name_or_sql)
        with clear_traceback_frames():
            return as_relation(self._table(query, text, bindings))

    def select(
        self,
        name_or_sql: str,
        /,
        *,
        run: str | None = None,
        site: str = "resid_post",
        where: str | None = None,
        **bindings: Any,
    ) -> Selection:
        """Rows that a query picks, ready to be gathered.

        `run` is a name, an id or a prefix; without it, the newest complete text run that has the concept. `where` keeps those
        whose tokens a target written as SQL selects, by the same text as in steering: "kind = 'text' and from_end < 5".

        Raises:
            QueryError: as `sql`; or the rows are of several runs, picked twice, or were not kept.
            NotFoundError: no such query or run, or the run does not have `site`.
        """
        query, text = self._selecting(name_or_sql)
        is_received = query is not None and query.is_received
        given = bindings if run is None else {**bindings, "run": run}
        with clear_traceback_frames():
            sel = self._selection(query, text, given, site=site, is_received=is_received)
            return sel if where is None else self._where(sel, where)

    def select_isolated(
        self,
        name_or_sql: str,
        /,
        *,
        run: str | None = None,
        site: str = "resid_post",
        bindings: Mapping[str, Any] | None = None,
        where: str | None = None,
    ) -> Selection:
        """As `select`, with SQL of unknown origin: it runs in a process of its own, whose limits hold from outside.

        A query that ships runs in this process, by its name or by its text.
        """
        query, text = self._selecting(name_or_sql)
        given = dict(bindings or {}) if run is None else {**(bindings or {}), "run": run}
        with clear_traceback_frames():
            sel = self._selection(query, text, given, site=site, is_received=not self._ships(text))
            return sel if where is None else self._where(sel, where)

    @contextmanager
    def stream(self, name_or_sql: str, bindings: Mapping[str, Any]) -> Iterator[pa.RecordBatchReader]:
        """Batches of a result as they come; the index is held until the block ends. Raises as `query`."""
        query, text = self.read(name_or_sql)
        with ExitStack() as stack:
            stack.enter_context(clear_traceback_frames())
            if query is not None and query.is_received:
                answer = stack.enter_context(isolated(self.cache.root, text, bindings, limits=self.limits))
                yield answer.reader
                return
            found = stack.enter_context(running(self.cache, query, text, bindings))
            yield stack.enter_context(
                stream_query(found.con, text, found.bindings, limits=self.limits, failures=found.failures)
            )

    def runs(self) -> Relation:
        """Every run, newest first."""
        return self.query("runs_overview")

    def labelled_run(self) -> str:
        """The newest complete text run whose samples have concepts. Raises as a query that leaves its run open."""
        with clear_traceback_frames(), self.cache.connection() as con:
            return newest_run(asking(con), modality="text", concept=None, labelled=True)

    def newest_run(self, concept: str | None = None, *, modality: str = "text") -> str:
        """The newest complete run of a modality ("text" or "multimodal") that has the concept (None: any). Raises as a query
        that leaves its run open."""
        with clear_traceback_frames(), self.cache.connection() as con:
            return newest_run(asking(con), modality=modality, concept=concept)

    def vector(self, name: str) -> SteeringVector:
        """The vector that answers to a name, an id or a prefix. Raises NotFoundError."""
        return load_vector(self.cache, name)

    def save(self, vector: SteeringVector) -> Path:
        """Keep a vector in the cache; returns its file. Saved again, it keeps the diagnostics that it does not bring.

        In a cache that is elsewhere it is sent there too.

        Raises:
            UsageError: the same vector is saved under another name; or it is saved here, and the store does not take it.
        """
        stored = stored_vector(self.cache, vector.vector_id)
        if stored is not None and stored.name != vector.name:
            raise UsageError(
                f"this vector is saved already, under the name {stored.name!r} ({vector.vector_id[:SHORT_ID]})",
                hint=f"use that name: steercache vectors show {stored.name}",
            )
        path = save_vector(self.cache, vector)
        publish_vector(self.cache, path, vector)
        return path

    def read(self, name_or_sql: str) -> tuple[Query | None, str]:
        """A named query, or SQL with or without a header, and its text. Raises NotFoundError, QueryError."""
        if looks_like_name(name_or_sql):
            query = find_query(self.library, name_or_sql.strip())
            return query, query.text
        if yaml_header(name_or_sql) is not None:
            return parse_query(name_or_sql, place="the query's header"), name_or_sql
        return None, name_or_sql

    def _ships(self, text: str) -> bool:
        """Whether `text` is that of a query that ships."""
        return any(query.text == text and not query.is_received for query in self.library.values())

    def _selecting(self, name_or_sql: str) -> tuple[Query | None, str]:
        """As `read`, of a query that can select rows."""
        query, text = self.read(name_or_sql)
        if query is not None and query.kind != "selection":
            raise QueryError(f"{query.name} is a {query.kind}, not a selection", hint="name a query of kind selection")
        return query, text

    def _selection(
        self, query: Query | None, text: str, given: Mapping[str, Any], *, site: str, is_received: bool
    ) -> Selection:
        if is_received:
            with isolated(self.cache.root, text, given, limits=self.limits, choose_run=True) as answer:
                run_id, picked = self._picked(answer.reader)
            bindings = answer.bindings
            with self.cache.connection() as con:
                places = _places(con, run_id, picked)
        else:
            with running(self.cache, query, text, given, choose_run=True) as found:
                bindings = found.bindings
                with stream_query(found.con, text, bindings, limits=self.limits, failures=found.failures) as reader:
                    run_id, picked = self._picked(reader)
                places = _places(found.con, run_id, picked)
        rows = picked["row_idx"].cast(pa.int64()).to_numpy()
        if places.num_rows > len(rows) and self._shares_rows(run_id):
            places = first_claims(places)
        check_places(rows, places)
        source = self.cache.source(run_id)
        source.layers(site)  # a site that the run does not have is an error here, not at the first gather
        concept = bindings.get("concept")
        return Selection(
            source=source,
            query=QueryRecord(name=query.name if query else None, text=text, bindings=bindings),
            rows=rows,
            sample_idx=places["sample_idx"].cast(pa.int64()).to_numpy(),
            position=places["position"].to_numpy(),
            token_id=places["token_id"].to_numpy(),
            words=partial(self._words, run_id, places["token_id"].to_numpy()),
            label=label_of(picked),
            pair=pair_of(picked),
            weight=weight_of(picked),
            concept=concept if isinstance(concept, str) else None,
            site=site,
        )

    def _where(self, sel: Selection, where: str) -> Selection:
        return rows_where(self.cache, sel, read_token_clause(where, self.vector))

    def _picked(self, reader: pa.RecordBatchReader) -> tuple[str, pa.Table]:
        """The run and the rows that a selection picked, within the limits of a result that is kept in memory."""
        kept = pa.RecordBatchReader.from_batches(reader.schema, bounded(reader, self.limits))
        return picked_rows(kept, shares_rows=self._shares_rows)

    def _words(self, run_id: str, token_id: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """Numbers of the words that tokens write; a token that writes none is a word of its own."""
        ids, at = np.unique(token_id, return_inverse=True)
        found = dict(self.sql(WORDS, run=run_id, ids=ids.tolist()).fetchall())
        written = [found.get(i) or f"\0{i}" for i in ids.tolist()]
        numbers: npt.NDArray[np.int64] = np.unique(written, return_inverse=True)[1].astype(np.int64)[at]
        return numbers

    def _shares_rows(self, run_id: str) -> bool:
        """Whether questions about one picture share rows in this run."""
        paths = self.cache.run_paths(run_id)
        return paths.document.exists() and shares_rows(self.cache.run_document(run_id))

    def _table(
        self, query: Query | None, text: str, given: Mapping[str, Any], *, tables: Mapping[str, Any] | None = None
    ) -> pa.Table:
        if query is not None and query.is_received:
            with isolated(self.cache.root, text, given, limits=self.limits) as answer:
                batches = list(bounded(answer.reader, self.limits))
                return pa.Table.from_batches(batches, schema=answer.reader.schema)
        with running(self.cache, query, text, given) as found:
            for name, table in as_arrow(tables, taken=_names_of(found.con)).items() if tables else ():
                found.con.register(name, table)  # gone with the connection
            return run_query(found.con, text, found.bindings, limits=self.limits, failures=found.failures)


def _places(con: Any, run_id: str, picked: pa.Table) -> pa.Table:
    """Where each of the picked rows came from; see `PLACES`."""
    rows = picked["row_idx"].cast(pa.int64()).to_numpy()
    values = {"run": run_id, "first": int(rows[0]), "last": int(rows[-1])}
    with registered(con, picked=pa.table({"row_idx": rows})):
        return con.sql(PLACES, params=values).to_arrow_table()


def _names_of(con: Any) -> frozenset[str]:
    """Names of the tables and views that the connection has, in lower case."""
    return frozenset(
        name.lower() for (name,) in con.execute("SELECT table_name FROM information_schema.tables").fetchall()
    )


def open_session(
    root: str | PathLike[str] = "cache", *, queries: Sequence[Path] = (), limits: Limits | None = None
) -> Session:
    """Open the cache at `root`; `queries` are folders of one's own query files.

    Raises:
        NotFoundError: there is no cache.
    """
    return Session(open_cache(Path(root)), library=load_library(queries), limits=limits or Limits())
