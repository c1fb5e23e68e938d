"""The world that the *tiny* language model knows: simple sentences about things, places, numbers, colours, acts and times.

Sentences are sampled from a small grammar; stories with a question after them make the words mean something: after "The star is
left of the moon." the model must answer "right" to "Where is the moon with respect to the star?".
"""

from collections.abc import Callable
from typing import Final

import numpy as np

from steercache.data.scenes import COLOURS, INSTRUCTIONS, SHAPES, plural
from steercache.data.scenes.questions import letter

THINGS: Final = ("cat", "dog", "bird", "ball", "box", "table", "chair", "cup", "book", "tree", "car", "house")
NUMBER_WORDS: Final = ("one", "two", "three", "four", "five")
PLACES: Final = ("on", "under", "near", "behind", "beside", "inside", "left of", "right of", "above", "below")
OPPOSITE: Final = {"left": "right", "right": "left", "above": "below", "below": "above"}
ACTS: Final = ("runs", "sleeps", "jumps", "sits", "falls", "moves", "flies", "stands")
SIZES: Final = ("big", "small", "tall", "short", "old", "new", "round", "bright")
TIMES: Final = ("today", "yesterday", "now", "later", "before", "after", "always", "never")
MORE: Final = ("bigger", "smaller", "taller", "older", "brighter", "faster")

Rng = np.random.Generator


def sentence(rng: Rng) -> str:
    """One line of training text: a few plain sentences, or a story with its question and answer."""
    if rng.random() < 0.55:
        story = _STORIES[int(rng.integers(len(_STORIES)))]
        return story(rng)
    n = int(rng.integers(1, 4))
    return " ".join(_PLAIN[int(rng.integers(len(_PLAIN)))](rng) for _ in range(n))


def _pick(rng: Rng, words: tuple[str, ...] | list[str]) -> str:
    return words[int(rng.integers(len(words)))]


def a_(word: str) -> str:
    """The word or phrase with its article."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def _two(rng: Rng, words: tuple[str, ...]) -> tuple[str, str]:
    first, second = rng.choice(len(words), 2, replace=False)
    return words[int(first)], words[int(second)]


def _place(rng: Rng) -> str:
    a, b = _two(rng, THINGS if rng.random() < 0.5 else SHAPES)
    return f"The {a} is {_pick(rng, PLACES)} the {b}."


def _side(rng: Rng) -> str:
    a, b = _two(rng, SHAPES)
    where = _pick(rng, ["to the left of", "to the right of", "above", "below", "left of", "right of"])
    return f"The {_pick(rng, COLOURS)} {a} is {where} the {_pick(rng, COLOURS)} {b}."


def _number(rng: Rng) -> str:
    n = int(rng.integers(1, 6))
    shape = _pick(rng, SHAPES + THINGS[:4])
    word = NUMBER_WORDS[n - 1] if rng.random() < 0.5 else str(n)
    colour = f"{_pick(rng, COLOURS)} " if rng.random() < 0.4 else ""
    if n == 1:
        return f"There is {word} {colour}{shape} in the picture."
    return f"There are {word} {colour}{plural(shape)} in the picture."


def _colour(rng: Rng) -> str:
    thing = _pick(rng, SHAPES + THINGS)
    if rng.random() < 0.5:
        return f"The {thing} is {_pick(rng, COLOURS + SIZES)}."
    return f"I see {a_(_pick(rng, COLOURS))} {thing} in the picture."


def _act(rng: Rng) -> str:
    a, b = _two(rng, THINGS)
    when = f" {_pick(rng, TIMES)}" if rng.random() < 0.5 else ""
    return f"The {a} {_pick(rng, ACTS)} {_pick(rng, PLACES)} the {b}{when}."


def _compare(rng: Rng) -> str:
    a, b = _two(rng, THINGS)
    if rng.random() < 0.4:
        return f"The {a} is not {_pick(rng, COLOURS + SIZES)}."
    return f"The {a} is {_pick(rng, MORE)} than the {b}."


def _ask(rng: Rng, facts: str, question: str, right: str, wrong: list[str]) -> str:
    """A story, its question in one of the three forms, and the answer, as the multimodal prompts have it."""
    if rng.random() < 0.3:
        return f"{facts}\n{INSTRUCTIONS['number' if right.isdigit() else 'word']}\n{question}\n{right}"
    shown = [right, *wrong]
    order = rng.permutation(len(shown))
    choices = [shown[int(i)] for i in order]
    options = "\n".join(f"({letter(i)}) {choice}" for i, choice in enumerate(choices))
    asked = f"{question} Select from the following choices.\n{options}"
    if rng.random() < 0.5:
        return f"{facts}\n{INSTRUCTIONS['letter']}\n{asked}\n{letter(choices.index(right))}"
    return f"{facts}\n{INSTRUCTIONS['number' if right.isdigit() else 'word']}\n{asked}\n{right}"


def _where_story(rng: Rng) -> str:
    a, b = _two(rng, SHAPES)
    side = _pick(rng, list(OPPOSITE))
    fact = f"The {a} is {side}{' of' if side in ('left', 'right') else ''} the {b}."
    if rng.random() < 0.5:
        a, b, side = b, a, OPPOSITE[side]
    return _ask(rng, fact, f"Where is the {a} with respect to the {b}?", side, [OPPOSITE[side]])


def _count_story(rng: Rng) -> str:
    n = int(rng.integers(1, 6))
    shape, other = _two(rng, SHAPES)
    things = [shape] * n + [other] * int(rng.integers(0, 3))
    listed = ", ".join(f"a {things[int(i)]}" for i in rng.permutation(len(things)))
    wrong = [str(int(m)) for m in rng.choice([m for m in range(1, 6) if m != n], 3, replace=False)]
    return _ask(rng, f"I see {listed}.", f"How many {plural(shape)} are in the picture?", str(n), wrong)


def _colour_story(rng: Rng) -> str:
    a, b = _two(rng, SHAPES)
    x, y = _two(rng, COLOURS)
    facts = f"I see {a_(x)} {a} and {a_(y)} {b}."
    if rng.random() < 0.5:
        wrong = [str(c) for c in rng.choice([c for c in COLOURS if c != x], 3, replace=False)]
        return _ask(rng, facts, f"What colour is the {a}?", x, wrong)
    wrong = [str(s) for s in rng.choice([s for s in SHAPES if s != b], 3, replace=False)]
    return _ask(rng, facts, f"What is the {y} shape?", b, wrong)


_PLAIN: tuple[Callable[[Rng], str], ...] = (_place, _side, _number, _colour, _act, _compare)
_STORIES: tuple[Callable[[Rng], str], ...] = (_where_story, _where_story, _count_story, _colour_story)
