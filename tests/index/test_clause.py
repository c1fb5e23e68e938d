"""Targets as SQL: one canonical text, nothing but a prompt's tokens within reach, and prompts that do not see each other."""

import operator
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steercache.core.errors import QueryError
from steercache.index.clause import is_clause, read_clause, weighted_clause, with_vector_names
from steercache.index.clause_run import ClauseRunner, Weights
from tests.quick import costly

LENGTHS = (3, 5, 1)


def run(text: str, lengths: tuple[int, ...] = LENGTHS) -> list[Weights]:
    """A clause over samples whose tokens have a kind that alternates, and ids that count up over all samples."""
    position = np.concatenate([np.arange(n) for n in lengths]).astype(np.int32)
    columns = {
        "position": pa.array(position),
        "token_id": pa.array(np.arange(sum(lengths), dtype=np.int32)),
        "kind": pa.array(["image" if p % 2 else "text" for p in position]),
    }
    with ClauseRunner(read_clause(text)) as runner:
        return runner.run(columns, lengths)


def positions(text: str, lengths: tuple[int, ...] = LENGTHS) -> list[list[int]]:
    return [np.flatnonzero(weights).tolist() for weights in run(text, lengths)]


def test_spaces_comments_and_capitals_make_no_other_clause() -> None:
    one = read_clause("sql: Kind='image' /* the picture */ AND patch_row<3 -- its upper part\n")
    assert one.text == "kind = 'image' and patch_row < 3"
    assert read_clause("SQL:kind  =  'image'\nand PATCH_ROW < 3") == one == read_clause(one.text)
    assert read_clause("kind = 'Image' and patch_row < 3") != one  # what stands in quotes is a value
    assert is_clause(" sql: x")
    assert not is_clause("image")
    assert not is_clause(None)


@pytest.mark.parametrize(
    "text",
    [
        "text like '%don''t%' and token_id in (1, 2, -3)",
        "case when kind = 'text' then position > 2 else position >= 2::int end",
        "count(*) filter (where kind = 'image') over (partition by kind order by position desc) <= 5",
        "[1, 2][1] = 1 and position between 1 and 3 and not (kind is null)",
        "text = E'\\n' or text = $$a b$$",
        "with last as (select max(position) as p from tokens) select position from tokens, last where position = p",
    ],
)
def test_a_canonical_text_is_its_own_canonical_text_and_means_the_same(text: str) -> None:
    clause = read_clause(text)
    assert read_clause(clause.text) == clause
    assert clause.text.replace(" ", "").lower() == text.replace(" ", "").lower()


def test_a_condition_selects_the_tokens_where_it_is_true() -> None:
    assert positions("kind = 'image'") == [[1], [1, 3], []]
    assert positions("nullif(kind, 'image') = 'text' and position > 0") == [[2], [2, 4], []]  # NULL is not true
    assert [w.tolist() for w in run("position = 0")] == [[1, 0, 0], [1, 0, 0, 0, 0], [1]]


def test_windows_and_subqueries_stay_within_a_prompt() -> None:
    assert positions("lag(token_id) over (order by token_id) is null") == [[0], [0], [0]]
    assert positions("row_number() over (partition by kind order by position desc) = 1") == [[1, 2], [3, 4], [0]]
    assert positions("position = (select max(position) from tokens)") == [[2], [4], [0]]
    assert positions("select max(position) as position from tokens") == [[2], [4], [0]]
    assert positions("select position from tokens order by position desc limit 2") == [[1, 2], [3, 4], [0]]
    assert read_clause("lag(token_id) over (order by position) is null").together
    assert not read_clause("position = (select max(position) from tokens)").together


def test_what_begins_with_a_subquery_is_a_condition_and_a_select_in_brackets_stays_one() -> None:
    assert positions("(select count(*) from tokens where kind = 'image') = 1 and kind = 'text'") == [[0, 2], [], []]
    assert positions("((select max(position) from tokens) = position)") == [[2], [4], [0]]
    assert positions("(select position from tokens where position > 2)") == [[], [3, 4], []]
    whole = "((select position from tokens where position = 0) union (select max(position) from tokens))"
    assert positions(whole) == [[0, 2], [0, 4], [0]]
    made = weighted_clause("(select max(position) from tokens) = position", "0.5")
    assert [w.tolist() for w in run(made)] == [[0, 0, 0.5], [0, 0, 0, 0, 0.5], [0.5]]
    with pytest.raises(QueryError, match=r"returns position") as said:
        run("(select max(position) > 2 from tokens)")
    assert said.value.hint is not None
    assert "compare the subquery" in said.value.hint


_COMPARED = {"=": operator.eq, "<>": operator.ne, "<": operator.lt, ">=": operator.ge}
_AGGREGATES = {"count": len, "max": max, "min": min, "sum": sum}


@st.composite
def _conditions(draw: st.DrawFn, depth: int = 2) -> tuple[str, Callable[[list[int], int], bool]]:
    """A condition, and the same in Python of a prompt's positions and one of them; brackets and subqueries anywhere."""
    kind = draw(st.sampled_from(["column", "subquery"] + (["and", "or", "not", "brackets"] if depth else [])))
    if kind in ("and", "or"):
        (one, f), (other, g) = draw(_conditions(depth=depth - 1)), draw(_conditions(depth=depth - 1))
        together = all if kind == "and" else any
        return f"({one}) {kind} {other}", lambda every, p: together([f(every, p), g(every, p)])
    if kind in ("not", "brackets"):
        inner, f = draw(_conditions(depth=depth - 1))
        return (f"not ({inner})", lambda every, p: not f(every, p)) if kind == "not" else (f"({inner})", f)
    sign, n = draw(st.sampled_from(sorted(_COMPARED))), draw(st.integers(0, 4))
    compared = _COMPARED[sign]
    if kind == "column":
        return f"(position) {sign} {n}", lambda every, p: compared(p, n)
    name = draw(st.sampled_from(sorted(_AGGREGATES)))
    gathered = _AGGREGATES[name]
    return f"(select {name}(position) from tokens) {sign} {n}", lambda every, p: compared(gathered(every), n)


@settings(max_examples=8, deadline=None)
@given(condition=_conditions(), lengths=st.lists(st.integers(1, 5), min_size=1, max_size=3))
def test_a_condition_with_subqueries_and_brackets_selects_what_the_same_says_in_python(
    condition: tuple[str, Callable[[list[int], int], bool]], lengths: list[int]
) -> None:
    text, holds = condition
    wanted = [[p for p in range(n) if holds(list(range(n)), p)] for n in lengths]
    assert positions(text, tuple(lengths)) == wanted
    assert positions(f"({text})", tuple(lengths)) == wanted
    assert positions(f"(select position from tokens where {text})", tuple(lengths)) == wanted


@costly(5)
@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_what_is_selected_of_a_prompt_depends_on_no_other(lengths: list[int]) -> None:
    for text in ("sum(position) over (order by position) < 4", "position > (select avg(position) from tokens)"):
        together = positions(text, tuple(lengths))
        assert together == [positions(text, (n,))[0] for n in lengths]


def test_a_weight_is_returned_per_token_and_null_or_zero_is_none() -> None:
    text = "select position, case position when 0 then 0 when 1 then 0.25 when 2 then -2 end as weight from tokens"
    assert [w.tolist() for w in run(text)] == [[0, 0.25, -2], [0, 0.25, -2, 0, 0], [0]]
    assert read_clause(text).weighted
    assert not read_clause("position = 1").weighted
    made = weighted_clause("kind = 'image'", "1 / (1 + position)")
    assert made == "select position, (1 / (1 + position)) as weight from tokens where (kind = 'image')"
    windowed = weighted_clause("lag(kind) over (order by position) = 'image'", "2.0")
    assert [w.tolist() for w in run(windowed)] == [[0, 0, 2], [0, 0, 2, 0, 2], [0]]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sql: ",
        "select",
        "kind = 'a",
        "position < 3) or (1 = 1",
        "1) as a, (2",
        "1 = 1) from tokens; drop table tokens; select (1",
        "position < 2; select 1",
        "position from tokens",
        "position as p",
        "position, kind",
        "insert into tokens values (1)",
        "delete from tokens",
        "copy tokens to 'x.csv'",
        "attach 'x.db' as y",
        "install httpfs",
        "pragma database_list",
        "set memory_limit = '1GB'",
        "exists (select 1 from 'x.parquet')",
        "exists (select 1 from read_csv('/etc/passwd'))",
        "exists (select 1 from read_text('/etc/passwd'))",
        "exists (select 1 from glob('/*'))",
        "exists (select 1 from duckdb_settings())",
        "exists (select 1 from duckdb_tables())",
        "exists (select 1 from information_schema.tables)",
        "exists (select 1 from other)",
        "exists (describe tokens)",
        "(values (1)) = 1",
        "(select 1) = 1; select 2",
        "(select 1), 2",
        "(select position from tokens where",
        "(select position from other) = 1",
        "(select random() < 0.5)",
        "(select _row from tokens) = 1",
        "select * from tokens",
        "select columns('p.*') from tokens",
        "select position from tokens limit 2",
        "position in (select position from tokens limit 1)",
        "select position from tokens using sample 2",
        "random() < 0.5",
        "now() > '2020-01-01'",
        "current_date > '2020-01-01'",
        "current_timestamp is not null",
        "uuid() > 'a'",
        "getvariable('x') = 1",
        "current_setting('memory_limit') = ''",
        "nextval('s') = 1",
        "repeat('x', 1000000000) = ''",
        "len(generate_series(1, 1000000000)) > 1",
        "position = $n",
        "position = ?",
        "_sample = 0",
        "_row = 0",
        "tokens._sample = 0",
        "tokens['_sample'] = 0",
        "select position from tokens t where t['_sample'] = 0",
        "struct_extract(tokens, '_row') > 3",
        "activation(position)[1] > 0",
        "activation()[1] > 0",
        "vector('v')[1] > 0",
        "vector(kind, 1)[1] > 0",
        "\ud800 = 1",
        "(" * 3000,
        "x" * 20_000,
    ],
)
def test_hostile_or_fickle_sql_is_refused_before_anything_runs(text: str) -> None:
    with pytest.raises(QueryError):
        read_clause(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("position", "not true or false"),
        ("colour = 'red'", "colour"),
        ("select token_id from tokens", "position"),
        ("select position, token_id from tokens", "token_id"),
        ("select position + 100 as position from tokens", "does not have"),
        ("select position from tokens union all select position from tokens", "more than once"),
        ("select 0.5 as position from tokens", "integer"),
        ("select position, kind as weight from tokens", "number"),
        ("select position, 1e300 as weight from tokens", "finite"),
        ("select position, 'nan'::float as weight from tokens", "finite"),
        ("read_text('/etc/passwd') = ''", "read_text"),
        ("sum(position) > 1 and position > 0", "GROUP BY"),
        ("error('no') is null", "error"),
        ("list_inner_product(activation(1), [1.0]) > 0", "not known"),
        ("list_inner_product(vector('v', 1), [1.0]) > 0", "not known"),
    ],
)
def test_what_is_wrong_only_when_it_runs_is_an_error_of_ours(text: str, why: str) -> None:
    with pytest.raises(QueryError, match=why):
        run(text)


def test_names_of_vectors_become_ids() -> None:
    clause = read_clause("list_inner_product(activation(2), vector('it''s', 1)) > 0 and kind = 'it''s'")
    assert clause.vectors == (("it's", 1),)
    assert clause.layers == (2,)
    assert not clause.alone
    named = with_vector_names(clause, {"it's": "0f"})
    assert named.text == "list_inner_product(activation(2), vector('0f', 1)) > 0 and kind = 'it''s'"


def test_functions_get_the_rows_that_they_are_about() -> None:
    asked: list[tuple[int, list[int]]] = []

    def activation(run: str, site: str, layer: int, rows: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        asked.append((layer, rows.tolist()))
        return np.stack([rows, rows * 0 + layer], axis=1).astype(np.float32)

    clause = read_clause("list_inner_product(activation(7), vector('v', 3)) > 20 and position >= 0")
    columns = {"position": pa.array([0, 1, 2, 0, 1])}
    with ClauseRunner(clause, activation=activation, vector=lambda name, layer: np.array([1.0, layer])) as runner:
        found = runner.run(columns, (3, 2))
    assert np.concatenate(found).tolist() == [float(row + 21 > 20) for row in range(5)]
    assert asked[0] == (7, [0, 1, 2, 3, 4])
