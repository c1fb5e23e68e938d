"""Tables and corpora that are lines of UTF-8: JSONL, CSV and plain text, one line in memory at a time."""

import codecs
import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from steercache.core.errors import Problem
from steercache.core.excerpts import excerpt
from steercache.data.rows import MAX_ROW_BYTES, Row, Rows, check_header, unreadable

LEGACY = "WINDOWS-1252"  # what one-byte encodings of western languages are called here
_BOM = b"\xef\xbb\xbf"
# The csv module refuses fields of more than 131,072 characters: the limit is the process's, so it is only ever raised.
csv.field_size_limit(max(csv.field_size_limit(), MAX_ROW_BYTES))


def _numbered_lines(path: Path, file: str) -> Iterator[tuple[int, bytes | Problem]]:
    """Lines with their numbers, ends taken off; a Problem for one that is too long, which is passed over unread."""
    try:
        with path.open("rb") as stream:
            number = 0
            while line := stream.readline(MAX_ROW_BYTES + 1):
                number += 1
                if len(line) <= MAX_ROW_BYTES:
                    yield number, (line.removeprefix(_BOM) if number == 1 else line)
                    continue
                while not line.endswith(b"\n") and (line := stream.readline(MAX_ROW_BYTES)):
                    pass
                yield number, _problem(file, number, "too_long", f"a line of more than {MAX_ROW_BYTES >> 20} MiB")
    except OSError as error:
        raise unreadable(file, f"{error.strerror}") from None


def _problem(file: str, line: int, kind: str, message: str) -> Problem:
    return Problem(loc="", kind=kind, message=message, file=file, line=line)


def _decoded(line: bytes, file: str, number: int) -> str | Problem:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        byte = f"byte {error.start} of the line is 0x{line[error.start]:02x}"
        return _problem(file, number, "encoding", f"not UTF-8: {byte}; save the file as UTF-8")


def _check_encoding(path: Path, file: str, *, header: bool = False) -> None:
    """Refuse a file that is in another encoding as a whole, once for the file and not for every line.

    Raises:
        ManifestError: it is UTF-16 or UTF-32, or its first line is a `header` and not UTF-8.
    """
    try:
        with path.open("rb") as stream:
            line = stream.readline(MAX_ROW_BYTES)
    except OSError as error:
        raise unreadable(file, f"{error.strerror}") from None
    found = _other_encoding(line)
    if found is not None and (header or found[0] != LEGACY):
        label, reason = found
        command = f"iconv -f {label} -t UTF-8 {Path(file).name} > {Path(file).stem}-utf8{Path(file).suffix}"
        raise unreadable(file, f"not UTF-8: {reason}", hint=f"save the file as UTF-8, such as by: {command}")


def _other_encoding(line: bytes) -> tuple[str, str] | None:
    """The likely encoding of a line that is not UTF-8 text, by the name that iconv has for it, and why; None for UTF-8."""
    for mark, label in (
        (codecs.BOM_UTF32_LE, "UTF-32"),
        (codecs.BOM_UTF16_LE, "UTF-16"),
        (codecs.BOM_UTF16_BE, "UTF-16"),
    ):
        if line.startswith(mark):
            return label, f"it begins with the byte-order mark of {label}"
    if line.count(0) > len(line) // 4:
        label = "UTF-16BE" if line.startswith(b"\0") else "UTF-16LE"
        return label, f"its first line holds NUL characters, as {label} does"
    try:
        line.decode()
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data" and not line.endswith(b"\n"):
            return None  # the line is longer than what was read of it
        byte = f"byte {error.start} of its first line is 0x{line[error.start]:02x}"
        return LEGACY, f"{byte}, as in Windows-1252 or Latin-1"
    return None


def jsonl_rows(path: Path, file: str) -> Rows:
    """One JSON object per line; blank lines are passed over. Raises ManifestError for a file in UTF-16 or UTF-32."""
    _check_encoding(path, file)
    for number, line in _numbered_lines(path, file):
        text = line if isinstance(line, Problem) else _decoded(line, file, number)
        if isinstance(text, Problem):
            yield text
        elif text.strip():
            yield _json_row(text, file, number)


def _json_row(text: str, file: str, number: int) -> Row | Problem:
    try:
        value = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)
    except RecursionError:
        return _problem(file, number, "json", "nested too deep")
    except ValueError as error:
        return _problem(file, number, "json", f"not JSON: {error}")
    if not isinstance(value, dict):
        return _problem(file, number, "json", "a row is a JSON object: {...}")
    return Row(file=file, line=number, values=value)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {excerpt(next(k for k in keys if keys.count(k) > 1))} stands twice")
    return result


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def csv_rows(path: Path, file: str, *, wanted: tuple[str, ...], delimiter: str = ",") -> Rows:
    """A header line and records; quoted fields may hold line breaks. A row's line is the one it begins on.

    Raises:
        ManifestError: the header lacks a wanted column or names one twice, or is in another encoding than UTF-8.
    """
    _check_encoding(path, file, header=True)
    bad_lines: list[Problem] = []
    reader = csv.reader(_csv_lines(path, file, bad_lines), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield _problem(file, line, "csv", f"not CSV: {error}")
            continue
        if bad_lines:
            yield from bad_lines
            bad_lines.clear()
            continue
        if cells is None:
            break
        if header is None:
            check_header(file, cells, wanted)
            header = cells
        elif cells:
            yield _csv_row(header, cells, file, line)
    if header is None:
        check_header(file, [], wanted)


def _csv_lines(path: Path, file: str, bad_lines: list[Problem]) -> Iterator[str]:
    """Lines for the CSV reader; one that is not UTF-8 is noted and leaves an empty line, so that numbers stay right."""
    for number, line in _numbered_lines(path, file):
        text = line if isinstance(line, Problem) else _decoded(line, file, number)
        if isinstance(text, Problem):
            bad_lines.append(text)
        yield "\n" if isinstance(text, Problem) else text


def _csv_row(header: list[str], cells: list[str], file: str, line: int) -> Row | Problem:
    if len(cells) != len(header):
        return _problem(file, line, "csv", f"{len(cells)} fields, but the header has {len(header)}")
    return Row(file=file, line=line, values=dict(zip(header, cells, strict=True)))


def text_rows(path: Path, file: str, unit: str) -> Rows:
    """Samples of a plain corpus in column `text`: non-blank lines, or the runs of them between blank ones.

    Raises:
        ManifestError: the file is in UTF-16 or UTF-32.
    """
    _check_encoding(path, file)
    block: list[str] = []
    size, first = 0, 1
    for number, line in _numbered_lines(path, file):
        text = line if isinstance(line, Problem) else _decoded(line, file, number)
        if isinstance(text, Problem):
            yield text
            continue
        text = text.rstrip("\r\n")
        if unit == "line" and text.strip():
            yield Row(file=file, line=number, values={"text": text})
        elif unit == "paragraph" and text.strip():
            first = number if not block else first
            block.append(text)
            size += len(text)
            if size > MAX_ROW_BYTES:
                yield _problem(file, first, "too_long", f"a paragraph of more than {MAX_ROW_BYTES >> 20} MiB")
                block, size = [], 0
        elif block:
            yield Row(file=file, line=first, values={"text": "\n".join(block)})
            block, size = [], 0
    if block:
        yield Row(file=file, line=first, values={"text": "\n".join(block)})
