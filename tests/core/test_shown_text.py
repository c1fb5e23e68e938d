"""Text on a page: every character of Unicode that has no shape of its own is named, every other one stays as it is."""

import html
import sys
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from steercache.core.shown_text import escaped, visible

BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def test_what_turns_the_direction_of_writing_is_named() -> None:
    classes = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}
    turning = [c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.bidirectional(c) in classes]
    assert set(turning) | set("\u061c\u200e\u200f") == set(BIDI)
    for character in BIDI:
        assert visible(f"a{character}b") == f"a[U+{ord(character):04X}]b"


def test_letters_of_every_script_and_joined_signs_stay() -> None:
    for text in ("naïve", "שלום", "مرحبا", "می‌خواهم", "क्‍ष", "👩‍💻", "e\u0301", "two\nlines\tand a tab", "猫"):
        assert visible(text) == text


@given(st.text(st.characters()))
def test_a_browser_reads_back_what_is_shown_and_a_second_time_changes_nothing(text: str) -> None:
    shown = visible(text)
    assert html.unescape(escaped(text)) == shown
    assert visible(shown) == shown
    assert not set(escaped(text)) & set("<>\"'")
    shown.encode()  # halves of surrogate pairs could not be written
