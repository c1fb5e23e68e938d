"""`activation()` and `vector()` in SQL, against lists made by hand."""

from collections.abc import Callable
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steercache.core.errors import NotFoundError, QueryError
from steercache.index.functions import gather_lists, register_functions
from steercache.index.guard import Limits, run_query

WIDTHS = {"r1": 3, "r2": 5}
Gather = Callable[..., Any]


def value(run: str, layer: int, row: int) -> list[float]:
    """What the fake runs hold: width by run, numbers that tell layer and row."""
    return [float(layer * 1000 + row + i / 8) for i in range(WIDTHS[run])]


def gather(run: str, site: str, layer: int, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if run not in WIDTHS:
        raise NotFoundError(f"no run {run}", hint="steercache cache status")
    assert site == "resid_post"
    return np.array([value(run, layer, int(r)) for r in rows], dtype=np.float64)


def direction(vector_id: str, layer: int) -> np.ndarray[Any, Any]:
    if layer > 3:
        raise NotFoundError(f"no layer {layer}")
    return np.array([layer, len(vector_id)], dtype=np.float32)


def answer(sql: str, gather: Gather = gather) -> list[Any]:
    con = duckdb.connect(":memory:")
    failures = register_functions(con, activation=gather, vector=direction)
    rows = run_query(con, sql, {}, limits=Limits(), failures=failures).to_pylist()
    con.close()
    return rows


cells = st.tuples(
    st.one_of(st.none(), st.sampled_from(["r1", "r2"])),
    st.one_of(st.none(), st.integers(0, 3)),
    st.one_of(st.none(), st.integers(0, 50)),
)


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(cells, max_size=40))
def test_every_row_gets_its_own_list_and_null_where_an_argument_is_null(rows: list[tuple[Any, ...]]) -> None:
    runs, layers, places = ([row[i] for row in rows] for i in range(3))
    columns = [pa.array(runs, pa.string()), pa.array(["resid_post"] * len(rows), pa.string())]
    columns += [pa.chunked_array([pa.array(layers[:7], pa.int32()), pa.array(layers[7:], pa.int32())])]
    columns += [pa.array(places, pa.int64())]
    found = gather_lists(columns, gather).to_pylist()
    assert found == [None if None in row else value(*row) for row in rows]


def test_rows_of_several_runs_and_layers_in_one_query() -> None:
    sql = (
        "SELECT run, layer, row_idx, activation(run, 'resid_post', layer, row_idx) AS a"
        " FROM (VALUES ('r1'), ('r2')) r(run), range(3) l(layer), range(1000) t(row_idx)"
    )
    found = answer(sql)
    assert len(found) == 6000
    assert all(row["a"] == value(row["run"], row["layer"], row["row_idx"]) for row in found)


def test_rows_are_gathered_in_blocks_and_not_one_by_one() -> None:
    sizes = []

    def counting(run: str, site: str, layer: int, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        sizes.append(len(rows))
        return gather(run, site, layer, rows)

    answer("SELECT sum(len(activation('r1', 'resid_post', 1, range))) AS n FROM range(20000)", counting)
    assert sum(sizes) == 20000
    assert max(sizes) == 2048
    assert len(sizes) <= 12


def test_a_row_that_was_not_kept_is_null() -> None:
    sql = "SELECT activation('r1', 'resid_post', 1, x) AS a FROM (VALUES (NULL), (4)) t(x)"
    assert answer(sql) == [{"a": None}, {"a": value("r1", 1, 4)}]


def test_both_functions_meet_in_a_cosine() -> None:
    sql = "SELECT list_cosine_similarity(vector('abc', 1), vector('abcd', 2)) AS c"
    expected = (1 * 2 + 3 * 4) / np.sqrt(10 * 20)
    assert answer(sql)[0]["c"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT activation('r9', 'resid_post', 1, 1)", "no run r9"),
        ("SELECT activation('r9', 'resid_post', 1, range) FROM range(5000)", "no run r9"),
        ("SELECT vector('v', 8)", "no layer 8"),
    ],
)
def test_an_unknown_run_or_layer_is_a_query_error_in_our_own_words(sql: str, message: str) -> None:
    with pytest.raises(QueryError) as caught:
        answer(sql)
    assert caught.value.message == message


@pytest.mark.parametrize(
    "sql", ["SELECT activation('r1')", "SELECT activation('r1', 'resid_post', 'x', 1)", "SELECT vector(1)"]
)
def test_wrong_arguments_are_a_query_error(sql: str) -> None:
    with pytest.raises(QueryError):
        answer(sql)
