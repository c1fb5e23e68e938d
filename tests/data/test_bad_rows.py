"""Every bad row is named, whatever is wrong with it; none is skipped, none ends in a traceback."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steercache.core.errors import ManifestError
from steercache.core.examples import Example
from steercache.data.rows import MAX_ROW_BYTES
from steercache.data.stream import SHOWN
from tests.data.tables import dataset, write_jsonl

COLUMNS = {"text": "text", "anchor": "anchor"}
GOOD = {"text": "A cat on a mat.", "anchor": "on"}


def problems(base_dir: Path, source: dict[str, Any], **fields: Any) -> list[tuple[int | None, str, str]]:
    """(line, column, kind) of every problem that reading to the end reports."""
    with pytest.raises(ManifestError) as caught:
        list(dataset(base_dir, source, **fields))
    return [(p.line, p.loc, p.kind) for p in caught.value.problems]


def test_every_bad_row_of_a_file_is_in_one_error_with_its_line(tmp_path: Path) -> None:
    lines: list[bytes] = [
        json.dumps(GOOD).encode(),
        b'{"text": "no anchor here", "anchor": "on"}',
        b'{"text": "Only inside: once, upon, twenty-on", "anchor": "on"}',
        b'{"text": "On the mat.", "anchor": "on"}',
        b'{"text": "  \\"On\\" the mat.", "anchor": "on"}',
        b'{"txt": "A cat on a mat.", "anchor": "on"}',
        b'{"text": 5, "anchor": "on"}',
        b'{"text": "A cat on a mat.", "anchor": ["on"]}',
        b'{"text": "A cat on a mat.", "anchor": null}',
        b'{"text": "A cat on a mat.", "anchor": ""}',
        b'{"text": "   ", "anchor": "on"}',
        b'{"text": "A caf\xe9 on a mat.", "anchor": "on"}',
        b'{"text": "A \\ud800 on a mat.", "anchor": "on"}',
        b"not json",
        b'["text", "anchor"]',
        b'{"text": "a on b", "text": "c on d", "anchor": "on"}',
        b'{"text": NaN, "anchor": "on"}',
        b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"text": ' + b"9" * 10_000 + b"}",
        json.dumps(GOOD).encode(),
    ]
    (tmp_path / "d.jsonl").write_bytes(b"\n".join(lines))
    assert problems(tmp_path, {"type": "jsonl", "path": "d.jsonl", "columns": COLUMNS}) == [
        (2, "anchor", "anchor_missing"),
        (3, "anchor", "anchor_inside_word"),
        (4, "anchor", "anchor_first"),
        # line 5 is good: a quotation mark stands before the anchor
        (6, "text", "missing_column"),
        (7, "text", "not_text"),
        (8, "anchor", "not_text"),
        (9, "anchor", "not_text"),
        (10, "anchor", "empty"),
        (11, "text", "empty"),
        (12, "", "encoding"),
        (13, "text", "encoding"),
        (14, "", "json"),
        (15, "", "json"),
        (16, "", "json"),
        (17, "", "json"),
        (18, "", "json"),
        (19, "", "json"),
    ]


def test_the_error_says_the_word_around_the_anchor_and_the_file(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "d.jsonl", [{"text": "They went upon a journey.", "anchor": "on"}])
    with pytest.raises(ManifestError) as caught:
        list(dataset(tmp_path, {"type": "jsonl", "path": "d.jsonl", "columns": COLUMNS}))
    assert "d.jsonl:1: anchor: 'on' stands only inside another word: 'upon'" in str(caught.value)


def test_good_rows_come_until_the_first_bad_one_and_none_after_it(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "d.jsonl", [GOOD, GOOD, {"text": "x", "anchor": "on"}, GOOD])
    seen: list[Example] = []
    stream = iter(dataset(tmp_path, {"type": "jsonl", "path": "d.jsonl", "columns": COLUMNS}))
    with pytest.raises(ManifestError):
        seen.extend(stream)
    assert len(seen) in (0, 2)
    again = iter(dataset(tmp_path, {"type": "jsonl", "path": "d.jsonl", "columns": COLUMNS}))
    assert [next(again).place, next(again).place] == ["d.jsonl:1", "d.jsonl:2"]
    with pytest.raises(ManifestError):
        next(again)


def test_of_thousands_of_bad_rows_the_first_are_shown_and_all_are_counted(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "d.jsonl", [GOOD] + [{"text": "x", "anchor": "on"}] * 5000)
    with pytest.raises(ManifestError, match=rf"5000 problems in this data set; the first {SHOWN}:") as caught:
        list(dataset(tmp_path, {"type": "jsonl", "path": "d.jsonl", "columns": COLUMNS}))
    assert [p.line for p in caught.value.problems] == list(range(2, 2 + SHOWN))


def test_a_row_with_two_faults_has_both_named(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "d.jsonl", [{"text": 1, "anchor": 2, "options": "x", "sign": 0, "m": "y"}])
    columns = COLUMNS | {"choices": "options", "polarity": "sign", "meta": ["z"]}
    assert problems(tmp_path, {"type": "jsonl", "path": "d.jsonl", "columns": columns}) == [
        (1, "text", "not_text"),
        (1, "options", "not_list"),
        (1, "sign", "polarity"),
        (1, "anchor", "not_text"),
        (1, "z", "missing_column"),
    ]


def test_an_optional_anchor_may_be_empty_but_not_wrong(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "d.jsonl", [GOOD, {"text": "a", "anchor": None}, {"text": "b", "anchor": ""}])
    source = {"type": "jsonl", "path": "d.jsonl", "columns": COLUMNS}
    assert [len(e.labels.anchors) for e in dataset(tmp_path, source, anchors="optional")] == [1, 0, 0]
    assert problems(tmp_path, source) == [(2, "anchor", "not_text"), (3, "anchor", "empty")]
    write_jsonl(tmp_path / "d.jsonl", [{"text": "a", "anchor": "b"}])
    assert problems(tmp_path, source, anchors="optional") == [(1, "anchor", "anchor_missing")]


def test_a_first_anchor_is_let_pass_where_something_stands_before_the_text(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "d.jsonl", [{"text": "On the mat.", "anchor": "on"}])
    source = {"type": "jsonl", "path": "d.jsonl", "columns": COLUMNS}
    assert problems(tmp_path, source) == [(1, "anchor", "anchor_first")]
    with pytest.raises(ManifestError, match=r"unless a BOS or a picture stands before it .*`first_position: allow`"):
        dataset(tmp_path, source).check()
    assert dataset(tmp_path, source, first_position="allow").check() == 1
    assert dataset(tmp_path, source, chat={"apply": True}).check() == 1


def test_bad_records_of_a_csv_file_are_named_by_the_line_they_begin_on(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_bytes(
        b'text,anchor\n"A cat\non a mat",on\nonly one field\na,b,c\nA caf\xe9 on it,on\n'
        b'x,on\nA cat on it,on\n"never closed,on\n'
    )
    assert problems(tmp_path, {"type": "csv", "path": "d.csv", "columns": COLUMNS}) == [
        (4, "", "csv"),
        (5, "", "csv"),
        (6, "", "encoding"),
        (7, "anchor", "anchor_missing"),
        (9, "", "csv"),
    ]


def test_bytes_that_are_not_utf8_in_a_parquet_text_column_are_named_by_row(tmp_path: Path) -> None:
    good = pa.array([b"A cat on a mat.", b"caf\xe9 on it", b"y"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), len(good), good.buffers())
    pq.write_table(pa.table({"text": text, "anchor": ["on", "on", "on"]}), tmp_path / "d.parquet")
    assert problems(tmp_path, {"type": "parquet", "path": "d.parquet", "columns": COLUMNS}) == [
        (2, "text", "encoding"),
        (3, "anchor", "anchor_missing"),
    ]


def test_columns_of_other_types_in_parquet_are_not_taken_for_text(tmp_path: Path) -> None:
    for values in ([1, 2], [1.5, None], [b"a", b"b"], [["a"], ["b"]], [{"a": 1}, None], [True, False]):
        pq.write_table(pa.table({"text": values}), tmp_path / "d.parquet")
        found = problems(tmp_path, {"type": "parquet", "path": "d.parquet"})
        assert found == [(1, "text", "not_text"), (2, "text", "not_text")]


def test_a_corpus_names_the_lines_that_are_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_bytes(b"good\nb\xe4d\ngood\n\xff\xfe\n")
    for unit in ("line", "paragraph"):
        found = problems(tmp_path, {"type": "text", "path": "c.txt", "unit": unit})
        assert found == [(2, "", "encoding"), (4, "", "encoding")]


def test_a_line_without_end_is_named_and_not_held_in_memory(tmp_path: Path) -> None:
    with (tmp_path / "d.jsonl").open("wb") as stream:
        stream.write(b'{"text": "a"}\n' + b"x" * (2 * MAX_ROW_BYTES + 5) + b'\n{"text": "b"}\n')
    assert problems(tmp_path, {"type": "jsonl", "path": "d.jsonl"}) == [(2, "", "too_long")]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200), type_=st.sampled_from(["jsonl", "csv", "parquet", "text"]))
def test_random_bytes_give_examples_or_one_manifest_error(tmp_path: Path, data: bytes, type_: str) -> None:
    (tmp_path / "d").write_bytes(data)
    assert well_read_or_well_refused(tmp_path, {"type": type_, "path": "d"})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.dictionaries(st.sampled_from(["text", "anchor", "c", "n", "p", "i"]), json_values), max_size=5))
def test_random_json_rows_give_examples_or_one_manifest_error(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"anchor": "anchor", "choices": "c", "answer": "n", "polarity": "p", "image": "i", "meta": ["n", "c"]}
    assert well_read_or_well_refused(tmp_path, {"type": "jsonl", "path": "d.jsonl", "columns": columns})


def well_read_or_well_refused(base_dir: Path, source: dict[str, Any]) -> bool:
    """Examples with text, or the one error that may come instead; any other is the test's failure."""
    try:
        return all(example.text.strip() for example in dataset(base_dir, source))
    except ManifestError as refusal:
        return bool(refusal.problems)
