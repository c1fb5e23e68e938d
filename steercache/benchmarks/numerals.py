"""Whole numbers in a sentence, in digits or in English words."""

import re
import unicodedata
from collections.abc import Iterator
from typing import Final

_UNITS: Final = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS: Final = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SCALES: Final = {"thousand": 10**3, "million": 10**6, "billion": 10**9}
_OPEN: Final = (100, *_SCALES.values())  # after which any smaller number may follow
_SMALL: Final = {word: n for n, word in enumerate(_UNITS)} | {word: 10 * n for n, word in enumerate(_TENS, start=2)}

# A number in digits stands by itself: not a part of a word ("2D", "3rd"), of a fraction, or of 3.5; 3.0 is 3, 1,000 is one
# number. Where the digits are followed by a unit of punctuation only ("4.", "4)"), they count.
_DIGITS: Final = re.compile(
    r"(?<![\w.,/])(?P<sign>[-−–])?(?P<whole>\d{1,3}(?:,\d{3})+|\d+)(?P<rest>\.\d+)?(?![\w/]|[.,]\d)", re.ASCII
)
_WORD: Final = re.compile(r"[a-z]+")
_GAP: Final = re.compile(r"[\s-]+")


def tidy(text: str) -> str:
    """Lower case, one kind of digit, letter and quote, no markdown, single spaces."""
    plain = unicodedata.normalize("NFKC", text.replace("½", " 1/2 ")).casefold()
    plain = plain.replace("⁄", "/").replace("’", "'").replace("‘", "'").replace("“", '"').replace("”", '"')
    return " ".join(re.sub(r"[*_`#]+", " ", plain).split())


def first_integer(text: str) -> int | None:
    """The first whole number of a sentence, in digits or words; None if there is none.

    >>> first_integer("There are twenty-one balls, not 7."), first_integer("none")
    (21, None)
    """
    return next(iter(integers(text)), None)


def integers(text: str) -> tuple[int, ...]:
    """Every whole number of a sentence, in digits or words, in its order.

    >>> integers("2 thousand or two thousand and five")
    (2000, 2005)
    """
    plain = tidy(text)
    return tuple(value for _, value in sorted([*_in_digits(plain), *_in_words(plain)]))


def _in_digits(text: str) -> Iterator[tuple[int, int]]:
    """Position and value of numbers in digits."""
    for match in _DIGITS.finditer(text):
        if match["rest"] and match["rest"].strip(".0"):
            continue
        value = int(match["whole"].replace(",", ""))
        gap = _GAP.match(text, match.end())
        scale = _WORD.match(text, gap.end()) if gap else None
        value *= _SCALES.get(scale[0], 1) if scale else 1
        yield match.start(), -value if match["sign"] and _is_sign(text, match.start()) else value


def _is_sign(text: str, at: int) -> bool:
    """A dash before a number is a minus only where no list or range could be meant ("- 3" and "1-3" are not -3)."""
    return at == 0 or text[at - 1] in " (=:"


def _in_words(text: str) -> Iterator[tuple[int, int]]:
    """Position and value of numbers in words."""
    end = 0
    for match in _WORD.finditer(text):
        if match.start() >= end and match[0] in _SMALL and _stands_alone(text, match):
            value, end = _value(text, match)
            yield match.start(), value


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
