"""Files that are no table of the wanted columns: each ends in one ManifestError that names file and column, with a remedy."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steercache.core.errors import ManifestError
from steercache.data.benchmarks.catalogue import open_benchmark
from steercache.data.benchmarks.clevr import is_count
from tests.data.tables import dataset
from tests.data.test_bad_rows import problems

PARQUET = {"type": "parquet", "path": "d.parquet"}
TEXTS = ["a cat on a mat", "two dogs"]


def test_a_parquet_column_named_twice_is_refused_where_it_is_read(tmp_path: Path) -> None:
    pq.write_table(pa.table([TEXTS, TEXTS, TEXTS], names=["text", "text", "x"]), tmp_path / "d.parquet")
    assert problems(tmp_path, PARQUET) == [(None, "text", "column_twice")]
    pq.write_table(pa.table([TEXTS, TEXTS, TEXTS], names=["text", "x", "x"]), tmp_path / "d.parquet")
    assert [e.text for e in dataset(tmp_path, PARQUET)] == TEXTS


@pytest.mark.parametrize(
    "column",
    [
        pa.array([2**62, 1], pa.duration("s")),
        pa.array([2**62, 1], pa.timestamp("us")),
        pa.array([2**62, 1], pa.timestamp("ns", tz="Nowhere/Land")),
        pa.array([b"\xff", b"a"]).view(pa.string()),
    ],
    ids=lambda column: str(column.type),
)
def test_a_value_that_python_has_no_object_for_is_a_bad_row(column: pa.Array, tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": TEXTS, "m": column}), tmp_path / "d.parquet")
    columns = {"text": "text", "meta": ["m"]}
    found = problems(tmp_path, {**PARQUET, "columns": columns})
    assert found[0][:2] == (1, "m")


def test_a_column_name_that_is_not_utf8_is_a_damaged_file(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": TEXTS, "zqzq": TEXTS}), tmp_path / "d.parquet")
    data = (tmp_path / "d.parquet").read_bytes()
    (tmp_path / "d.parquet").write_bytes(data.replace(b"zqzq", b"z\xff\xfeq"))
    assert problems(tmp_path, PARQUET) == [(None, "", "unreadable")]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "text"])
def test_text_of_wide_characters_is_named_as_such(kind: str, encoding: str, tmp_path: Path) -> None:
    line = json.dumps({"text": "a cat"}) if kind == "jsonl" else "text\na cat"
    (tmp_path / "d").write_bytes((line + "\n").encode(encoding))
    with pytest.raises(ManifestError, match=r"UTF-16|UTF-32") as caught:
        list(dataset(tmp_path, {"type": kind, "path": "d"}))
    assert "iconv" in str(caught.value.hint)


def test_a_file_in_an_old_encoding_has_every_line_named_and_says_how_to_convert_it(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_bytes("text\na caf\u00e9\na cat\nna\u00efve\n".encode("latin-1"))
    with pytest.raises(ManifestError) as caught:
        list(dataset(tmp_path, {"type": "csv", "path": "d.csv"}))
    assert [p.line for p in caught.value.problems] == [2, 4]
    assert all("save the file as UTF-8" in p.message for p in caught.value.problems)


def test_half_a_surrogate_pair_is_refused_wherever_it_stands(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text('{"text": "a", "m": {"k": ["\\ud800"]}, "image": "\\ud800.png"}\n')
    jsonl = {"type": "jsonl", "path": "d.jsonl"}
    assert problems(tmp_path, {**jsonl, "columns": {"meta": ["m"]}}) == [(1, "m", "not_json")]
    assert problems(tmp_path, {**jsonl, "columns": {"image": "image"}}) == [(1, "image", "image")]


def test_a_file_whose_name_begins_with_a_tilde_is_that_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("~d.parquet", "s3:d.parquet"):
        pq.write_table(pa.table({"text": TEXTS}), tmp_path / name)
        assert [e.text for e in dataset(Path(), {"type": "parquet", "path": name})] == TEXTS


def test_a_benchmarks_file_with_a_column_twice_or_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    picture = pa.array([{"bytes": b"x", "path": "x"}])
    table = pa.table([picture, ["q"], ["q"], ["1"]], names=["images", "problem", "problem", "answer"])
    (tmp_path / "data").mkdir()
    pq.write_table(table, tmp_path / "data" / "test-0.parquet")
    with pytest.raises(ManifestError) as caught:
        open_benchmark("clevr-count", tmp_path)
    assert [(p.loc, p.kind) for p in caught.value.problems] == [("problem", "column_twice")]


def test_a_clevr_row_with_an_endless_number_or_a_name_that_is_no_name_is_a_failed_row(tmp_path: Path) -> None:
    rows = [
        {"image_filename": "a.png", "question": "How many?", "answer": "9" * 5000},
        {"image_filename": "\ud800.png", "question": "How many?", "answer": 3},
        {"image_filename": "loop", "question": "How many?", "answer": 3},
    ]
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "loop").symlink_to("loop")
    (tmp_path / "CLEVR_val_questions.json").write_text(json.dumps({"questions": rows}))
    found = open_benchmark("clevr", tmp_path)
    assert len(found.failures) == 3
    assert is_count("12")
    assert not is_count("9" * 5000)
