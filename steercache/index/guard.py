"""Running a person's SQL: one reading statement, no file or network, limits on memory, rows and time; errors are ours."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import duckdb
import pyarrow as pa

from steercache.core.errors import QueryError, SteercacheError
from steercache.index.allowed import check_tree
from steercache.index.io_errors import io_error

MAX_SQL_CHARS = 100_000  # a parser's memory grows with nesting: 100,000 brackets take a gigabyte
BATCH_ROWS = 65_536
_PLAIN = (bool, int, float, str, date, datetime)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one query may take: `memory_mib` for DuckDB and as much again for the result, `spill_mib` of temporary files."""

    memory_mib: int = 4096
    spill_mib: int = 8192
    rows: int = 100_000_000
    time_s: float = 300.0


@contextmanager
def stream_query(
    con: duckdb.DuckDBPyConnection,
    sql: str,
    bindings: Mapping[str, Any],
    *,
    limits: Limits,
    failures: list[QueryError] | None = None,
    locked: bool = False,
) -> Iterator[pa.RecordBatchReader]:
    """Run one SELECT on `con` and hand out its batches as they come; `con` is locked down for good.

    `failures` is what `register_functions` returned for this connection. `locked`: an earlier query locked it down.

    Raises:
        QueryError: the SQL or a binding is wrong or not allowed, or a limit was reached; here or while reading.
        DamagedError: the index file is not readable. BudgetError, UsageError, NotFoundError: the operating system refused a
            file that the query needs, and says why.
    """
    query = _Query(con=con, sql=sql, limits=limits, failures=[] if failures is None else failures)
    query.check(bindings)
    if not locked:
        query.lock_down()
    timer = threading.Timer(limits.time_s, query.stop)
    timer.daemon = True
    timer.start()
    try:
        source = query.start(bindings)
        try:
            schema = _distinct_names(source.schema)
            yield pa.RecordBatchReader.from_batches(schema, query.batches(source, schema))
        finally:
            source.close()  # a result that is not read to its end would hold the index file
    finally:
        timer.cancel()


def run_query(
    con: duckdb.DuckDBPyConnection,
    sql: str,
    bindings: Mapping[str, Any],
    *,
    limits: Limits,
    failures: list[QueryError] | None = None,
    locked: bool = False,
) -> pa.Table:
    """Run one SELECT on `con` to its end; the table holds nothing of the connection. Raises as `stream_query` does."""
    with stream_query(con, sql, bindings, limits=limits, failures=failures, locked=locked) as reader:
        return pa.Table.from_batches(list(bounded(reader, limits)), schema=reader.schema)


def bounded(reader: pa.RecordBatchReader, limits: Limits) -> Iterator[pa.RecordBatch]:
    """The batches of a result that is kept in memory. Raises QueryError when they are larger than `limits` allow."""
    n_bytes = 0
    for batch in reader:
        n_bytes += batch.nbytes
        if n_bytes > limits.memory_mib * 2**20:
            raise too_large(limits)
        yield batch


def too_large(limits: Limits) -> QueryError:
    """The error for a result that is larger than memory may hold."""
    return QueryError(
        f"the result is larger than {limits.memory_mib} MiB",
        hint="choose fewer rows or columns, or stream it to a file",
    )


def parameters_of(con: duckdb.DuckDBPyConnection, sql: str) -> set[str]:
    """Names of a statement's parameters; nothing for what does not parse, which running it will say."""
    try:
        return {name for statement in con.extract_statements(sql) for name in statement.named_parameters}
    except duckdb.Error:
        return set()


class _Query:
    """One statement on its way through a connection."""

    def __init__(self, *, con: duckdb.DuckDBPyConnection, sql: str, limits: Limits, failures: list[QueryError]) -> None:
        self.con, self.sql, self.limits, self.failures = con, sql, limits, failures
        self.out_of_time = False

    def check(self, bindings: Mapping[str, Any]) -> None:
        """Refuse everything but one SELECT whose parameters are exactly `bindings`."""
        if len(self.sql) > MAX_SQL_CHARS:
            raise QueryError(f"the SQL has {len(self.sql):,} characters, more than {MAX_SQL_CHARS:,}")
        with self.translating():
            self.sql.encode()  # lone surrogates are no text
            statements = self.con.extract_statements(self.sql)
        if not statements:
            raise QueryError("there is no statement", hint="write a SELECT, or name a query")
        if len(statements) != 1:
            raise QueryError(f"one statement at a time: this is {len(statements)}", hint="join them by WITH or UNION")
        (statement,) = statements
        if statement.type != duckdb.StatementType.SELECT:
            kind = statement.type.name
            raise QueryError(
                f"queries only read: {kind} is not allowed", hint="write a SELECT (or FROM, DESCRIBE, ...)"
            )
        with self.translating():
            check_tree(self.con, self.sql)
        check_bindings(set(statement.named_parameters), bindings)

    def lock_down(self) -> None:
        """Close files, network and settings to the connection, and set its limits."""
        self.con.execute(f"SET memory_limit = '{self.limits.memory_mib}MiB'")
        self.con.execute(f"SET max_temp_directory_size = '{self.limits.spill_mib}MiB'")
        self.con.execute("SET enable_external_access = false")
        self.con.execute("SET lock_configuration = true")

    def start(self, bindings: Mapping[str, Any]) -> pa.RecordBatchReader:
        """Begin to run; the reader yields batches while DuckDB computes."""
        with self.translating():
            relation = self.con.sql(self.sql, params=dict(bindings)) if bindings else self.con.sql(self.sql)
            return relation.to_arrow_reader(BATCH_ROWS)

    def batches(self, source: pa.RecordBatchReader, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Batches of `source` under the names of `schema`, up to the row limit."""
        n_rows = 0
        while True:
            with self.translating():
                try:
                    batch = source.read_next_batch()
                except StopIteration:
                    return
            n_rows += batch.num_rows
            if n_rows > self.limits.rows:
                raise QueryError(
                    f"the result has more than {self.limits.rows:,} rows", hint="add a LIMIT or count first"
                )
            yield pa.RecordBatch.from_arrays(batch.columns, schema=schema)

    def stop(self) -> None:
        """Time is up."""
        self.out_of_time = True
        self.con.interrupt()

    @contextmanager
    def translating(self) -> Iterator[None]:
        """Whatever DuckDB or Arrow raise about this query, as a QueryError with their own words."""
        try:
            yield
        except SteercacheError:
            raise
        except Exception as error:
            raise self.error_for(error) from error

    def error_for(self, error: Exception) -> SteercacheError:
        """Our error for one of DuckDB's."""
        if self.out_of_time:
            return QueryError(f"stopped after {self.limits.time_s:g} s", hint="ask for less, or allow more time")
        if self.failures:
            return self.failures[0]
        text = str(error).strip() or type(error).__name__
        if "Max expression depth" in text:  # the parser of DuckDB 2.0.1 says so itself, that of 2.0.0 goes on
            return QueryError(
                "the SQL is nested too deeply: beyond DuckDB's depth limit", hint="use WITH instead of subqueries"
            )
        if isinstance(error, duckdb.OutOfMemoryException | MemoryError):
            return QueryError(
                f"it needs more than {self.limits.memory_mib} MiB of memory: {text.splitlines()[0]}",
                hint="ask for less, or allow more memory",
            )
        return io_error(error) or QueryError(text)


def _distinct_names(schema: pa.Schema) -> pa.Schema:
    """Columns that share a name, as a join leaves them, numbered: a, a_1, a_2."""
    taken: set[str] = set()
    fields = []
    for field in schema:
        name, n = field.name, 0
        while name in taken:
            n += 1
            name = f"{field.name}_{n}"
        taken.add(name)
        fields.append(field.with_name(name))
    return pa.schema(fields)


def check_bindings(declared: set[str], bindings: Mapping[str, Any]) -> None:
    """Refuse bindings that the SQL does not name, names without a binding, and values that SQL has no word for."""
    positional = sorted(n for n in declared if n.isdigit())
    if positional:
        raise QueryError("parameters need names", hint="write $concept instead of ?")
    missing, unknown = sorted(declared - bindings.keys()), sorted(bindings.keys() - declared)
    problems = []
    if missing:
        problems.append(f"no value for {', '.join('$' + n for n in missing)}")
    if unknown:
        problems.append(f"the SQL has no {', '.join('$' + n for n in unknown)}")
    if problems:
        has = ", ".join("$" + n for n in sorted(declared)) or "none"
        raise QueryError(
            f"{'; '.join(problems)} (its parameters: {has})", hint="-p NAME=VALUE, or NAME=VALUE in Python"
        )
    check_values(bindings)


def check_values(bindings: Mapping[str, Any]) -> None:
    """Refuse values that SQL has no word for. Raises QueryError."""
    for name, value in bindings.items():
        values = value if isinstance(value, list | tuple) else [value]
        if not all(v is None or isinstance(v, _PLAIN) for v in values):
            raise QueryError(
                f"${name} is a {type(value).__name__}", hint="text, a number, true/false, a date, or a list"
            )
