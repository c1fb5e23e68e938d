"""A count read from a text: one number that the text commits itself to.

Numbers that name something ("image 1"), bounds ("at least 3"), parts ("3 of the 5 dogs") and the pronoun "one" are no counts;
"no dogs" and "none" are 0. Measures of a thing ("5 years old", "3 feet tall", "20 kg") and shares ("50% of 4") are no counts
either; a unit by itself ("5 hours") may be what is counted. Two numbers are unread unless the text denies one of them, corrects
itself, or draws the sum.
"""

import re
from itertools import pairwise
from typing import Final

from steercache.benchmarks.commitment import Mention, committed
from steercache.benchmarks.numerals import Numeral, numerals

_NAMES: Final = re.compile(
    r"\b(?:image|picture|photo|photograph|figure|fig|frame|panel|option|choice|question|step|example|page|table|scene|view|part)"
    r"\b\.?\s*#?\s*\d+\b(?!\s+(?:things|objects|items)\b)",
    re.IGNORECASE,
)
_PRONOUN: Final = re.compile(
    r"\b(?:one by one|one another|(?:the|this|that|each|which|every|any|another|correct|right|left|other)\s+one)\b",
    re.IGNORECASE,
)
_NOT_NONE: Final = (
    *(
        "more",
        "fewer",
        "less",
        "idea",
        "way",
        "doubt",
        "answer",
        "information",
        "number",
        "clue",
        "question",
        "problem",
    ),
    *("matter", "longer", "wait", "not", "image", "picture", "there", "it", "need"),
)
_NONE: Final = re.compile(
    r"\b(?:none\b(?! of (?:the above|these|those))|no one\b|nobody\b|no (?!(?:"
    + "|".join(_NOT_NONE)
    + r")\b)(?=[a-z])\w+)"
    r"|(?:\bnot|n't|\bcannot)\s+(?:\w+\s+){0,4}any\b",
    re.IGNORECASE,
)
_BOUND_BEFORE: Final = re.compile(
    r"\b(?:at least|at most|(?:more|less|fewer|greater) than|over|under|up to|above|below|minimum of|maximum of)\s*$",
    re.IGNORECASE,
)
_BOUND_AFTER: Final = re.compile(r"\s*(?:\+(?!\s*\d)|or (?:more|less|fewer)\b)", re.IGNORECASE)
_PART: Final = re.compile(r"\s+(?:\w+\s+)?(?:out\s+)?of\s+(?:the|these|those|a total|\d|\w+\s+\w+s\b)", re.IGNORECASE)
_UNIT: Final = (
    r"(?:years?|yrs?|months?|weeks?|days?|hours?|minutes?|seconds?|decades?|centuries|century|"
    r"feet|foot|ft|inch(?:es)?|yards?|miles?|(?:centi|milli|kilo)?met(?:er|re)s?|m|stories|storeys|floors|pounds|degrees)"
)
_MEASURE_AFTER: Final = re.compile(
    r"[\s-]*(?:°|º|(?:cm|mm|km|kg|lbs?|mph|px|percent|per cent|o'clock|[ap]m\b|[ap]\.m)(?![a-z])|"
    + _UNIT
    + r"[\s-]+(?:old|older|younger|of age|ago|later|earlier|tall|taller|long|longer|wide|wider|high|higher|deep|thick|away"
    r"|apart|in (?:age|height|length|width|diameter|size|depth))\b)",
    re.IGNORECASE,
)
_SHARE_BEFORE: Final = re.compile(
    r"(?:\d\s*%|\d\s*/\s*\d|[½¼¾⅓⅔]|\b(?:percent|per cent|half|thirds?|quarters?)) of (?:(?:the|these|those|all) )?$"
    r"|\bage(?:d|s)?(?: of| is|:)? $",
    re.IGNORECASE,
)
_SUM: Final = re.compile(
    r"(?:=|≈|\b(?:makes?|making|equals?|totals?|totall?ing|sum|(?:a|the) total of)\b)[\s:]*(?:is|of|to)?\s*",
    re.IGNORECASE,
)
_IN_TOTAL: Final = re.compile(r"\s*(?:\w+\s+){0,2}(?:in total|altogether|in all|overall|total)\b", re.IGNORECASE)
_AND: Final = re.compile(r"[^.;!?\n]*\band\b[^.;!?\n]*", re.IGNORECASE)
_ASIDE: Final = re.compile(r"\([^()]*\)")


def read_count(text: str) -> int | None:
    """The count that a text states; None where it states none, or more than one.

    >>> read_count("In image 1 there are 4 dogs"), read_count("One of the 5 dogs"), read_count("There are no dogs.")
    (4, None, 0)
    """
    text = _NAMES.sub(_blank, text)
    outside = _ASIDE.sub(_blank, text)
    if numerals(outside) and numerals(outside) != numerals(text):
        text = outside
    text = _PRONOUN.sub(_blank, text)
    none = [Mention(start=m.start(), end=m.end(), value="0") for m in _NONE.finditer(text)]
    counted = [n for n in numerals(text) if not _is_measure(text, n)]
    found = [n for n in counted if not any(m.start <= n.start < m.end for m in none)]
    total = _total(text, found)
    if total is not None:
        return total
    if any(_is_part(text, n) for n in found) or _added(text, found):
        return None
    mentions = [_mention(n) for n in found]
    bounds = [n for n in found if _BOUND_BEFORE.search(text, 0, n.start) or _BOUND_AFTER.match(text, n.end)]
    if bounds:
        return None
    value = committed(_without_any(text, none), sorted([*mentions, *none], key=lambda m: m.start))
    return None if value is None else int(value)


def _total(text: str, found: list[Numeral]) -> int | None:
    """The number that the text names as the sum of others."""
    if len({n.value for n in found}) < 2:
        return None
    sums = list(_SUM.finditer(text))
    named = {n.value for n in found if any(m.end() == n.start for m in sums[-1:])}
    named |= {n.value for n in found if _IN_TOTAL.match(text, n.end)}
    return named.pop() if len(named) == 1 else None


def _is_measure(text: str, number: Numeral) -> bool:
    return bool(_MEASURE_AFTER.match(text, number.end) or _SHARE_BEFORE.search(text, 0, number.start))


def _is_part(text: str, number: Numeral) -> bool:
    return bool(_PART.match(text, number.end)) and not re.match(r"\s+of them\b", text[number.end :], re.IGNORECASE)


def _added(text: str, found: list[Numeral]) -> bool:
    """Whether the text counts two groups with one number each, as in "one on the left and one on the right"."""
    return any(a.value == b.value and _AND.fullmatch(text[a.end : b.start]) for a, b in pairwise(found))


def _mention(number: Numeral) -> Mention:
    return Mention(start=number.start, end=number.end, value=str(number.value))


def _without_any(text: str, none: list[Mention]) -> str:
    """The text with its zeros blanked: "not ... any" must not deny itself."""
    for mention in none:
        text = text[: mention.start] + "0" * (mention.end - mention.start) + text[mention.end :]
    return text


def _blank(match: re.Match[str]) -> str:
    return " " * len(match[0])
