"""Whole numbers in a text, in digits or English words, with their places."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_UNITS: Final = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS: Final = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SCALES: Final = {"dozen": 12, "thousand": 10**3, "million": 10**6, "billion": 10**9}
_OPEN: Final = (100, 10**3, 10**6, 10**9)  # after which any smaller number may follow
_SMALL: Final = {word: n for n, word in enumerate(_UNITS)} | {word: 10 * n for n, word in enumerate(_TENS, start=2)}
_MAX_DIGITS: Final = 18  # longer ones are no count of anything

# A number in digits stands by itself: not a part of a word ("2D", "3rd"), of a fraction, a time, a power, a percentage, a
# price, or of 3.5; 3.0 is 3 and 1,000 is one number. Where only punctuation follows ("4.", "4)"), the digits count.
_DIGITS: Final = re.compile(
    r"(?<![\w.,/^$])(?<!\d:)(?P<sign>[-−–])?(?P<whole>\d{1,3}(?:,\d{3})+|\d+)(?P<rest>\.\d+)?"
    r"(?![\w/^%]|[.,:]\d|\s%|-[a-z]|\+(?!\s*\d))",
    re.ASCII,
)
_WORD: Final = re.compile(r"[a-z]+")
_COMPOUND: Final = re.compile(r"-[a-z]")  # "three-dimensional"
_GAP: Final = re.compile(r"[\s-]+")
_GROUPS: Final = re.compile(
    r"\b(?:(?P<half>half a dozen)|(?P<dozen>a dozen)|a (?P<pair>pair)|a (?P<single>single)|(?P<hundred>a hundred))\b"
)
_GROUP_SIZES: Final = {"half": 6, "dozen": 12, "pair": 2, "single": 1, "hundred": 100}
_HAN_DIGITS: Final = {
    han: n for n, pair in enumerate(("〇零", "一", "二两", "三", "四", "五", "六", "七", "八", "九")) for han in pair
}
_HAN: Final = re.compile(
    r"(?<![\u4e00-\u9fff])([〇零一二两三四五六七八九十]{1,3})(?=[个只条隻個本頭匹辆]|[^\u4e00-\u9fff]|$)"
)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Numeral:
    """A whole number and its place in the text."""

    start: int
    end: int
    value: int


def numerals(text: str) -> tuple[Numeral, ...]:
    """Every whole number of a text, in its order.

    >>> [n.value for n in numerals("2 thousand, two thousand and five, or a dozen")]
    [2000, 2005, 12]
    """
    plain = text.lower()
    return tuple(sorted([*_in_digits(plain), *_in_words(plain), *_in_groups(plain), *_in_han(plain)]))


def _in_digits(text: str) -> Iterator[Numeral]:
    for match in _DIGITS.finditer(text):
        if len(match["whole"]) > _MAX_DIGITS or (match["rest"] and match["rest"].strip(".0")):
            continue
        value, end = int(match["whole"].replace(",", "")), match.end()
        gap = _GAP.match(text, end)
        scale = _WORD.match(text, gap.end()) if gap else None
        if scale and scale[0] in _SCALES:
            value, end = value * _SCALES[scale[0]], scale.end()
        negative = _after_minus(text, match.start()) or (match["sign"] and _is_sign(text, match.start()))
        yield Numeral(start=match.start(), end=end, value=-value if negative else value)


def _is_sign(text: str, at: int) -> bool:
    """A dash before a number is a minus only where no list or range could be meant ("- 3" and "1-3" are not -3)."""
    return at == 0 or (text[at - 1] in " (=:" and not text[:at].rstrip(" (=:")[-1:].isdigit())


def _after_minus(text: str, at: int) -> bool:
    return text[:at].endswith("minus ")


def _in_words(text: str) -> Iterator[Numeral]:
    end = 0
    for match in _WORD.finditer(text):
        if match.start() >= end and match[0] in _SMALL and _stands_alone(text, match):
            value, end = _value(text, match)
            if _COMPOUND.match(text, end):
                continue
            negative = _after_minus(text, match.start())
            yield Numeral(start=match.start(), end=end, value=-value if negative else value)


def _in_groups(text: str) -> Iterator[Numeral]:
    for match in _GROUPS.finditer(text):
        name = str(match.lastgroup)
        if name != "dozen" or not text[: match.start()].endswith("half "):
            yield Numeral(start=match.start(), end=match.end(), value=_GROUP_SIZES[name])


def _in_han(text: str) -> Iterator[Numeral]:
    for match in _HAN.finditer(text):
        tens, ten, units = match[1].rpartition("十")
        if len(tens) > 1 or len(units) > 1:
            continue
        value = (10 * (_HAN_DIGITS[tens] if tens else 1) if ten else 0) + (_HAN_DIGITS[units] if units else 0)
        yield Numeral(start=match.start(), end=match.end(), value=value)


def _stands_alone(text: str, match: re.Match[str]) -> bool:
    before = text[match.start() - 1] if match.start() else " "
    after = text[match.end()] if match.end() < len(text) else " "
    return not before.isdigit() and not after.isdigit() and before != "'" and after != "'"


def _value(text: str, first: re.Match[str]) -> tuple[int, int]:
    """Value and end of a number in words that begins with `first`: "twenty-one", "two hundred and five", "two thousand"."""
    above, total, last, at = 0, _SMALL[first[0]], _SMALL[first[0]], first.end()  # `above`: what its thousands make
    while gap := _GAP.match(text, at):
        word = _WORD.match(text, gap.end())
        if word is not None and word[0] == "and" and above + total >= 100 and last in _OPEN:
            at = word.end()
            continue
        if word is None:
            break
        if word[0] == "hundred" and 0 < total < 100:
            total, last = total * 100, 100
        elif word[0] in _SCALES and total > 0 and (not above or above % (1000 * _SCALES[word[0]]) == 0):
            above, total, last = above + total * _SCALES[word[0]], 0, _SCALES[word[0]]
        elif word[0] in _SMALL and _may_follow(_SMALL[word[0]], last):
            total, last = total + _SMALL[word[0]], _SMALL[word[0]]
        else:
            break
        at = word.end()
    return above + total, at


def _may_follow(word: int, last: int) -> bool:
    """Whether a number word goes on from the one before: any after "hundred" or "thousand", a unit after "twenty"."""
    return last in _OPEN or (last in range(20, 100, 10) and 0 < word < 10)
