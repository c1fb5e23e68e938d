"""Anchors are found as whole words, by characters, the same way as by a plain slow search."""

import unicodedata

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from steercache.data.anchors import find_anchors, words_around


def evened(text: str) -> str:
    """Case, composition and white space evened out, over the whole string at once."""
    folded = unicodedata.normalize("NFD", unicodedata.normalize("NFD", text).casefold())
    return regex.sub(r"\s+", " ", folded)


UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}"
LETTER = rf"[[\p{{L}}\p{{N}}\p{{M}}_]--[{UNSPACED}]]"
WORD = regex.compile(
    rf"[{UNSPACED}]|{LETTER}+(?:(?:['’ʼ‐‑-](?={LETTER})|(?<=\d)[.,](?=\d)){LETTER}+)*",
    regex.V1,
)


def plain_search(text: str, anchor: str) -> tuple[tuple[int, int], ...]:
    """Every span is tried; whole are those that begin and end nowhere inside a word that the tokeniser above makes."""
    inside = {at for word in WORD.finditer(text) for at in range(word.start() + 1, word.end())}
    wanted = evened(anchor.strip())
    found: list[tuple[int, int]] = []
    for start in range(len(text)):
        for end in range(start + 1, len(text) + 1):
            free = not found or start >= found[-1][1]
            if free and start not in inside and end not in inside and wanted and evened(text[start:end]) == wanted:
                found.append((start, end))
    return tuple(found)


LATIN = st.text(alphabet="aabnostTOé\u0301ßİ_ \t'’-–.,13", max_size=24)
MIXED = st.text(alphabet="ab on在桌のไ,。 -'", max_size=24)


def test_a_mark_behind_a_hyphen_belongs_to_the_word() -> None:
    assert find_anchors("11.O-\u0301", ".O-") == ()


@settings(max_examples=400, deadline=None)
@given(st.one_of(LATIN, MIXED), st.data())
def test_anchors_are_those_of_a_plain_search(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, max(0, len(text) - 1)))
    anchor = data.draw(st.one_of(st.just(text[start : start + data.draw(st.integers(1, 6))]), LATIN, MIXED))
    anchor = data.draw(st.sampled_from([anchor, anchor.upper(), unicodedata.normalize("NFD", anchor)]))
    assert find_anchors(text, anchor) == plain_search(text, anchor)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(alphabet="abcdé'-", min_size=1, max_size=6), min_size=1, max_size=8), st.data())
def test_a_word_of_a_sentence_is_found_at_its_place(words: list[str], data: st.DataObject) -> None:
    words = [f"x{word.strip(chr(39) + '-')}x" for word in words]
    at = data.draw(st.integers(0, len(words) - 1))
    start = len(" ".join([*words[:at], ""]))
    spans = find_anchors(" ".join(words) + ".", words[at])
    assert (start, start + len(words[at])) in spans
    assert len(spans) == sum(word == words[at] for word in words)


@pytest.mark.parametrize(
    ("text", "anchor", "found"),
    [
        ("The cat on the one bonnet sat on.", "on", ["on", "on"]),
        ("On and ON and oN", "on", ["On", "ON", "oN"]),
        ("It is next\n  to the door, next to it", "next to", ["next\n  to", "next to"]),
        ("She can't, he can.", "can", ["can"]),
        ("She can't, he can.", "can't", ["can't"]),
        ("It isn’t", "isn’t", ["isn’t"]),
        ("twenty-one and one", "one", ["one"]),
        ("a well-known well", "well-known", ["well-known"]),
        ("the dogs' bowls", "dogs", ["dogs"]),
        ("'on' — on–off (on)", "on", ["on", "on", "on"]),
        ("3.5 and 1,300 and 3. 3, 3", "3", ["3", "3", "3"]),
        ("snake_on on_snake", "on", []),
        ("Über über ÜBER", "über", ["Über", "über", "ÜBER"]),
        ("cafe\u0301 and caf\u00e9", "caf\u00e9", ["cafe\u0301", "caf\u00e9"]),
        ("cafe\u0301", "cafe", []),
        ("STRASSE straße", "Straße", ["STRASSE", "straße"]),
        ("ß", "s", []),
        ("ก็ ก", "ก", ["ก"]),
        ("猫在桌子上", "在", ["在"]),
        ("Written in C++ and C", "C++", ["C++"]),
        ("a 🐈 b", "🐈", ["🐈"]),
        ("word", "  word ", ["word"]),
        ("word", "", []),
        ("word", "   ", []),
        ("", "word", []),
        ("a.b a*b", "a.b", ["a.b"]),
        ("so so so", "so so", ["so so"]),
        ("नमस्ते दुनिया", "नमस्ते", ["नमस्ते"]),
        ("नमस्ते", "नमस", []),
        ("δ ΣΟΦΟΣ", "σοφος", ["ΣΟΦΟΣ"]),
    ],
)
def test_awkward_sentences(text: str, anchor: str, found: list[str]) -> None:
    assert [text[start:end] for start, end in find_anchors(text, anchor)] == found


def test_the_words_around_a_part_say_why_it_was_not_found() -> None:
    assert words_around("Once upon twenty-one stones on", "on") == ("Once", "upon", "twenty-one", "stones", "on")
    assert words_around("nothing here", "cat") == ()


def test_a_long_text_takes_time_in_proportion() -> None:
    assert len(find_anchors("on " * 100_000, "on")) == 100_000
    assert find_anchors("a" * 200_000, "a") == ()
    assert words_around("a" * 200_000, "a") == ("a" * 200_000,)
