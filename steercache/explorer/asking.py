"""Values of a request's query string: checked, and bounded, before anything is looked up."""

import re
from typing import Final

from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request

from steercache.core.errors import UsageError

MAX_CHARS: Final = 200
_ID: Final = re.compile(r"[0-9a-f]{64}")


class IdConvertor(Convertor[str]):
    """A whole id of a run, a vector, a sweep or an SAE."""

    regex = "[0-9a-f]{64}"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


class NumberConvertor(Convertor[int]):
    """A whole number of at most nine digits."""

    regex = "[0-9]{1,9}"

    def convert(self, value: str) -> int:
        return int(value)

    def to_string(self, value: int) -> str:
        return str(value)


register_url_convertor("id", IdConvertor())
register_url_convertor("n", NumberConvertor())


def whole(request: Request, name: str, default: int, *, low: int = 0, high: int = 999_999_999) -> int:
    """A whole number. Raises UsageError."""
    text = request.query_params.get(name, "").strip()
    if not text:
        return default
    if not re.fullmatch(r"-?[0-9]{1,9}", text) or not low <= int(text) <= high:
        raise UsageError(f"{name} must be a whole number from {low} to {high}")
    return int(text)


def words(request: Request, name: str) -> str | None:
    """A text; None where it is empty or not given. Raises UsageError."""
    text = request.query_params.get(name, "").strip()
    if len(text) > MAX_CHARS or "\0" in text:
        raise UsageError(f"{name} has at most {MAX_CHARS} characters")
    return text or None


def one_of(request: Request, name: str, known: tuple[str, ...]) -> str:
    """One of some words, the first where none is given. Raises UsageError."""
    text = request.query_params.get(name, "") or known[0]
    if text not in known:
        raise UsageError(f"{name} must be one of: {', '.join(known)}")
    return text


def is_id(text: str) -> bool:
    """Whether a text is a whole id."""
    return _ID.fullmatch(text) is not None
