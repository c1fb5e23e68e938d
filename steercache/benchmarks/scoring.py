"""A model's words read as an answer: a letter, a count or a word.

Multiple choice takes a letter in or out of parentheses, in either case, or a choice's own text; counts take the first
integer, in digits or words. What can be read as two answers, or as none, is parsed as None and is not right; it is never
guessed. A sample that failed has no words (`raw` None) and is neither right nor wrong.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from steercache.benchmarks.numerals import first_integer, integers, tidy
from steercache.core.errors import UsageError

_LEAD: Final = re.compile(
    r"^(?:(?:so|thus|therefore|ok|okay|sure|well|assistant)\b[\s,:.!]*)*"
    r"(?:(?:the |my |final |correct |right |best )*(?:answer|option|choice|caption)(?: is|'s)?\b[\s:=\-]*|it(?: is|'s)\s+)*"
)
_LETTER_FIRST: Final = re.compile(r"^[\[({<\"']?\s*([a-z])\s*[\])}>\"']?(?P<end>$|[\s.,:;)\]!?\-])")
_IN_BRACKETS: Final = re.compile(r"[(\[]\s*([a-z])\s*[)\]]")
_AFTER_WORD: Final = re.compile(
    r"\b(?:answer|option|choice|letter)(?: is|'s)?[\s:]*[\"']?([b-z]|a(?=$|[\s.,\"')]*$))(?![\w'])"
)
# Letters that are named side by side: "b or c", "(a), b", "a-b".
_PAIR: Final = re.compile(
    r"(?<![\w'])([a-z])\s*[)\]]?\s*(?:[,/&\-]|\bor\b|\band\b|, or\b)\s*[(\[]?\s*([b-z]|a(?=[\s.,\"')\]]*$))(?![\w'])"
)
_DENIED: Final = re.compile(
    r"(?:\b(?:not|neither|nor|never)|n't)\s+(?:the\s+)?(?:(?:answer|option|choice|letter)\s+)?"
    r"[(\[\"']?\s*([b-z]|a(?=[\s.,\"']*$|\s*[)\]]))(?![\w'])"
)
_JOINED: Final = r"[\s,/&\-]*(?:\b(?:or|and|maybe|perhaps)\b[\s,]*)*"  # between two answers, with nothing else said
_NEGATION: Final = re.compile(r"\b(?:not|no|neither|nor|never|none|cannot)\b|n't\b")
_EDGES: Final = " \t.,:;!?\"'()[]{}<>-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """`parsed`: the letter (upper case), the number or the word read from the answer; `correct` is None if nothing ran."""

    parsed: str | None
    correct: bool | None


Parse = Callable[[str, Sequence[str]], str | None]


def parse_choice(raw: str, choices: Sequence[str]) -> str | None:
    """The letter an answer means, upper case; None if it means none of the choices or more than one."""
    text = tidy(raw)
    letters = "abcdefghijklmnopqrstuvwxyz"[: len(choices)]
    texts = [_bare(tidy(choice)) for choice in choices]
    bracketed = {letter for letter in _IN_BRACKETS.findall(text) if letter in letters}
    if len(bracketed) > 1:
        return None
    candidates = dict.fromkeys((text, _LEAD.sub("", text)))
    if any(_says_two(candidate, letters, texts) for candidate in candidates):
        return None
    for candidate in candidates:
        if (found := _exact(candidate, letters, texts)) is not None:
            return found.upper()
    named = bracketed or set(_AFTER_WORD.findall(text)) or set(_IN_BRACKETS.findall(text))
    if named:
        if not named.isdisjoint(_DENIED.findall(text)):
            return None
        return named.pop().upper() if len(named) == 1 and named <= set(letters) else None
    return _by_text(text, letters, texts)


def _says_two(text: str, letters: str, texts: Sequence[str]) -> bool:
    """Whether a short answer names two choices: "A, B", "1 or 2", or a letter with another choice's text ("A 2")."""
    words = [word for word in re.findall(r"\w+", text) if word not in ("or", "and")]
    first = _LETTER_FIRST.match(text)
    if first and first[1] in letters:
        own, following = texts[letters.index(first[1])], _bare(text[first.end() :])
        if following == own:
            return False  # a letter and its text, be the text a letter or a number too
        if following in texts and following:
            return True
    if len(set(words)) > 1 and all(len(word) == 1 and word in letters for word in words):
        return True
    if all(choice.isdigit() for choice in texts) and len(_bare(text).split()) <= 3 and len(set(integers(text))) > 1:
        return True
    return any(one != other and one in letters and other in letters for one, other in _PAIR.findall(text))


def _exact(text: str, letters: str, texts: Sequence[str]) -> str | None:
    """A letter at the beginning, or the whole answer being a choice's text (or number)."""
    bare = _bare(text)
    if len(bare) == 1 and bare in letters:
        return bare
    same = [letter for letter, choice in zip(letters, texts, strict=True) if bare and choice == bare]
    if len(same) == 1:
        return same[0]
    match = _LETTER_FIRST.match(text)
    if match and match[1] in letters and not _is_article(text, match, texts):
        return match[1]
    number = first_integer(bare) if bare and len(bare.split()) <= 3 and not (match and match[1] in letters) else None
    if number is not None:
        equal = [letter for letter, choice in zip(letters, texts, strict=True) if first_integer(choice) == number]
        if len(equal) == 1 and all(c.isdigit() for c in texts):
            return equal[0]
    return None


def _is_article(text: str, match: re.Match[str], texts: Sequence[str]) -> bool:
    """Whether "a" or "i" begins a sentence instead of naming a choice: it is bare and a word that is not choice A follows."""
    if match[1] not in "ai" or match["end"] != " " or text[0] != match[1]:
        return False
    following = _bare(text[match.end() :])
    idx = "abcdefghi".index(match[1])
    own = texts[idx] if idx < len(texts) else ""
    return bool(following) and following != own and following[:1].isalnum()


def _by_text(text: str, letters: str, texts: Sequence[str]) -> str | None:
    """The one choice whose text stands in the sentence as whole words; a denied sentence says nothing."""
    if _NEGATION.search(text) and not any(_NEGATION.search(t) for t in texts):
        return None
    spans: dict[str, tuple[int, int]] = {}
    for letter, choice in zip(letters, texts, strict=True):
        match = re.search(rf"(?<!\w){re.escape(choice)}(?!\w)", text) if choice else None
        if match:
            spans[letter] = match.span()
    # "left" inside "left of the door" is not another answer: a text inside a longer choice's text gives way
    found = [
        letter
        for letter, span in spans.items()
        if not any(o != span and o[0] <= span[0] and span[1] <= o[1] for o in spans.values())
    ]
    return found[0].upper() if len(found) == 1 else None


def parse_count(raw: str, choices: Sequence[str] = ()) -> str | None:
    """The first integer of the answer, as digits."""
    number = first_integer(raw)
    return None if number is None else str(number)


def parse_text(raw: str, choices: Sequence[str] = ()) -> str | None:
    """The answer's own words without frame and punctuation; of a closed vocabulary, the one word that it
    begins with or holds, unless another stands beside it or it is denied."""
    text = _bare(_LEAD.sub("", tidy(raw)))
    if not choices:
        return re.sub(r"^(?:a|an|the) ", "", text) or None
    known = [tidy(choice) for choice in choices]
    if text in known:
        return text
    begins = [word for word in known if re.match(rf"{re.escape(word)}(?!\w)", text)]
    if len(begins) == 1:
        rest = text[len(begins[0]) :]
        also = [word for word in known if word != begins[0] and re.match(rf"{_JOINED}{re.escape(word)}(?!\w)", rest)]
        return None if also else begins[0]
    if _NEGATION.search(text) and not any(_NEGATION.search(word) for word in known):
        return None
    inside = [word for word in known if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text)]
    return inside[0] if len(inside) == 1 else None


def _bare(text: str) -> str:
    return text.strip(_EDGES)


PARSERS: Final[Mapping[str, Parse]] = MappingProxyType(
    {"choice": parse_choice, "count": parse_count, "text": parse_text}
)


def score_answer(raw: str | None, *, kind: str, answer: str, choices: Sequence[str] = ()) -> Score:
    """Read `raw` as an answer of `kind` ("choice", "count", "text") and hold it against the right one.

    Raises:
        UsageError: an unknown kind, or a right answer that cannot itself be read (the set is wrong, not the model).
    """
    if kind not in PARSERS:
        raise UsageError(f"unknown kind of answer {kind!r}", hint=f"one of: {', '.join(PARSERS)}")
    right = PARSERS[kind](answer, choices)
    if right is None:
        raise UsageError(f"the right answer {answer!r} is no answer of kind {kind!r} to choices {list(choices)}")
    if raw is None:
        return Score(parsed=None, correct=None)
    parsed = PARSERS[kind](raw, choices)
    return Score(parsed=parsed, correct=parsed == right)
