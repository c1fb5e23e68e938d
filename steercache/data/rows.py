"""Rows of tables before their columns have a meaning: where each stands, and what cannot be read as a row."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steercache.core.errors import ManifestError, NotFoundError, Problem
from steercache.core.excerpts import shortened

MAX_ROW_BYTES = 16 * 1024 * 1024  # a line longer than this is no row; it bounds memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of a table: `line` counts lines (JSONL, CSV, text) or rows (Parquet, hub) from 1."""

    file: str
    line: int
    values: Mapping[str, Any]

    @property
    def place(self) -> str:
        """For messages: `sentences.jsonl:12`."""
        return f"{self.file}:{self.line}"

    def problem(self, column: str, kind: str, message: str) -> Problem:
        """Something wrong with one cell of the row."""
        return Problem(loc=column, kind=kind, message=message, file=self.file, line=self.line)


Rows = Iterator[Row | Problem]  # a Problem stands where a row should be


def data_file(base_dir: Path, path: str) -> Path:
    """The data file that a manifest names, relative to the manifest's folder.

    Raises:
        NotFoundError: there is no such file.
    """
    full = base_dir / path
    if not full.is_file():
        raise NotFoundError(
            "there is no such data file", place=str(full), hint="paths are relative to the manifest's folder"
        )
    return full.absolute()  # pyarrow would take a relative `~x` for a home folder


def unreadable(file: str, message: str, *, hint: str | None = None) -> ManifestError:
    """A data file that cannot be read at all."""
    problem = Problem(loc="", kind="unreadable", message=message, file=file)
    return ManifestError("this data file cannot be read", problems=[problem], place=file, hint=hint)


def check_header(file: str, there: Sequence[str], wanted: tuple[str, ...]) -> None:
    """Refuse a table whose header lacks a wanted column or names it twice, once for the file and not for every row.

    Raises:
        ManifestError: naming every such column.
    """
    has = ", ".join(shortened(name, 40) for name in there[:20]) or "none"
    faults = {
        0: ("missing_column", f"there is no such column; there are: {has}"),
        2: ("column_twice", "the header names this column more than once: rename or drop the others"),
    }
    found = [(name, faults.get(min(there.count(name), 2))) for name in wanted]
    problems = [Problem(loc=name, kind=fault[0], message=fault[1], file=file) for name, fault in found if fault]
    if problems:
        raise ManifestError("this data set is not valid", problems=problems, place=file)
