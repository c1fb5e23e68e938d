"""Content ids: the same meaning gives the same bytes gives the same id."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from steercache.core.errors import NotFoundError
from steercache.core.excerpts import excerpt

_SHOWN = 20  # names in a message
SHORT_ID = 12  # hex digits shown to people; 48 bits are enough for one cache


def canonical_json(value: Any) -> bytes:
    """Encode `value` as JSON with sorted keys and no spaces; NaN and non-string keys are refused.

    >>> canonical_json({"b": 1, "a": [1.5, None]})
    b'{"a":[1.5,null],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON of `value`, 64 hex digits."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def digest_bytes(*parts: bytes) -> str:
    """SHA-256 over length-prefixed parts, so that ("ab", "c") and ("a", "bc") differ."""
    h = hashlib.sha256()
    for part in parts:
        h.update(len(part).to_bytes(8, "little"))
        h.update(part)
    return h.hexdigest()


def resolve_name(
    wanted: str,
    candidates: Iterable[tuple[str, str]],
    *,
    noun: str,
    list_command: str,
    named_first: Iterable[str] | None = None,
) -> str:
    """Return the id that `wanted` names: a whole name, a whole id, or a unique prefix of an id.

    `candidates` are (id, name) pairs, newest first; of several with one name the newest wins. A message lists their names, or
    `named_first` where the others would drown those that people gave.

    Raises:
        NotFoundError: nothing answers to `wanted`, or a prefix is shared by several.
    """
    known = list(candidates)
    for id_, name in known:
        if wanted in (id_, name):
            return id_
    matches = sorted({id_ for id_, _ in known if wanted and id_.startswith(wanted)})
    if len(matches) == 1:
        return matches[0]
    if matches:
        shown = ", ".join(m[:SHORT_ID] for m in matches[:5])
        raise NotFoundError(
            f"the prefix {excerpt(wanted)} fits {len(matches)} {noun}s: {shown}", hint="give more digits"
        )
    names = sorted({name for name in named_first or [] if name} or {name for _, name in known if name})
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    has = f"there are: {', '.join(names[:_SHOWN])}{more}" if names else f"there is no {noun} yet"
    raise NotFoundError(f"no {noun} named {excerpt(wanted)}; {has}", hint=list_command)
