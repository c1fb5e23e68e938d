"""A person's SQL: what it may do, what it may not, and that whatever it is, the answer is rows or a QueryError."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from steercache.core.errors import QueryError
from steercache.index.database import Index
from steercache.index.guard import Limits, run_query, stream_query
from steercache.index.ingest import put_vector
from tests.index.small import vector_row
from tests.quick import costly

SMALL = Limits(memory_mib=200, spill_mib=50, rows=100_000, time_s=0.8)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    index = Index(tmp_path_factory.mktemp("guard") / "index.duckdb")
    with index.write() as con:
        for layer in range(5):
            put_vector(con, vector_row("v", layer))
    return index


@pytest.fixture
def con(index: Index) -> Iterator[duckdb.DuckDBPyConnection]:
    with index.read() as con:
        yield con


def ask(con: duckdb.DuckDBPyConnection, sql: str, limits: Limits = SMALL, **bindings: Any) -> pa.Table:
    return run_query(con, sql, bindings, limits=limits)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT layer FROM vectors ORDER BY layer",
        "FROM vectors SELECT layer ORDER BY layer;",
        "WITH v AS (SELECT * FROM vectors) SELECT layer FROM v ORDER BY layer",
        "SELECT unnest(range(5))::INTEGER AS layer ORDER BY layer",
        "-- a comment\nSELECT layer FROM vectors UNION SELECT layer FROM vectors ORDER BY layer -- another",
        "WITH RECURSIVE t AS (SELECT 0 AS layer UNION ALL SELECT layer + 1 FROM t WHERE layer < 4) FROM t ORDER BY layer",
        "VALUES (0), (1), (2), (3), (4)",
    ],
)
def test_reading_statements_run(con: duckdb.DuckDBPyConnection, sql: str) -> None:
    assert ask(con, sql).column(0).to_pylist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("sql", ["DESCRIBE vectors", "SHOW TABLES", "SUMMARIZE vectors", "TABLE vectors"])
def test_looking_around_is_reading(con: duckdb.DuckDBPyConnection, sql: str) -> None:
    assert len(ask(con, sql)) > 4


@pytest.mark.parametrize(
    "sql",
    [
        "COPY vectors TO '{out}'",
        "COPY (SELECT 1) TO '{out}' (FORMAT parquet)",
        "EXPORT DATABASE '{out}'",
        "ATTACH '{out}' AS other",
        "ATTACH ':memory:' AS other",
        "DETACH steercache",
        "INSTALL httpfs",
        "LOAD httpfs",
        "LOAD json",
        "PRAGMA database_list",
        "SET memory_limit = '64GB'",
        "RESET memory_limit",
        "SET enable_external_access = true",
        "SET VARIABLE x = 1",
        "CREATE TABLE t (a INT)",
        "CREATE TEMP TABLE t AS SELECT 1",
        "CREATE MACRO f(x) AS x",
        "CREATE OR REPLACE TEMP VIEW vectors AS SELECT 1",
        "INSERT INTO vectors (vector_id, layer) VALUES ('x', 1)",
        "UPDATE vectors SET layer = 9",
        "DELETE FROM vectors",
        "DROP TABLE vectors",
        "TRUNCATE vectors",
        "ALTER TABLE vectors ADD COLUMN x INT",
        "BEGIN",
        "CHECKPOINT",
        "VACUUM",
        "CALL pragma_version()",
        "PREPARE p AS SELECT 1",
        "EXECUTE p",
        "EXPLAIN ANALYZE SELECT 1",
        "PIVOT vectors ON layer USING count(*)",
        "USE memory",
        "SELECT 1; SELECT 2",
        "SELECT 1; DROP TABLE vectors",
        "WITH x AS (INSERT INTO vectors (vector_id, layer) VALUES ('x', 1) RETURNING *) SELECT * FROM x",
        "",
        ";",
        "-- nothing but a comment",
    ],
)
def test_everything_but_one_select_is_refused(con: duckdb.DuckDBPyConnection, sql: str, tmp_path: Path) -> None:
    with pytest.raises(QueryError):
        ask(con, sql.format(out=tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('{file}')",
        "SELECT * FROM read_text('{file}')",
        "SELECT * FROM read_blob('{file}')",
        "SELECT * FROM read_parquet('{file}')",
        "SELECT * FROM read_json('{file}')",
        "SELECT * FROM parquet_metadata('{file}')",
        "SELECT * FROM sniff_csv('{file}')",
        "SELECT * FROM '{file}'",
        "SELECT * FROM '{folder}/*.csv'",
        "SELECT * FROM glob('{folder}/*')",
        "SELECT * FROM read_duckdb('{folder}/index.duckdb')",
        "SELECT * FROM 'https://example.org/x.csv'",
        "SELECT (SELECT max(content) FROM read_text('{file}'))",
        "SELECT * FROM query('SELECT * FROM read_text(''{file}'')')",
        "SELECT * FROM query_table(['{file}'])",
        "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))",
        "SELECT * FROM enable_logging(storage = 'file', storage_path = '{folder}/log')",
        "SELECT * FROM enable_profiling(save_location = '{folder}/profile')",
        "SELECT * FROM duckdb_secrets()",
        "SELECT * FROM duckdb_settings()",
        "SELECT * FROM arrow_scan(1, 2, 3)",
        "SELECT * FROM python_map_function(1)",
        "SELECT * FROM copy_database('memory', 'steercache')",
        "SELECT * FROM secret_of_ours",
        "SELECT getenv('HOME')",
        "SELECT current_setting('temp_directory')",
        "SELECT write_log('x')",
        "SELECT system.main.write_log('x')",
        "SELECT 'x'.write_log()",
    ],
)
def test_nothing_reaches_a_file_a_setting_or_python(con: duckdb.DuckDBPyConnection, sql: str, tmp_path: Path) -> None:
    secret_of_ours = pa.table({"password": ["x"]})
    (tmp_path / "secret.csv").write_text("password\nx\n")
    with pytest.raises(QueryError):
        ask(con, sql.format(file=tmp_path / "secret.csv", folder=tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["secret.csv"]
    assert len(secret_of_ours) == 1


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        (
            "SELECT count(*) FROM range(1000000) a, range(1000000) b, range(1000000) c WHERE a.range + b.range = c.range",
            "0.8 s",
        ),
        ("WITH RECURSIVE t AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM t) SELECT max(x) FROM t", "0.8 s"),
        ("SELECT count(*) FROM range(1000000000000)", "0.8 s"),
        ("SELECT * FROM range(1000000000000)", "more than 100,000 rows"),
        ("SELECT a.range AS x, b.range AS y FROM range(100000) a, range(100000) b ORDER BY x * y", "0.8 s|memory|disk"),
        ("SELECT list(a.range) FROM range(100000) a, range(100000) b", "0.8 s|memory"),
        ("SELECT range(1000000000)", "memory"),
        ("SELECT range(500000000 + 500000000)", "memory"),
        ("SELECT 'x', generate_series(0, r.range * 1000000000) FROM range(3) r", "memory"),
        ("SELECT generate_series(1, 10000000000)", "larger than"),
        ("SELECT repeat('x', 4000000000)", "repeat"),
        ("SELECT lpad('x', 2000000000, 'y')", "lpad"),
        ("SELECT printf('%2000000000d', 1)", "printf"),
        ("SELECT levenshtein('a', 'b')", "levenshtein"),
        ("SELECT sleep_ms(100000)", "sleep_ms"),
        (
            "WITH RECURSIVE t AS (SELECT 'x' AS s UNION ALL SELECT s || s FROM t) SELECT max(length(s)) FROM t",
            "memory|stopped after",
        ),
        ("SELECT " + "(" * 40000 + "1" + ")" * 40000, "depth"),
        ("SELECT " + "[" * 30000 + "1" + "]" * 30000, "depth"),
        ("SELECT " + "NOT " * 20000 + "true", "depth"),
        ("SELECT * FROM " + "(SELECT * FROM " * 3000 + "vectors" + ") t" * 3000, "nested too deeply"),
        ("SELECT 1" + " UNION ALL SELECT 1" * 5000, "too large to plan"),
        ("SELECT count(*) FROM " + ", ".join(f"vectors t{i}" for i in range(300)), "too large to plan"),
        (
            "WITH c0 AS (SELECT 1 a), "
            + ", ".join(f"c{i} AS (SELECT * FROM c{i - 1} x, c{i - 1} y)" for i in range(1, 28))
            + " SELECT count(*) FROM c27",
            "too large to plan",
        ),
        ("SELECT '" + "x" * 200_000 + "'", "characters"),
        ("SELECT '\ud800'", "surrogates"),
    ],
    ids=lambda text: ascii(text[:50]),
)
def test_what_would_take_for_ever_or_fill_the_memory_ends_in_a_clear_error(
    con: duckdb.DuckDBPyConnection, sql: str, reason: str
) -> None:
    begun = time.monotonic()
    with pytest.raises(QueryError, match=reason):
        ask(con, sql)
    assert time.monotonic() - begun < 60


def test_a_result_larger_than_the_memory_allowed_is_refused_and_streaming_it_is_not(index: Index) -> None:
    sql = "SELECT range AS a, range + 1 AS b FROM range(3000000)"
    limits = Limits(memory_mib=40, rows=10_000_000)
    with index.read() as con, pytest.raises(QueryError, match="larger than 40 MiB"):
        ask(con, sql, limits)
    with index.read() as con, stream_query(con, sql, {}, limits=limits) as reader:
        assert sum(batch.num_rows for batch in reader) == 3_000_000


def test_a_connection_that_ran_a_query_stays_locked_down(con: duckdb.DuckDBPyConnection) -> None:
    ask(con, "SELECT 1")
    with pytest.raises(duckdb.InvalidInputException, match="locked"):
        con.execute("SET enable_external_access = true")


def test_a_result_that_is_not_read_to_its_end_holds_nothing(index: Index) -> None:
    with index.read() as con, stream_query(con, "SELECT * FROM vectors, range(1000000)", {}, limits=SMALL) as reader:
        assert reader.read_next_batch().num_rows > 0
    with index.write():
        pass
    with pytest.raises(QueryError, match="closed"):
        reader.read_next_batch()


def test_what_a_query_spills_is_gone_with_its_connection(index: Index) -> None:
    limits = Limits(memory_mib=64, spill_mib=2048, rows=10_000_000)
    with index.read() as con:
        folder = Path(str(con.execute("SELECT current_setting('temp_directory')").fetchall()[0][0]))
        sql = "SELECT range AS a, hash(range) AS b FROM range(5000000) ORDER BY b"
        with stream_query(con, sql, {}, limits=limits) as reader:
            reader.read_next_batch()
            assert list(folder.iterdir()) != []
    assert not folder.exists()


def test_bindings_arrive_with_their_types(con: duckdb.DuckDBPyConnection) -> None:
    values = {
        "i": 7,
        "f": 0.5,
        "t": "x'; DROP TABLE vectors; --",
        "b": True,
        "n": None,
        "d": date(2026, 1, 2),
        "l": [1, 2],
    }
    row = ask(con, "SELECT $i AS i, $f AS f, $t AS t, $b AS b, $n AS n, $d AS d, $l AS l", **values).to_pylist()[0]
    assert {name: float(v) if name == "f" else v for name, v in row.items()} == values


@pytest.mark.parametrize(
    ("sql", "bindings", "named"),
    [
        ("SELECT $a, $b", {"a": 1}, "no value for \\$b"),
        ("SELECT $a", {"a": 1, "c": 2}, "has no \\$c"),
        ("SELECT ?", {}, "names"),
        ("SELECT $a", {"a": object()}, "object"),
        ("SELECT $a", {"a": 10**60}, "int"),
        ("SELECT $a::INTEGER", {"a": "x"}, "x"),
    ],
)
def test_wrong_bindings_are_named(
    con: duckdb.DuckDBPyConnection, sql: str, bindings: dict[str, Any], named: str
) -> None:
    with pytest.raises(QueryError, match=named):
        ask(con, sql, **bindings)


def test_an_error_carries_the_words_of_duckdb(con: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(QueryError, match="Did you mean") as caught:
        ask(con, "SELECT * FROM vectorz")
    assert "vectors" in caught.value.message


def test_columns_of_one_name_are_numbered(con: duckdb.DuckDBPyConnection) -> None:
    assert ask(con, "SELECT 1 AS a, 2 AS a, 3 AS a_1, 4 AS a").to_pylist() == [{"a": 1, "a_1": 2, "a_1_1": 3, "a_2": 4}]


def test_two_queries_at_once_in_two_threads_keep_to_their_own_limits(index: Index) -> None:
    errors: list[str] = []

    def slow() -> None:
        with index.read() as con, pytest.raises(QueryError) as caught:
            ask(con, "SELECT count(*) FROM range(1000000000000)", Limits(time_s=0.5))
        errors.append(caught.value.message)

    thread = threading.Thread(target=slow)
    thread.start()
    con = duckdb.connect(":memory:")
    assert ask(con, "SELECT count(*) AS n FROM range(1000000)", Limits(time_s=30)).to_pylist() == [{"n": 1_000_000}]
    con.close()
    thread.join()
    assert errors == ["stopped after 0.5 s"]


WORDS = (
    "SELECT FROM WHERE GROUP BY HAVING ORDER LIMIT WITH RECURSIVE AS UNION ALL JOIN ON LATERAL CASE WHEN THEN END NULL NOT AND"
    " OR IN EXISTS OVER PARTITION QUALIFY PIVOT UNPIVOT VALUES DESCRIBE COPY TO SET PRAGMA ATTACH CAST INTERVAL DATE ARRAY"
    " vectors layer norm vector_id tokens range( unnest( sum( list( struct_pack( array_agg( ( ) [ ] { } , . ; : :: * + - / %"
    " || = <> < > ~ ! @ # $a $1 ? ' \" '' 1 -1 1e400 0x 'x' 1.5 9999999999999999999999 lambda x: -> COLUMNS EXCLUDE"
)
KEYWORDS = WORDS.split()
pieces = st.one_of(st.sampled_from(KEYWORDS), st.text(max_size=3), st.integers().map(str), st.floats().map(str))
statements = st.one_of(
    st.text(max_size=60),
    st.lists(pieces, max_size=25).map(" ".join),
    st.lists(pieces, max_size=20).map(lambda parts: "SELECT " + " ".join(parts) + " FROM vectors"),
)


@costly(12)
@settings(max_examples=150, deadline=None)
@given(sql=statements)
@example(sql="SELECT \x00")
@example(sql="SELECT 'unfinished")
@example(sql="/* unfinished")
@example(sql="SELECT 1::UNION(a INT, b VARCHAR)")
@example(sql="SELECT 170141183460469231731687303715884105727::HUGEINT")
@example(sql="SELECT '5 years'::INTERVAL, 'infinity'::TIMESTAMP, TIMESTAMPTZ '294247-01-10', '101'::BIT, uuid()")
@example(sql="SELECT * FROM vectors, vectors, vectors")
def test_any_text_at_all_gives_rows_or_a_query_error(sql: str) -> None:
    con = duckdb.connect(":memory:")
    con.execute("CREATE TABLE vectors AS SELECT range AS layer, 'x' AS vector_id FROM range(3)")
    with closing(con), suppress(QueryError):
        assert isinstance(run_query(con, sql, {}, limits=SMALL), pa.Table)
