"""Questions about a scene, with choices and the index of the right one.

Only what can be answered without doubt is asked: an item is named by its shape (or its colour) only where no other has it,
and a relation is asked along an axis on which the two are clearly apart (`Scene.asked_distance`).
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, get_args

import numpy as np

from steercache.data.scenes.layout import Scene, SceneItem
from steercache.data.scenes.palette import COLOURS, SHAPES, plural

Task = Literal["Relation", "Count", "Attribute", "Entity"]
TASKS: Final[tuple[Task, ...]] = get_args(Task)

AnswerForm = Literal["letter", "number", "word"]
INSTRUCTIONS: Final = MappingProxyType(
    {
        "letter": "Answer with the letter only.",
        "number": "Answer with the number only.",
        "word": "Answer with one word.",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneQuestion:
    """One question: `choices` in the order shown, `answer_idx` into them, the items that it `names`, and its `axis` if any."""

    task: Task
    text: str
    choices: tuple[str, ...]
    answer_idx: int
    names: tuple[SceneItem, ...]
    axis: Literal["x", "y"] | None = None

    @property
    def answer(self) -> str:
        """The right choice as CV-Bench writes it: `(A)`."""
        return f"({letter(self.answer_idx)})"

    @property
    def word(self) -> str:
        """The right choice's own text."""
        return self.choices[self.answer_idx]

    @property
    def prompt(self) -> str:
        """CV-Bench's `prompt` field: the question and its lettered choices."""
        options = "\n".join(f"({letter(i)}) {choice}" for i, choice in enumerate(self.choices))
        return f"{self.text} Select from the following choices.\n{options}"


def letter(idx: int) -> str:
    """The letter of a choice: 0 is A."""
    return "ABCDEFGH"[idx]


def ask_relation(rng: np.random.Generator, scene: Scene) -> SceneQuestion | None:
    """Left or right, above or below, of two items; None if no pair is clearly apart."""
    items = scene.unique_shapes()
    pairs: list[tuple[SceneItem, SceneItem, Literal["x", "y"]]] = []
    least, greatest = scene.asked_distance
    for a in items:
        for b in items:
            if a is not b and least <= abs(a.x - b.x) <= greatest:
                pairs.append((a, b, "x"))
            if a is not b and least <= abs(a.y - b.y) <= greatest:
                pairs.append((a, b, "y"))
    if not pairs:
        return None
    axes = sorted({axis for _, _, axis in pairs})
    axis = axes[int(rng.integers(len(axes)))]
    pairs = [pair for pair in pairs if pair[2] == axis]
    a, b, _ = pairs[int(rng.integers(len(pairs)))]
    if axis == "x":
        words, right = ("left", "right"), "left" if a.x < b.x else "right"
    else:
        words, right = ("above", "below"), "above" if a.y < b.y else "below"
    choices = words if rng.random() < 0.5 else words[::-1]
    return SceneQuestion(
        task="Relation",
        text=f"Where is the {a.shape} with respect to the {b.shape}?",
        choices=choices,
        answer_idx=choices.index(right),
        names=(a, b),
        axis=axis,
    )


def ask_count(rng: np.random.Generator, scene: Scene) -> SceneQuestion:
    """How many of the first item's shape there are, with four of the numbers 1 to 5 to choose from."""
    target = scene.items[0].shape
    items = scene.of_shape(target)
    others = [n for n in range(1, 6) if n != len(items)]
    numbers = [len(items), *(int(n) for n in rng.choice(others, 3, replace=False))]
    choices = tuple(str(numbers[i]) for i in rng.permutation(4))
    return SceneQuestion(
        task="Count",
        text=f"How many {plural(target)} are in the picture?",
        choices=choices,
        answer_idx=choices.index(str(len(items))),
        names=items,
    )


def ask_attribute(rng: np.random.Generator, scene: Scene) -> SceneQuestion | None:
    """Which colour an item has, among four colours; None if no shape names one item alone."""
    items = scene.unique_shapes()
    if not items:
        return None
    item = items[int(rng.integers(len(items)))]
    choices = _four(rng, item.colour, COLOURS)
    text = f"What colour is the {item.shape}?"
    return SceneQuestion(
        task="Attribute", text=text, choices=choices, answer_idx=choices.index(item.colour), names=(item,)
    )


def ask_entity(rng: np.random.Generator, scene: Scene) -> SceneQuestion | None:
    """Which shape the thing of some colour is, among four shapes; None if no colour names one item alone."""
    items = scene.unique_colours()
    if not items:
        return None
    item = items[int(rng.integers(len(items)))]
    choices = _four(rng, item.shape, SHAPES)
    text = f"What is the {item.colour} shape?"
    return SceneQuestion(task="Entity", text=text, choices=choices, answer_idx=choices.index(item.shape), names=(item,))


def _four(rng: np.random.Generator, right: str, words: tuple[str, ...]) -> tuple[str, ...]:
    wrong = [str(w) for w in rng.choice([w for w in words if w != right], 3, replace=False)]
    shown = [right, *wrong]
    return tuple(shown[i] for i in rng.permutation(4))
