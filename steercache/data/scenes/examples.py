"""Example number `idx` of a seed: the picture, the question, and the row of CV-Bench's schema."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from steercache.core.errors import UsageError
from steercache.data.scenes.difficulty import EASY, Difficulty
from steercache.data.scenes.draw import SIDE, draw_scene
from steercache.data.scenes.layout import Scene, make_crowd, make_pairs
from steercache.data.scenes.questions import (
    TASKS,
    SceneQuestion,
    Task,
    ask_attribute,
    ask_count,
    ask_entity,
    ask_relation,
)

if TYPE_CHECKING:
    from PIL import Image

SET_NAMES: Final = ("scenes", "scenes-shifted")
PER_PICTURE: Final = 2  # questions of one task about one picture, except Count: one


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneExample:
    """One question about one picture, which is drawn at first use."""

    seed: int
    idx: int
    scene: Scene
    question: SceneQuestion
    group_id: str
    difficulty: Difficulty = EASY

    def image(self, *, side: int = SIDE) -> "Image.Image":
        """The picture, RGB, `side` x `side` pixels."""
        return draw_scene(self.scene, side=side)

    def png(self, *, side: int = SIDE) -> bytes:
        """The picture as the bytes of a PNG file."""
        buffer = io.BytesIO()
        self.image(side=side).save(buffer, format="PNG")
        return buffer.getvalue()

    @property
    def source(self) -> str:
        """The set that it belongs to: one of SET_NAMES, with the difficulty where it is not the easy set."""
        return set_name(shifted=self.scene.shifted, difficulty=self.difficulty)

    @property
    def filename(self) -> str:
        """The picture's name; questions about one picture share it."""
        return f"img/{self.group_id}.png"


def set_name(*, shifted: bool = False, difficulty: Difficulty = EASY) -> str:
    """`scenes`, `scenes-shifted`, `scenes-level0.5`, ...: sets of another difficulty hold other pictures."""
    return SET_NAMES[shifted] + difficulty.label


def make_example(
    seed: int,
    idx: int,
    *,
    tasks: Sequence[Task] = TASKS,
    shifted: bool = False,
    difficulty: Difficulty | Mapping[Task, Difficulty] = EASY,
) -> SceneExample:
    """Example number `idx` of the set with this seed and these tasks, without making the ones before it.

    Tasks take turns picture by picture, each with its own `difficulty` where that is a mapping. The shifted set holds the
    same pictures' places and questions under other drawings only in distribution, not one by one.

    Raises:
        UsageError: an unknown task, no task, or a negative number.
    """
    unknown = sorted(set(tasks) - set(TASKS))
    if unknown or not tasks:
        raise UsageError(
            f"unknown tasks {unknown}" if unknown else "no task was named", hint=f"tasks: {', '.join(TASKS)}"
        )
    if seed < 0 or idx < 0:
        raise UsageError(f"seed and idx cannot be negative: {seed}, {idx}")
    picture_no, slot = divmod(idx, PER_PICTURE)
    task = tasks[picture_no % len(tasks)]
    if task == "Count":
        picture_no, slot = idx, 0
    level = difficulty if isinstance(difficulty, Difficulty) else difficulty[task]
    stream = [seed, TASKS.index(task), int(shifted), picture_no]
    rng = np.random.default_rng(stream)
    while True:
        make = make_crowd if task == "Count" else make_pairs
        scene = make(rng, shifted=shifted, difficulty=level)
        questions = _ask(rng, task, scene)
        if len(questions) > slot:
            break
    name = f"{set_name(shifted=shifted, difficulty=level)}-{seed}-{task.lower()}-{picture_no:06d}"
    return SceneExample(seed=seed, idx=idx, scene=scene, question=questions[slot], group_id=name, difficulty=level)


def iter_examples(
    seed: int,
    n: int,
    *,
    tasks: Sequence[Task] = TASKS,
    shifted: bool = False,
    difficulty: Difficulty | Mapping[Task, Difficulty] = EASY,
    start: int = 0,
) -> Iterator[SceneExample]:
    """Examples `start` to `start + n - 1`."""
    for idx in range(start, start + n):
        yield make_example(seed, idx, tasks=tasks, shifted=shifted, difficulty=difficulty)


def to_row(example: SceneExample, *, side: int = SIDE) -> dict[str, Any]:
    """The example as a row of CV-Bench, with the image as Parquet holds it ({bytes, path}), and its `group_id`."""
    question = example.question
    return {
        "idx": example.idx,
        "type": "2D",
        "task": question.task,
        "image": {"bytes": example.png(side=side), "path": example.filename},
        "question": question.text,
        "choices": list(question.choices),
        "answer": question.answer,
        "prompt": question.prompt,
        "filename": example.filename,
        "source": example.source,
        "group_id": example.group_id,
    }


def _ask(rng: np.random.Generator, task: Task, scene: Scene) -> list[SceneQuestion]:
    """Up to PER_PICTURE different questions of one task."""
    if task == "Count":
        return [ask_count(rng, scene)]
    ask = {"Relation": ask_relation, "Attribute": ask_attribute, "Entity": ask_entity}[task]
    asked: dict[str, SceneQuestion] = {}
    for _ in range(12):
        question = ask(rng, scene)
        if question is None:
            return []
        asked.setdefault(f"{question.text} {question.axis}", question)
        if len(asked) == PER_PICTURE:
            return list(asked.values())
    return []
