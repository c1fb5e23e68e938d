"""One cell of a row as the type that its column must have, or the reason why it cannot be."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from steercache.core.errors import Problem
from steercache.core.excerpts import excerpt
from steercache.data.rows import Row

_ABSENT = object()


@dataclass(slots=True)
class Cells:
    """Reads the cells of one row and gathers what is wrong with them."""

    row: Row
    problems: list[Problem] = field(default_factory=list)

    def problem(self, column: str, kind: str, message: str) -> None:
        """Note what is wrong with the cell of `column`."""
        self.problems.append(self.row.problem(column, kind, message))

    def text(self, column: str | None) -> str:
        """Text that must be there and not be blank; "" when it is not, which is noted."""
        value = self._value(column)
        if not isinstance(value, str):
            if value is not _ABSENT:
                self.problem(str(column), "not_text", f"must be text, not {_name(value)}")
        elif not value.strip():
            self.problem(str(column), "empty", "is empty")
        elif _is_broken(value):
            self.problem(str(column), "encoding", "holds half a surrogate pair, which is no character")
        else:
            return value
        return ""

    def label(self, column: str | None, *, numbers: bool = False) -> str | None:
        """Text that may be null or empty, which is None; whole numbers are taken too where `numbers`."""
        value = self._value(column)
        if value is None or value is _ABSENT or value == "":
            return None
        if numbers and isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str):
            self.problem(str(column), "not_text", f"must be text{' or a whole number' * numbers}, not {_name(value)}")
            return None
        if _is_broken(value):
            self.problem(str(column), "encoding", "holds half a surrogate pair, which is no character")
            return None
        return value

    def texts(self, column: str | None) -> tuple[str, ...]:
        """A list of texts; as text (CSV) it is a JSON list."""
        value = self._value(column)
        if value is None or value is _ABSENT or value == "":
            return ()
        if isinstance(value, str):
            value = _json_list(value)
        if not isinstance(value, list) or not all(isinstance(item, str) and not _is_broken(item) for item in value):
            self.problem(str(column), "not_list", "must be a list of texts (in CSV: a JSON list)")
            return ()
        return tuple(value)

    def polarity(self, column: str | None) -> int | None:
        """+1 or -1; None where it is null."""
        value = self._value(column)
        if value is None or value is _ABSENT or value == "":
            return None
        sign = {"1": 1, "+1": 1, "-1": -1}.get(str(value)) if not isinstance(value, bool) else None
        if sign is None:
            self.problem(str(column), "polarity", f"must be +1 or -1, not {excerpt(value)}")
        return sign

    def meta(self, columns: tuple[str, ...]) -> Mapping[str, Any]:
        """Cells that are kept as they are; each must be JSON."""
        kept: dict[str, Any] = {}
        for column in columns:
            value = self._value(column)
            if value is _ABSENT:
                continue
            try:
                json.dumps(value, allow_nan=False, ensure_ascii=False).encode()  # half a surrogate pair is a ValueError
            except (TypeError, ValueError, RecursionError):
                self.problem(column, "not_json", f"cannot be kept: {_name(value)} is not JSON")
            else:
                kept[column] = value
        return kept

    def raw(self, column: str) -> Any:
        """The value of the cell; None when the column is missing, which is noted as a problem."""
        value = self._value(column)
        return None if value is _ABSENT else value

    def _value(self, column: str | None) -> Any:
        if column is None:
            return _ABSENT
        if column not in self.row.values:
            has = ", ".join(sorted(self.row.values)[:20]) or "nothing"
            self.problem(column, "missing_column", f"is missing from the row, which has: {has[:200]}")
            return _ABSENT
        return self.row.values[column]


def _json_list(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _is_broken(text: str) -> bool:
    return any("\ud800" <= c <= "\udfff" for c in text) if not text.isascii() else False


def _name(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__
