"""Data files that are not UTF-8: named once, with the likely encoding and a command that mends them."""

import shutil
import subprocess
from pathlib import Path

import pytest

from steercache.core.errors import ManifestError
from steercache.data.lines import csv_rows, jsonl_rows, text_rows
from steercache.data.rows import Row

HEADER, ROW = "Größe,text", "1,naïve café"


def csv_of(path: Path) -> list[object]:
    return list(csv_rows(path, path.name, wanted=("text",)))


@pytest.mark.parametrize(
    ("encoding", "says"),
    [("utf-16", "UTF-16"), ("utf-16-le", "UTF-16LE"), ("utf-16-be", "UTF-16BE"), ("utf-32", "UTF-32")],
)
def test_a_csv_file_in_another_unicode_encoding_is_named_once_and_its_remedy_works(
    encoding: str, says: str, tmp_path: Path
) -> None:
    path = tmp_path / "d.csv"
    path.write_bytes(f"{HEADER}\n{ROW}\n{ROW}\n".encode(encoding))
    with pytest.raises(ManifestError) as caught:
        csv_of(path)
    assert len(caught.value.problems) == 1
    assert says in caught.value.problems[0].message
    _mends(caught.value, tmp_path)


def test_a_csv_file_with_a_latin_1_header_is_not_said_to_lack_columns(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_bytes(f"{HEADER}\n{ROW}\n".encode("cp1252"))
    with pytest.raises(ManifestError, match="not UTF-8: byte 2 of its first line is 0xf6") as caught:
        csv_of(path)
    _mends(caught.value, tmp_path)


def _mends(error: ManifestError, folder: Path) -> None:
    """Run the command that the error names, where the machine has it, and read what it wrote."""
    assert error.hint is not None
    command = error.hint.partition("by: ")[2]
    assert command.startswith("iconv ")
    if shutil.which("iconv"):
        subprocess.run(command, shell=True, check=True, cwd=folder)
        rows = csv_of(folder / "d-utf8.csv")
        assert next(row.values["text"] for row in rows if isinstance(row, Row)) == "naïve café"


def test_a_latin_1_row_names_its_line_and_byte_and_the_other_rows_are_read(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_bytes(b"text\nplain\nna\xefve\nlast\n")
    rows = csv_of(path)
    assert [row.values["text"] for row in rows if isinstance(row, Row)] == ["plain", "last"]
    (problem,) = [row for row in rows if not isinstance(row, Row)]
    assert (problem.line, problem.kind) == (3, "encoding")  # type: ignore[attr-defined]
    assert "byte 2 of the line is 0xef; save the file as UTF-8" in problem.message  # type: ignore[attr-defined]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_json_lines_and_plain_text_know_the_same_faults(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes('{"text": "naïve"}\n'.encode(encoding))
    for rows in (jsonl_rows(path, path.name), text_rows(path, path.name, "line")):
        with pytest.raises(ManifestError, match="not UTF-8"):
            list(rows)


def test_a_utf_8_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_bytes(f"text\n{ROW[2:]}\n".encode("utf-8-sig"))
    assert [row.values["text"] for row in csv_of(path) if isinstance(row, Row)] == ["naïve café"]
