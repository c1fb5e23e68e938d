"""`--combine`: several vectors at once, as typed: `counting@2 alpha=4; entity@3 operation=project_out target=text`."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from steercache.core.errors import UsageError
from steercache.core.trials import UNIT_WORDS

if TYPE_CHECKING:
    from steercache.api.evaluating import EvalOptions, Steering

T = TypeVar("T")
_KEYS: Final = ("alpha", "alpha_unit", "operation", "target", "place")
_FORM: Final = '--combine "counting@2 alpha=4; entity@3 operation=project_out"'


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenPart:
    """One part: a vector's name, its layer, and what stands behind them by key."""

    vector: str
    layer: int
    more: dict[str, str] = field(default_factory=dict)


def read_combination(text: str) -> tuple[WrittenPart, ...]:
    """The parts of a combination. Raises UsageError for a text that cannot be read."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=";")
    lexer.whitespace_split, lexer.commenters = True, ""
    parts: list[list[str]] = [[]]
    try:
        for word in lexer:
            if word.strip(";"):
                parts[-1].append(word)
            else:
                parts.append([])
    except ValueError as error:
        raise UsageError(f"cannot read the combination {text!r}: {error}", hint=_FORM) from None
    return tuple(_part(words, text) for words in parts if words) or _unreadable(text, "it has no parts")


def _part(words: Sequence[str], text: str) -> WrittenPart:
    name, at, layer = words[0].rpartition("@")
    if not at or not name or not layer.isdecimal():
        _unreadable(text, f"{words[0]!r} is not VECTOR@LAYER")
    more: dict[str, str] = {}
    for word in words[1:]:
        key, equals, value = word.partition("=")
        if key not in _KEYS or not equals or not value or key in more:
            _unreadable(text, f"{word!r} is none of {', '.join(f'{one}=' for one in _KEYS)}")
        more[key] = value
    return WrittenPart(vector=name, layer=int(layer), more=more)


def _unreadable(text: str, why: str) -> tuple[WrittenPart, ...]:
    raise UsageError(f"cannot read the combination {text!r}: {why}", hint=_FORM)


def combinations_of(
    written: Sequence[Sequence[WrittenPart]], options: "EvalOptions", root: Path
) -> "dict[str, list[Steering]]":
    """Combinations by name, with the vectors of the cache; what a part leaves out is what the other options say.

    Raises:
        NotFoundError: no such vector. UsageError: a part without a strength, unit or target where the options have several.
    """
    from steercache.api.cache import open_cache_at
    from steercache.api.evaluating import Steering, found_vectors

    found: dict[str, list[Steering]] = {}
    for parts in written:
        session, made = open_cache_at(root).session, []
        for one in parts:
            (vector,) = found_vectors(session, [one.vector])
            axes, more = options.axes, one.more
            unit = more.get("alpha_unit", axes.alpha_unit)
            if unit not in UNIT_WORDS:
                raise UsageError(f"no unit of strength named {unit!r}", hint=f"one of: {', '.join(UNIT_WORDS)}")
            made.append(
                Steering(
                    vector=vector,
                    layer=one.layer,
                    alpha=_number(more["alpha"]) if "alpha" in more else _only(axes.alphas, "alpha", one),
                    alpha_unit=unit,  # type: ignore[arg-type]
                    operation=more.get("operation", axes.operation),
                    target=more.get("target") or _only(axes.targets, "target", one),
                    place=more.get("place", axes.place),  # type: ignore[arg-type]
                )
            )
        name = " + ".join(one.label for one in made)
        found[name if name not in found else f"{name} ({len(found) + 1})"] = made
    return found


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"alpha={text} is no number", hint=_FORM) from None


def _only(values: Sequence[T], name: str, part: WrittenPart) -> T:
    if len(values) != 1:
        raise UsageError(f"{part.vector}@{part.layer} has no {name}, and there are several", hint=f"write {name}=...")
    return values[0]
