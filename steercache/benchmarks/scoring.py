"""A model's output read as an answer: a letter, a count or a word.

An answer is read only where it commits itself to one option: by its letter, by its text, or by both in agreement. What can be
read as two answers or as none is parsed as None (unread), is not right, and is never guessed. The judged forms are in
`tests/benchmarks/judged_answers.jsonl`. A sample that failed has no output (`raw` None) and is neither right nor wrong.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from steercache.benchmarks.answer_text import answer_texts
from steercache.benchmarks.commitment import committed
from steercache.benchmarks.counts import read_count
from steercache.benchmarks.options import AnswerOptions, bare, exact_option, mentions_of
from steercache.core.errors import UsageError
from steercache.core.excerpts import excerpt

_FRAME: Final = re.compile(
    r"^(?:(?:so|thus|therefore|ok|okay|sure|well|assistant)\b[\s,:.!]*)*(?:(?:it|this|that)(?: is|'s)\s+)?(?:(?:a|an|the)\s+)?",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredAnswer:
    """`parsed`: the letter (upper case), the number or the word read from the answer; `correct` is None if nothing ran."""

    parsed: str | None
    correct: bool | None


Parse = Callable[[str, Sequence[str]], str | None]


def parse_choice(raw: str, choices: Sequence[str]) -> str | None:
    """The letter an answer means, upper case; None if it means none of the choices or more than one."""
    options = AnswerOptions.of_choices(choices)
    idx = _agreed(raw, lambda text: _option(text, options))
    return None if idx is None else options.letters[int(idx)].upper()


def parse_count(raw: str, choices: Sequence[str] = ()) -> str | None:
    """The count that the answer states, as digits."""
    return _agreed(raw, lambda text: None if (n := read_count(text)) is None else str(n))


def parse_text(raw: str, choices: Sequence[str] = ()) -> str | None:
    """The answer's own words, lower case, without frame and punctuation; of a closed vocabulary (`choices`), the one word that
    the answer commits itself to."""
    if not choices:
        return _agreed(raw, _own_words)
    options = AnswerOptions.of_words(choices)
    idx = _agreed(raw, lambda text: _option(text, options))
    return None if idx is None else options.texts[int(idx)]


def _agreed(raw: str, read: Callable[[str], str | None]) -> str | None:
    """The one reading of all texts in which an answer stands; None where they differ or one of them is unread."""
    found = {read(text) for text in answer_texts(raw)}
    return found.pop() if len(found) == 1 else None


def _option(text: str, options: AnswerOptions) -> str | None:
    exact = exact_option(text, options)
    if exact is not None:
        return exact if exact else None
    letters, texts = mentions_of(text, options)
    mentions = letters or texts
    if not letters and options.integers:
        count = read_count(text)
        equal = [i for i, n in enumerate(options.integers) if n == count]
        return str(equal[0]) if len(equal) == 1 else None
    return committed(text, mentions, no_corrects="no" not in options.texts)


def _own_words(text: str) -> str | None:
    plain = " ".join(_FRAME.sub("", bare(text)).split()).casefold()
    return bare(plain) or None


PARSERS: Final[Mapping[str, Parse]] = MappingProxyType(
    {"choice": parse_choice, "count": parse_count, "text": parse_text}
)


@lru_cache(maxsize=50_000)  # a grid asks the same questions in every cell, and most cells answer alike
def _read(kind: str, raw: str, choices: tuple[str, ...]) -> str | None:
    return PARSERS[kind](raw, choices)


def score_answer(raw: str | None, *, kind: str, answer: str, choices: Sequence[str] = ()) -> ScoredAnswer:
    """Read `raw` as an answer of `kind` ("choice", "count", "text") and compare it with the right one.

    Raises:
        UsageError: an unknown kind, or a right answer that cannot itself be read (the set is wrong, not the model).
    """
    if kind not in PARSERS:
        raise UsageError(f"unknown kind of answer {kind!r}", hint=f"one of: {', '.join(PARSERS)}")
    right = _read(kind, answer, tuple(choices))
    if right is None:
        raise UsageError(
            f"the right answer {excerpt(answer)} is no answer of kind {kind!r} to choices {excerpt(list(choices))}"
        )
    if raw is None:
        return ScoredAnswer(parsed=None, correct=None)
    parsed = _read(kind, raw, tuple(choices))
    return ScoredAnswer(parsed=parsed, correct=parsed == right)
