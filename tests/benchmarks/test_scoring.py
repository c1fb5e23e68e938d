"""Awkward answers, one by one, against a table; and what no answer may do."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steercache.benchmarks.numerals import numerals
from steercache.benchmarks.scoring import PARSERS, ScoredAnswer, score_answer
from steercache.core.errors import UsageError

TABLE = [json.loads(line) for line in (Path(__file__).parent / "judged_answers.jsonl").read_text().splitlines()]
TOPICS = sorted({row["topic"] for row in TABLE})


def test_the_judged_table_is_large_and_has_no_row_twice() -> None:
    assert len(TABLE) >= 300
    assert sum(row["parsed"] is None for row in TABLE) >= 100
    keys = [(row["kind"], tuple(row["choices"]), row["raw"]) for row in TABLE]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("topic", TOPICS)
def test_answers_are_read_as_judged(topic: str) -> None:
    wrong = [
        f"{row['kind']} {row['choices']} {row['raw']!r}: {found!r}, judged {row['parsed']!r}"
        for row in TABLE
        if row["topic"] == topic and (found := PARSERS[row["kind"]](row["raw"], row["choices"])) != row["parsed"]
    ]
    assert not wrong, "\n".join(wrong)


def test_right_wrong_unreadable_and_missing_answers_differ() -> None:
    ask = {"kind": "choice", "answer": "(B)", "choices": ["left", "right"]}
    assert score_answer("b", **ask) == ScoredAnswer(parsed="B", correct=True)  # type: ignore[arg-type]
    assert score_answer("left", **ask) == ScoredAnswer(parsed="A", correct=False)  # type: ignore[arg-type]
    assert score_answer("who knows", **ask) == ScoredAnswer(parsed=None, correct=False)  # type: ignore[arg-type]
    assert score_answer(None, **ask) == ScoredAnswer(parsed=None, correct=None)  # type: ignore[arg-type]


def test_a_count_is_compared_as_a_number() -> None:
    assert score_answer("There are three.", kind="count", answer="03").correct
    assert not score_answer("13", kind="count", answer="3").correct


def test_an_unreadable_right_answer_is_an_error_of_the_set() -> None:
    with pytest.raises(UsageError, match="many"):
        score_answer("3", kind="count", answer="many")
    with pytest.raises(UsageError, match="essay"):
        score_answer("3", kind="essay", answer="3")


@given(st.integers(0, 999_999), st.sampled_from(["{}", "There are {}.", "({})", "Answer: {}", "**{}**", "{} things"]))
def test_every_integer_in_a_frame_is_found(number: int, frame: str) -> None:
    for written in (
        str(number),
        f"{number:,}",
        str(number).translate(dict(zip(range(48, 58), "०१२३४५६७८९", strict=True))),
    ):
        assert PARSERS["count"](frame.format(written), ()) == str(number)


UNITS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def spelt(n: int) -> str:
    """A number in English words, by the rules of school."""
    for size, name in ((1_000_000, "million"), (1000, "thousand"), (100, "hundred")):
        if n >= size:
            rest = f" and {spelt(n % size)}" if 0 < n % size < 100 else f" {spelt(n % size)}" if n % size else ""
            return f"{spelt(n // size)} {name}{rest}"
    return UNITS[n] if n < 20 else TENS[n // 10 - 2] + (f"-{UNITS[n % 10]}" if n % 10 else "")


@given(st.integers(0, 10**9 - 1), st.sampled_from([str, str.title, lambda text: text.replace("-", " ")]))
def test_every_integer_in_words_is_read_whole(number: int, written: Callable[[str], str]) -> None:
    assert [n.value for n in numerals(f"There are {written(spelt(number))} balls")] == [number]


@given(st.lists(st.integers(0, 999_999), min_size=1, max_size=4))
def test_every_number_of_a_sentence_is_found_in_its_order(numbers: list[int]) -> None:
    said = "; ".join(spelt(n) if i % 2 else str(n) for i, n in enumerate(numbers))
    assert [n.value for n in numerals(said)] == numbers


@given(st.text(max_size=80), st.lists(st.text(max_size=12), min_size=1, max_size=6))
def test_no_text_breaks_a_parser_and_a_letter_is_always_one_of_the_choices(raw: str, choices: list[str]) -> None:
    letter = PARSERS["choice"](raw, choices)
    assert letter is None or letter in "ABCDEF"[: len(choices)]
    number = PARSERS["count"](raw, ())
    assert number is None or str(int(number)) == number
    word = PARSERS["text"](raw, ())
    assert word is None or word == word.strip()


NOUNS = ("cat", "dog", "bird", "fish", "horse", "sheep", "cow", "bear")
# {L}, {T}: an option's letter and text; {M}, {U}: another's. What is read: L, M or nothing, whichever options these are.
FRAMES: dict[str | None, tuple[str, ...]] = {
    "L": (
        *(
            "{L}",
            "{L}.",
            "({L})",
            "[{L}]",
            "{L})",
            "{L}:",
            "{L},",
            "{L}!",
            "**{L}**",
            "`{L}`",
            '"{L}"',
            " {L}\n",
            "{l}",
            "({l})",
        ),
        *(
            "{l}.",
            "{l})",
            "Answer: {L}",
            "answer: ({l})",
            "The answer is {L}",
            "The answer is {L}.",
            "The answer is {l}.",
        ),
        *(
            "Option {L}",
            "option {l}",
            "Choice {L}.",
            "I choose {L}",
            "I choose {L} here",
            "I would pick {L} here.",
            "It is {L}",
        ),
        *(
            "I think {L}",
            "I think it is {L}.",
            "Maybe {L}",
            "Probably {L}.",
            "So {L}.",
            "Therefore, {L}",
            "I'd go with {L}",
        ),
        *(
            "{L} is correct",
            "{L} is correct.",
            "{l} is correct",
            "{L} is the answer",
            "{L} seems right",
            "{L} because of the ears",
        ),
        *("{L}, since it has ears", "{L}, I think", "{L} I think", "{L}, but I am not sure", "I'm not sure, but {L}"),
        *(
            "({L}) {T}",
            "{L}. {T}",
            "{L}: {T}",
            "{L} - {T}",
            "{L} {T}",
            "{L} = {T}",
            "{T} ({L})",
            "{T}",
            "The {T}.",
            "It is {T}",
        ),
        *(
            "\\boxed{{{L}}}",
            "$\\boxed{{\\text{{{L}}}}}$",
            "<answer>{L}</answer>",
            "<think>{M}?</think>{L}",
            '{{"answer": "{L}"}}',
        ),
        *(
            "{L}, not {M}",
            "not {M} but {L}",
            "{M} is wrong, so {L}",
            "{M} is incorrect; {L} is correct",
            "{M}... no, {L}",
        ),
        *(
            "{M}? No, {L}.",
            "{M}, no wait, {L}",
            "{M}. Actually, {L}",
            "{L} rather than {M}",
            "{M} is incorrect and {L} is correct",
        ),
        *(
            "It is not {M}, it is {L}",
            "It's {T}, not {U}",
            "{M} is not correct. {L} is.",
            "~~{M}~~ {L}",
            "Options: {L}, {M}. Answer: {L}",
        ),
        *(
            "({L}) {T} ({M}) {U}\nThe answer is {L}",
            "I looked at {M} and {L}. \\boxed{{{L}}}",
            "({M}) is not correct, ({L}) is.",
        ),
    ),
    None: (
        *(
            "{L} or {M}",
            "{L} and {M}",
            "{L}/{M}",
            "{L}, {M}",
            "{L}-{M}",
            "{L} {M}",
            "Either {L} or {M}",
            "({L}) or ({M})",
            "{T} or {U}",
        ),
        *(
            "({L}) {T} ({M}) {U}",
            "{L}: {T} {M}: {U}",
            "{L}. {T}\n{M}. {U}",
            "{L}) {T}, {M}) {U}",
            "{L}\n{M}",
            "{T}, {U}",
            "({L}) {U}",
        ),
        *(
            "{L} is wrong",
            "({L}) is incorrect",
            "{L} is not correct",
            "{L} isn't right",
            "not {L}",
            "Not ({L})",
            "It is not {L}.",
        ),
        *(
            "The answer is not {L}",
            "{L} cannot be it",
            "I would rule out {L}",
            "The wrong answer is {L}",
            "Neither {L} nor {M}",
        ),
        *(
            "It is not {T}",
            "Not {T}",
            "{L}?",
            "Is it {L}?",
            "I cannot tell whether it is {L}",
            "I don't think it is {L}",
            "{L}... no",
        ),
        *(
            "<answer>{L}</answer><answer>{M}</answer>",
            "\\boxed{{{L}}} \\boxed{{{M}}}",
            "{T} ({M})",
            "The answer is {L}. The answer is {M}.",
        ),
    ),
}


def _filled(frame: str, one: int, other: int, texts: Sequence[str]) -> str:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    names = {"L": letters[one], "l": letters[one].lower(), "M": letters[other], "T": texts[one], "U": texts[other]}
    return frame.format(**names)


@pytest.mark.parametrize("meant", ["L", None], ids=["one option", "none"])
def test_every_letter_is_read_alike_and_swapping_two_options_swaps_the_reading(meant: str | None) -> None:
    pairs = [(i, j) for i in range(8) for j in range(8) if i != j]
    wrong = []
    for frame in FRAMES[meant]:
        for one, other in pairs:
            raw = _filled(frame, one, other, NOUNS)
            swapped = list(NOUNS)
            swapped[one], swapped[other] = NOUNS[other], NOUNS[one]
            expected = None if meant is None else "ABCDEFGH"[one]
            also = None if meant is None else "ABCDEFGH"[other]
            # the same words about swapped options: letters and texts trade places in the answer as in the question
            mirrored = _filled(frame, other, one, swapped)
            found = PARSERS["choice"](raw, NOUNS), PARSERS["choice"](mirrored, swapped)
            if found != (expected, also):
                wrong.append(f"{raw!r}, {mirrored!r}: {found}")
    assert not wrong, "\n".join(wrong[:20])


def test_an_answer_by_text_follows_its_text_to_another_letter() -> None:
    for frame in (
        "{}",
        "The {}.",
        "A {}",
        "a {}",
        "It is a {}",
        "I think it is a {}.",
        "A small {}",
        "It's a {}, I think",
    ):
        for i, noun in enumerate(NOUNS):
            for shift in range(8):
                turned = NOUNS[shift:] + NOUNS[:shift]
                assert PARSERS["choice"](frame.format(noun), turned) == "ABCDEFGH"[(i - shift) % 8], (
                    frame,
                    noun,
                    turned,
                )


def test_every_letter_of_the_alphabet_is_read_where_nothing_else_could_be_meant() -> None:
    texts = [f"thing {i}" for i in range(26)]
    for i, letter in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZ"):
        for frame in (
            "{}",
            "({})",
            "{}.",
            "{})",
            "Answer: {}",
            "The answer is ({}).",
            "**{}**",
            "\\boxed{{{}}}",
            "Option {}",
        ):
            assert PARSERS["choice"](frame.format(letter), texts) == "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[i], (frame, letter)


def test_more_choices_than_letters_are_refused() -> None:
    with pytest.raises(UsageError, match="27 choices"):
        PARSERS["choice"]("A", [f"thing {i}" for i in range(27)])


YES_NO = (
    "{Y}",
    "{Y}.",
    "{Y}!",
    "{Y}, it is.",
    "{Y}, it is not.",
    "The answer is {Y}",
    "Answer: {Y}",
    "I think {Y}",
    "**{Y}**",
    "{y}, I think",
)


@pytest.mark.parametrize("frame", YES_NO)
def test_yes_and_no_are_read_alike_and_in_both_orders(frame: str) -> None:
    for word in ("Yes", "No"):
        raw = frame.format(Y=word, y=word.lower())
        assert PARSERS["text"](raw, ("yes", "no")) == word.lower()
        assert PARSERS["choice"](raw, ("yes", "no")) == ("A" if word == "Yes" else "B")
        assert PARSERS["choice"](raw, ("no", "yes")) == ("B" if word == "Yes" else "A")


@pytest.mark.parametrize(
    "frame", ["not {}", "It is not {}", "{} or {other}", "{} and {other}", "{}/{other}", "Neither {} nor {other}"]
)
def test_yes_and_no_that_are_denied_or_offered_are_unread(frame: str) -> None:
    for word, other in (("yes", "no"), ("no", "yes")):
        assert PARSERS["text"](frame.format(word, other=other), ("yes", "no")) is None
        assert PARSERS["choice"](frame.format(word, other=other), ("no", "yes")) is None


@pytest.mark.parametrize(
    "piece", ["a ", "and ", "dog ", "no ", "B. ", "\n", "\\boxed{", "<answer>", "1 and ", "{", "not a dog, "]
)
def test_long_outputs_are_read_in_bounded_time(piece: str) -> None:
    raw = piece * (20_000 // len(piece))
    started = time.perf_counter()
    for kind, choices in (("choice", NOUNS), ("count", ()), ("text", ("yes", "no", "red")), ("text", ())):
        PARSERS[kind](raw, choices)
    assert time.perf_counter() - started < 20  # the quadratic patterns of an earlier draft took minutes


def test_a_long_output_is_read_at_its_beginning_and_its_end() -> None:
    filler = "The animal is standing in the grass. " * 200
    assert PARSERS["choice"](f"B\n{filler}", NOUNS) == "B"
    assert PARSERS["choice"](f"{filler}\nThe answer is C.", NOUNS) == "C"
    assert PARSERS["count"]("9" * 5000, ()) is None
