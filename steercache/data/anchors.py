"""The place of a word in a sentence: one rule for every method, by characters and whole words.

A word is a run of letters, digits, marks and underscores; an apostrophe or a hyphen between two of them belongs to it, and so
does a point or a comma between two digits: `can` is not found in `can't`, nor `one` in `twenty-one`, nor `3` in `3.5`.
Characters of scripts written without spaces (Chinese, Japanese, Thai, ...) are words of their own. Upper and lower case,
composed and decomposed accents, and runs of white space are equal.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache

Span = tuple[int, int]

_JOINERS = frozenset("'-\u2019\u02bc\u2010\u2011")  # apostrophes and hyphens; dashes separate
_NUMBER_JOINERS = frozenset(".,")
_ZERO_WIDTH_JOINERS = frozenset("\u200c\u200d")  # they shape the letters of one word
_UNSPACED = ("CJK ", "HIRAGANA ", "KATAKANA ", "THAI ", "LAO ", "KHMER ", "MYANMAR ", "IDEOGRAPHIC ")


def find_anchors(text: str, anchor: str) -> tuple[Span, ...]:
    """Half-open character spans of every whole-word occurrence of `anchor`, left to right, without overlaps.

    >>> find_anchors("The cat, on its mat, once moved on.", "on")
    ((9, 11), (32, 34))
    >>> find_anchors("Next  to it", "next to")
    ((0, 8),)
    """
    spans: list[Span] = []
    for start, end in _occurrences(text, anchor):
        if (not spans or start >= spans[-1][1]) and not _joined(text, start) and not _joined(text, end):
            spans.append((start, end))
    return tuple(spans)


def words_around(text: str, anchor: str) -> tuple[str, ...]:
    """The words that hold `anchor` as a part: why it was not found.

    >>> words_around("Once in a while", "on")
    ('Once',)
    """
    found: dict[str, None] = {}
    seen = 0  # a word is looked at once, however often the anchor stands in it
    for start, end in _occurrences(text, anchor):
        if start < seen:
            continue
        while _joined(text, start):
            start -= 1
        while _joined(text, end):
            end += 1
        found[text[start:end]] = None
        seen = end
    return tuple(found)


def _occurrences(text: str, anchor: str) -> Iterator[Span]:
    """Every span whose folded characters equal the folded anchor's, overlapping ones and parts of words too."""
    wanted, _ = _folded(anchor.strip())
    folded, origin = _folded(text)
    at = folded.find(wanted) if wanted else -1
    while at >= 0:
        end = at + len(wanted)
        if _is_edge(origin, at) and _is_edge(origin, end):
            yield origin[at], origin[end]
        at = folded.find(wanted, at + 1)


def _is_edge(origin: Sequence[int], at: int) -> bool:
    """Whether folded position `at` lies between two characters of the text, not inside one that folds to several."""
    return at == 0 or origin[at] != origin[at - 1]


def _folded(text: str) -> tuple[str, Sequence[int]]:
    """Text with case, composition and white space evened out, and where each character of it (and its end) came from."""
    if text.isascii() and not any(c in text for c in "\t\n\r\v\f") and "  " not in text:
        return text.lower(), range(len(text) + 1)
    folded: list[str] = []
    origin: list[int] = []
    for i, character in enumerate(text):
        if character.isspace():
            if i and text[i - 1].isspace():
                continue
            folded.append(" ")
            origin.append(i)
            continue
        form = _fold(character)
        folded.append(form)
        origin.extend([i] * len(form))
    origin.append(len(text))
    return "".join(folded), origin


@lru_cache(maxsize=4096)
def _fold(character: str) -> str:
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", character).casefold())


def _joined(text: str, at: int) -> bool:
    """Whether the characters on both sides of position `at` belong to one word."""
    if not 0 < at < len(text):
        return False
    left, right = text[at - 1], text[at]
    if _is_mark(right) and _is_word(left):
        return True
    if _is_letter(left) and _is_letter(right):
        return True
    if _is_letter(right):
        return at > 1 and _joins(text[at - 2], left, right)
    return _is_letter(left) and at + 1 < len(text) and _joins(left, right, text[at + 1])


def _joins(left: str, middle: str, right: str) -> bool:
    if middle in _NUMBER_JOINERS:
        return left.isdigit() and right.isdigit()
    return middle in _JOINERS and _is_letter(left) and _is_letter(right)


def _is_letter(character: str) -> bool:
    """A character that makes a word together with its neighbours."""
    return _is_word(character) and not _is_unspaced(character)


@lru_cache(maxsize=4096)
def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_" or _is_mark(character)


@lru_cache(maxsize=4096)
def _is_mark(character: str) -> bool:
    return character in _ZERO_WIDTH_JOINERS or unicodedata.category(character).startswith("M")


@lru_cache(maxsize=4096)
def _is_unspaced(character: str) -> bool:
    return not character.isascii() and unicodedata.name(character, "").startswith(_UNSPACED)
