"""The same rows give the same examples, whatever they are stored in."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steercache.core.errors import ManifestError, NotFoundError
from steercache.core.examples import Labels
from steercache.core.shipped import shipped_folder
from steercache.data import open_dataset
from steercache.data.anchors import find_anchors
from steercache.manifests import DatasetManifest, load_manifest
from tests.data.tables import WRITERS, dataset, inputs_and_labels, write_csv, write_jsonl

COLUMNS = {"text": "sentence", "anchor": "word", "concept": "topic", "split": "part", "group": "story", "answer": "a"}

words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12)
rows_of_table = st.lists(
    st.fixed_dictionaries(
        {
            "sentence": st.builds("{0}. The anchor, {0}!".format, words),
            "word": st.just("anchor"),
            "topic": st.sampled_from(["counting", "naïve", "время"]),
            "part": words,
            "story": words,
            "a": words,
            "unused": words,
        }
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=rows_of_table)
def test_jsonl_csv_and_parquet_give_the_same_examples_and_the_right_ones(
    tmp_path: Path, rows: list[dict[str, str]]
) -> None:
    expected = [
        (
            row["sentence"],
            None,
            "",
            False,
            Labels(
                concept=row["topic"],
                split=row["part"] or None,
                group_id=row["story"] or None,
                answer=row["a"] or None,
                anchors=find_anchors(row["sentence"], "anchor"),
            ),
        )
        for row in rows
    ]
    for type_, write in WRITERS.items():
        write(tmp_path / f"d.{type_}", rows)
        found = dataset(tmp_path, {"type": type_, "path": f"d.{type_}", "columns": COLUMNS})
        assert inputs_and_labels(found) == expected, type_


def test_questions_with_choices_and_numbers_are_the_same_from_every_format(tmp_path: Path) -> None:
    columns = {
        "text": "prompt",
        "question": "q",
        "choices": "options",
        "answer": "n",
        "pair": "p",
        "polarity": "sign",
        "meta": ["m"],
    }
    rows: list[dict[str, Any]] = [
        {"prompt": "How many?", "q": "many?", "options": ["1", "2"], "n": 2, "p": 7, "sign": 1, "m": "x"},
        {"prompt": "How few?", "q": None, "options": [], "n": None, "p": 7, "sign": -1, "m": "y"},
    ]
    WRITERS["jsonl"](tmp_path / "d.jsonl", rows)
    WRITERS["parquet"](tmp_path / "d.parquet", rows)
    WRITERS["csv"](tmp_path / "d.csv", [{**row, "options": json.dumps(row["options"])} for row in rows])
    expected = [
        Labels(question="many?", choices=("1", "2"), answer="2", pair_id="7", polarity=1, meta={"m": "x"}),
        Labels(answer=None, pair_id="7", polarity=-1, meta={"m": "y"}),
    ]
    for type_ in WRITERS:
        found = dataset(tmp_path, {"type": type_, "path": f"d.{type_}", "columns": columns})
        assert [example.labels for example in found] == expected, type_


def test_a_place_says_the_line_of_the_file_or_the_row_of_a_parquet_file(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text('{"text": "a"}\n\n  \n{"text": "b"}\r\n{"text": "c"}')
    (tmp_path / "d.csv").write_text('text,n\n"a\nof two lines",1\nb,2\n\nc,3\n')
    (tmp_path / "d.txt").write_text("a\n\nb\n   \nc")
    WRITERS["parquet"](tmp_path / "d.parquet", [{"text": t} for t in "abc"])
    expected = {"jsonl": [1, 4, 5], "csv": [2, 4, 6], "txt": [1, 3, 5], "parquet": [1, 2, 3]}
    for suffix, lines in expected.items():
        source = {"type": "text" if suffix == "txt" else suffix, "path": f"d.{suffix}"}
        assert [e.place for e in dataset(tmp_path, source)] == [f"d.{suffix}:{line}" for line in lines]


def test_a_csv_file_may_have_another_delimiter_a_byte_order_mark_and_windows_lines(tmp_path: Path) -> None:
    (tmp_path / "d.tsv").write_bytes('\ufefftext\tn\r\n"a ""b"", c"\t1\r\nd\t2\r\n'.encode())
    found = dataset(tmp_path, {"type": "csv", "path": "d.tsv", "delimiter": "\t"})
    assert [example.text for example in found] == ['a "b", c', "d"]


@pytest.mark.parametrize("n_chars", [131_073, 5_000_000])
def test_a_csv_field_may_be_as_long_as_a_row_of_jsonl(tmp_path: Path, n_chars: int) -> None:
    (tmp_path / "d.csv").write_text(f"text\n{'long ' * (n_chars // 5)}\nshort\n")
    lengths = [len(example.text) for example in dataset(tmp_path, {"type": "csv", "path": "d.csv"})]
    assert lengths == [n_chars // 5 * 5, 5]


def test_jsonl_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a"}\n')
    assert [example.text for example in dataset(tmp_path, {"type": "jsonl", "path": "d.jsonl"})] == ["a"]


def test_a_corpus_comes_by_line_or_by_paragraph_with_its_inner_line_breaks(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_bytes(b"one\r\ntwo  \n\n \t\n  three\n\n\n\nfour\nfive")
    lines = dataset(tmp_path, {"type": "text", "path": "c.txt"})
    blocks = dataset(tmp_path, {"type": "text", "path": "c.txt", "unit": "paragraph"})
    assert [e.text for e in lines] == ["one", "two  ", "  three", "four", "five"]
    assert [(e.text, e.place) for e in blocks] == [
        ("one\ntwo  ", "c.txt:1"),
        ("  three", "c.txt:5"),
        ("four\nfive", "c.txt:9"),
    ]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(alphabet="ab \n\t\r\u2028\x85", max_size=60))
def test_lines_and_paragraphs_of_a_corpus_are_those_of_a_plain_split(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.txt").write_bytes(text.encode())
    lines = [line.rstrip("\r") for line in text.split("\n")]
    blocks: list[list[str]] = [[]]
    for line in lines:
        blocks = [*blocks[:-1], [*blocks[-1], line]] if line.strip() else [*blocks, []]
    by_line = dataset(tmp_path, {"type": "text", "path": "c.txt"})
    by_block = dataset(tmp_path, {"type": "text", "path": "c.txt", "unit": "paragraph"})
    assert [e.text for e in by_line] == [line for line in lines if line.strip()]
    assert [e.text for e in by_block] == ["\n".join(block) for block in blocks if block]


def test_chat_and_systems_reach_the_example(tmp_path: Path) -> None:
    write_jsonl(
        tmp_path / "d.jsonl",
        [{"text": "Hi", "who": "Be kind.", "say": " Hello"}, {"text": "Ho", "who": None, "say": ""}],
    )
    columns = {"system": "who", "completion": "say"}
    source = {"type": "jsonl", "path": "d.jsonl", "columns": columns}
    found = list(dataset(tmp_path, source, chat={"apply": True, "system": "Be brief."}))
    assert [(e.chat, e.system, e.completion) for e in found] == [(True, "Be kind.", " Hello"), (True, "Be brief.", "")]


def test_a_concept_for_all_rows_stands_where_no_column_says_one(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "d.jsonl", [{"text": "a", "c": "counting"}, {"text": "b", "c": None}])
    source = {"type": "jsonl", "path": "d.jsonl", "columns": {"concept": "c"}}
    assert [e.labels.concept for e in dataset(tmp_path, source, concept="entity")] == ["counting", "entity"]


@pytest.mark.parametrize("type_", ["jsonl", "csv", "parquet", "text", "pairs", "hf"])
def test_a_file_or_folder_that_is_not_there_is_named(tmp_path: Path, type_: str) -> None:
    if type_ == "hf":
        pytest.importorskip("datasets")
    source = {"type": type_, "path": "absent.jsonl"}
    with pytest.raises(NotFoundError, match=r"absent\.jsonl"):
        list(dataset(tmp_path, source))


@pytest.mark.parametrize(
    "path", sorted((shipped_folder("manifests") / "datasets").glob("*.yaml")), ids=lambda p: p.stem
)
def test_a_shipped_data_set_has_no_bad_row(path: Path) -> None:
    if path.stem == "example-hf":
        pytest.importorskip("datasets")
    manifest = load_manifest(path, kind="dataset")
    assert isinstance(manifest, DatasetManifest)
    assert open_dataset(manifest, base_dir=path.parent).check() >= 3


def test_the_shipped_examples_of_one_table_are_the_same_from_four_sources() -> None:
    pytest.importorskip("datasets")
    folder = shipped_folder("manifests") / "datasets"
    found = []
    for name in ("example-jsonl", "example-csv", "example-parquet", "example-hf"):
        manifest = load_manifest(folder / f"{name}.yaml")
        assert isinstance(manifest, DatasetManifest)
        found.append(inputs_and_labels(open_dataset(manifest, base_dir=folder)))
    assert found[0] == found[1] == found[2] == found[3]


def test_a_parquet_file_that_is_cut_short_or_none_is_refused(tmp_path: Path) -> None:
    WRITERS["parquet"](tmp_path / "whole.parquet", [{"text": "a" * 500}] * 50)
    whole = (tmp_path / "whole.parquet").read_bytes()
    for data in (whole[:-20], whole[: len(whole) // 2], b"", b"PAR1PAR1", whole[:8] + b"\xff" * 40 + whole[48:]):
        (tmp_path / "d.parquet").write_bytes(data)
        with pytest.raises(ManifestError) as caught:
            list(dataset(tmp_path, {"type": "parquet", "path": "d.parquet"}))
        assert [problem.kind for problem in caught.value.problems] == ["unreadable"]


def test_dictionary_and_large_and_view_strings_of_parquet_read_as_text(tmp_path: Path) -> None:
    plain = pa.array(["a b", "c d"])
    for kind in (pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.string_view()):
        pq.write_table(pa.table({"text": plain.cast(kind)}), tmp_path / "d.parquet")
        assert [e.text for e in dataset(tmp_path, {"type": "parquet", "path": "d.parquet"})] == ["a b", "c d"]


def test_a_missing_column_of_a_table_with_a_header_is_said_once(tmp_path: Path) -> None:
    rows = [{"text": "a", "n": "1"}] * 30
    columns = {"text": "text", "anchor": "anchr", "concept": "m"}
    for type_ in ("csv", "parquet"):
        WRITERS[type_](tmp_path / f"d.{type_}", rows)
        with pytest.raises(ManifestError) as caught:
            list(dataset(tmp_path, {"type": type_, "path": f"d.{type_}", "columns": columns}))
        assert [(p.loc, p.kind) for p in caught.value.problems] == [
            ("anchr", "missing_column"),
            ("m", "missing_column"),
        ]
        assert all("text, n" in p.message for p in caught.value.problems)


def test_an_empty_csv_file_and_one_with_a_header_named_twice_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "twice.csv").write_text("text,text\na,b\n")
    write_csv(tmp_path / "rows.csv", [{"text": "a"}])
    for name, kind in (("empty", "missing_column"), ("twice", "column_twice")):
        with pytest.raises(ManifestError) as caught:
            list(dataset(tmp_path, {"type": "csv", "path": f"{name}.csv"}))
        assert [p.kind for p in caught.value.problems] == [kind]
    assert dataset(tmp_path, {"type": "csv", "path": "rows.csv"}).check() == 1
