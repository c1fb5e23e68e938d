"""What a query's process and the process that asks it say to each other: one JSON object per line."""

import json
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

from steercache.core import errors
from steercache.core.errors import QueryError, SteercacheError

MAX_CHARS = 20_000  # of an error's text: the pipe takes it without a reader


def encode(message: Mapping[str, Any]) -> bytes:
    """One message as a line."""
    return json.dumps(message).encode() + b"\n"


def encode_bindings(bindings: Mapping[str, Any]) -> dict[str, Any]:
    """Values of parameters as JSON; dates are marked. The values are those that `check_values` lets pass.

    >>> decode_bindings(encode_bindings({"n": 3, "day": date(2026, 1, 2)}))
    {'n': 3, 'day': datetime.date(2026, 1, 2)}
    """
    return {name: _encode_value(value) for name, value in bindings.items()}


def decode_bindings(encoded: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `encode_bindings`; a tuple comes back as a list."""
    return {name: _decode_value(value) for name, value in encoded.items()}


def _encode_value(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_encode_value(one) for one in value]
    if isinstance(value, datetime):
        return {"datetime": value.isoformat()}
    return {"date": value.isoformat()} if isinstance(value, date) else value


def _decode_value(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode_value(one) for one in value]
    if isinstance(value, dict):
        ((kind, text),) = value.items()
        return datetime.fromisoformat(text) if kind == "datetime" else date.fromisoformat(text)
    return value


def encode_error(error: SteercacheError) -> dict[str, Any]:
    """An error by the name of its class in `core.errors`: subclasses elsewhere may take other arguments."""
    kind = next(c.__name__ for c in type(error).__mro__ if c.__module__ == errors.__name__)
    return {"kind": kind, **{name: _bounded(getattr(error, name)) for name in ("message", "place", "hint")}}


def decode_error(encoded: Mapping[str, Any]) -> SteercacheError:
    """The inverse of `encode_error`."""
    found = getattr(errors, str(encoded["kind"]), QueryError)
    kind: type[SteercacheError] = found if issubclass(found, SteercacheError) else QueryError
    return kind(str(encoded["message"]), place=encoded["place"], hint=encoded["hint"])


def _bounded(text: str | None) -> str | None:
    return text if text is None or len(text) <= MAX_CHARS else text[:MAX_CHARS] + " ..."
