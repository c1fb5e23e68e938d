"""Results as files: every format read back by another library, from empty to every type that DuckDB has."""

import csv
import io
import json
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from steercache.queries.formats import WRITERS, first_rows

EVERYTHING = """
SELECT true AS b, 1::TINYINT AS t, 170000000000000000000000000000000000::HUGEINT AS h, 1.50::DECIMAL(10, 2) AS d,
    'ab'::BLOB AS bl, DATE '2020-01-02' AS dt, TIMESTAMP '2020-01-02 03:04:05' AS ts, TIME '01:02:03' AS tm,
    INTERVAL 1 DAY AS iv, '9ef6691d-586e-4f1e-8f8f-bf70cb1d595f'::UUID AS u, [1, 2] AS l, {'a': 1, 'b': [NULL, 'x']} AS s,
    MAP {'k': 1} AS m, '{"x": 1}'::JSON AS j, 'nan'::FLOAT AS f, NULL AS n, 'a'::ENUM('a', 'b') AS e, 'q"u,o' || chr(10) AS x,
    [1.5, 2.5]::FLOAT[2] AS ar, union_value(k := 1) AS un
"""


def written(sql: str, name: Any, limit: int | None = None) -> tuple[bytes, int]:
    con = duckdb.connect(":memory:")
    reader = con.sql(sql).to_arrow_reader(1000)
    sink = io.BytesIO()
    n_rows = WRITERS[name](first_rows(reader, limit), sink)
    del reader
    con.close()
    return sink.getvalue(), n_rows


def read_back(data: bytes, name: str) -> list[dict[str, Any]]:
    if name == "parquet":
        rows: list[dict[str, Any]] = pq.read_table(io.BytesIO(data)).to_pylist()
    elif name == "arrow":
        rows = pyarrow.ipc.open_stream(data).read_all().to_pylist()
    elif name == "json":
        rows = json.loads(data)
    elif name == "jsonl":
        rows = [json.loads(line) for line in data.splitlines()]
    else:
        rows = [{k: json.loads(v) for k, v in row.items()} for row in csv.DictReader(io.StringIO(data.decode()))]
    return rows


@pytest.mark.parametrize("name", WRITERS)
def test_many_batches_of_numbers_come_back(name: str) -> None:
    data, n_rows = written("SELECT range AS a, range * 0.5 AS b FROM range(5000)", name)
    assert n_rows == 5000
    assert read_back(data, name) == [{"a": i, "b": i * 0.5} for i in range(5000)]


@pytest.mark.parametrize("name", WRITERS)
def test_a_limit_ends_a_result_in_the_middle_of_a_batch(name: str) -> None:
    data, n_rows = written("SELECT range AS a FROM range(100000000000)", name, limit=1500)
    assert n_rows == 1500
    assert read_back(data, name)[-1] == {"a": 1499}


@pytest.mark.parametrize("name", WRITERS)
def test_no_rows_are_a_file_with_none(name: str) -> None:
    data, n_rows = written("SELECT 1 AS a WHERE false", name)
    assert n_rows == 0
    assert read_back(data, name) == []


def test_every_type_has_a_form_in_json() -> None:
    (row,) = read_back(written(EVERYTHING, "json")[0], "json")
    assert row == {
        "b": True,
        "t": 1,
        "h": 170000000000000000000000000000000000,
        "d": 1.5,
        "bl": "6162",
        "dt": "2020-01-02",
        "ts": "2020-01-02T03:04:05",
        "tm": "01:02:03",
        "iv": {"months": 0, "days": 1, "nanoseconds": 0},
        "u": "9ef6691d-586e-4f1e-8f8f-bf70cb1d595f",
        "l": [1, 2],
        "s": {"a": 1, "b": [None, "x"]},
        "m": [["k", 1]],
        "j": '{"x": 1}',
        "f": None,
        "n": None,
        "e": "a",
        "x": 'q"u,o\n',
        "ar": [1.5, 2.5],
        "un": 1,
    }


def test_json_lines_hold_the_same_rows_as_json() -> None:
    assert read_back(written(EVERYTHING, "jsonl")[0], "jsonl") == read_back(written(EVERYTHING, "json")[0], "json")


@pytest.mark.parametrize("name", ["parquet", "arrow"])
def test_stored_types_are_kept_where_the_format_has_them(name: str) -> None:
    (row,) = read_back(written(EVERYTHING, name)[0], name)
    con = duckdb.connect(":memory:")
    plain = con.sql(EVERYTHING).to_arrow_table().to_pylist()[0]
    con.close()
    for column in set(plain) - {"iv", "un", "f"}:
        assert row[column] == plain[column], column
    assert json.loads(row["un"]) == 1
    assert json.loads(row["iv"]) == {"months": 0, "days": 1, "nanoseconds": 0}


def test_csv_holds_lists_and_structs_as_json_and_quotes_what_needs_it() -> None:
    (row,) = csv.DictReader(io.StringIO(written(EVERYTHING, "csv")[0].decode(), newline=""))
    assert row["x"] == 'q"u,o\n'
    assert json.loads(row["l"]) == [1, 2]
    assert json.loads(row["s"]) == {"a": 1, "b": [None, "x"]}
    assert (row["n"], row["e"], row["d"], row["dt"]) == ("", "a", "1.50", "2020-01-02")


def test_a_dictionary_that_grows_between_batches_is_no_hindrance() -> None:
    batches = [pa.record_batch({"e": pa.array([word]).dictionary_encode()}) for word in ("a", "b")]
    for name in ("parquet", "arrow", "csv"):
        sink = io.BytesIO()
        reader = pa.RecordBatchReader.from_batches(batches[0].schema, iter(batches))
        WRITERS[name](reader, sink)  # type: ignore[index]
        if name == "csv":
            assert sink.getvalue().decode().split() == ['"e"', '"a"', '"b"']
        else:
            assert [row["e"] for row in read_back(sink.getvalue(), name)] == ["a", "b"]
