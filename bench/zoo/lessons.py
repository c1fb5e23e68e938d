"""Questions for training: new scenes with a few questions each, in all forms of answers."""

from typing import Final

import numpy as np

from bench.zoo.turns import Turn, make_turn, vary_instruction
from steercache.data.scenes import (
    Scene,
    SceneQuestion,
    ask_attribute,
    ask_count,
    ask_entity,
    ask_relation,
    make_crowd,
    make_pairs,
)
from steercache.data.scenes.questions import AnswerForm

CRAMMED: Final = 6  # questions about a scene of pairs


def lesson(
    rng: np.random.Generator, *, crowd: bool, shown: float, only_counts: bool = False
) -> tuple[Scene, list[Turn]]:
    """A scene and its questions; `shown` is the share of them that show their choices (most of these want the letter).

    Questions without choices are half as long, so training begins with few of the others. With `only_counts` a crowd is
    with two questions for its number only.
    """
    scene = make_crowd(rng) if crowd else make_pairs(rng)
    turns: list[Turn] = []
    if crowd and only_counts:
        return scene, [_turn(rng, ask_count(rng, scene), shown) for _ in range(2)]
    if crowd:
        turns += [_turn(rng, ask_count(rng, scene), shown) for _ in range(2 if rng.random() < shown else 1)]
        others = (ask_attribute(rng, scene), ask_entity(rng, scene))
        return scene, turns + [_turn(rng, question, shown) for question in others if question is not None]
    asked: dict[str, SceneQuestion] = {}
    for _ in range(3 * CRAMMED):
        question = ask_relation(rng, scene)
        if question is not None and len(asked) < CRAMMED:
            asked.setdefault(f"{question.text} {question.axis}", question)
    other = ask_attribute(rng, scene) if rng.random() < 0.5 else ask_entity(rng, scene)
    return scene, [_turn(rng, question, shown) for question in [*asked.values(), other] if question is not None]


def _turn(rng: np.random.Generator, question: SceneQuestion, shown: float) -> Turn:
    choices = rng.random() < shown
    form: AnswerForm = "number" if question.task == "Count" else "word"
    if choices and rng.random() < 0.6:
        form = "letter"
    return make_turn(question, form, instruction=vary_instruction(rng, form), choices=choices)
