"""Headers of query files: what is right, and every way of getting them wrong."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steercache.core.errors import NotFoundError, QueryError
from steercache.queries.library import Query, find_query, load_library, looks_like_name, parse_query

GOOD = """-- name: mine
-- kind: selection
-- summary: Rows of mine.
-- params:
--   concept: {type: text, help: which}
--   n: {type: integer, default: 3, minimum: 1, help: how many}
--   run: {type: run, default: newest_text, help: run}
-- returns:
--   run_id: run
--   row_idx: row
SELECT run_id, row_idx FROM tokens
"""


def test_a_header_says_name_kind_parameters_and_columns() -> None:
    query = parse_query(GOOD, place="mine.sql")
    assert (query.name, query.kind, query.summary) == ("mine", "selection", "Rows of mine.")
    assert {n: (p.type, p.required, p.default) for n, p in query.params.items()} == {
        "concept": ("text", True, None),
        "n": ("integer", False, 3),
        "run": ("run", False, "newest_text"),
    }
    assert query.text == GOOD


@pytest.mark.parametrize("before", ["\ufeff", "\n", "\r\n  \n", "\ufeff\n\n"])
def test_a_byte_order_mark_or_blank_lines_hide_no_header(tmp_path: Path, before: str) -> None:
    (tmp_path / "mine.sql").write_text(before + GOOD, encoding="utf-8", newline="")
    assert load_library([tmp_path])["mine"].summary == "Rows of mine."


@pytest.mark.parametrize(
    ("change", "to", "named"),
    [
        ("-- name: mine\n", "", "no header"),
        ("name: mine", "name: Mine!", "name"),
        ("kind: selection", "kind: view", "kind"),
        ("kind: selection\n", "kind: selection\n-- author: me\n", "author"),
        ("kind: selection\n", "kind: selection\n-- text: me\n", "text"),
        ("-- summary: Rows of mine.\n", "", "summary"),
        ("summary: Rows of mine.", "summary: ''", "summary"),
        ("type: text", "type: word", "type"),
        (", help: which", "", "help"),
        ("help: which}", "help: which, unit: m}", "unit"),
        ("default: 3", "default: three", "three"),
        ("default: 3", "default: true", "not an integer"),
        ("default: newest_text", "default: oldest", "newest"),
        ("  n: {", "  N n: {", "N n"),
        ("--   row_idx: row\n", "", "selection returns"),
        ("--   row_idx: row\n", "--   row_idx: row\n--   piece: p\n", "selection returns"),
        ("-- returns:\n--   run_id: run\n--   row_idx: row\n", "", "returns"),
        ("params:", "params: [", "YAML"),
        ("name: mine", "name: mine\n-- 1: 2", "header is wrong"),
    ],
)
def test_a_wrong_header_is_named(change: str, to: str, named: str) -> None:
    assert change in GOOD
    with pytest.raises(QueryError, match=named) as caught:
        parse_query(GOOD.replace(change, to), place="mine.sql")
    assert caught.value.place == "mine.sql"


def test_every_problem_is_named_at_once() -> None:
    text = GOOD.replace("kind: selection", "kind: view").replace("type: text", "type: word").replace("help: run}", "}")
    with pytest.raises(QueryError) as caught:
        parse_query(text, place="mine.sql")
    assert all(word in caught.value.message for word in ("kind", "params.concept.type", "params.run.help"))


def test_a_file_is_named_like_its_query(tmp_path: Path) -> None:
    (tmp_path / "other.sql").write_text(GOOD)
    with pytest.raises(QueryError, match=r"'other'.*'mine'"):
        load_library([tmp_path])


def test_ones_own_folder_adds_to_the_shipped_queries_and_may_replace_one(tmp_path: Path) -> None:
    (tmp_path / "mine.sql").write_text(GOOD)
    (tmp_path / "all_rows.sql").write_text(GOOD.replace("name: mine", "name: all_rows"))
    library = load_library([tmp_path])
    assert library["mine"].path == tmp_path / "mine.sql"
    assert library["all_rows"].summary == "Rows of mine."
    assert len(library) == len(load_library()) + 1


def test_a_missing_folder_and_an_unreadable_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nowhere"):
        load_library([tmp_path / "nowhere"])
    (tmp_path / "bad.sql").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(QueryError, match="bad"):
        load_library([tmp_path])


def test_a_misspelt_name_gets_names_that_are_close() -> None:
    with pytest.raises(NotFoundError) as caught:
        find_query(load_library(), "anchor_vs_contrl")
    assert "anchor_vs_control" in str(caught.value.hint)
    with pytest.raises(NotFoundError) as caught:
        find_query(load_library(), "zzz")
    assert caught.value.hint == "list the named queries first"


@pytest.mark.parametrize(
    ("text", "is_name"), [("all_rows", True), ("all-rows", True), ("SELECT 1", False), ("FROM t", False), ("", False)]
)
def test_one_plain_word_is_a_name(text: str, is_name: bool) -> None:
    assert looks_like_name(text) is is_name


@pytest.mark.parametrize("query", load_library().values(), ids=lambda q: q.name)
def test_a_shipped_query_is_described(query: Query) -> None:
    assert query.summary.endswith(".")
    assert len(query.summary) <= 120
    assert query.kind != "check" or query.name.startswith("check_")
    assert all(f"${name}" in query.text for name in query.params)


@settings(max_examples=200, deadline=None)
@given(
    header=st.one_of(
        st.text(), st.lists(st.sampled_from([*GOOD.splitlines(), "-- a: [", "-- ? x", "-- &a *a", "--"]))
    ).map(lambda h: h if isinstance(h, str) else "\n".join(h))
)
def test_any_header_is_a_query_or_a_query_error(header: str) -> None:
    with suppress(QueryError):
        assert isinstance(parse_query(header, place="x.sql"), Query)
