"""`scenes` as a benchmark that needs no files: every picture is drawn when its bytes are read, always the same."""

from collections.abc import Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Final

from steercache.core.errors import UsageError
from steercache.core.examples import ImageRef
from steercache.data.benchmarks.questions import AnswerForm, BenchmarkQuestion, Row, letter_of
from steercache.data.scenes import EASY, Difficulty, SceneExample, make_example
from steercache.data.scenes.questions import TASKS, Task

SEED: Final = 9_100_001  # no training and no model card used it
PER_TASK: Final = 450  # 150 of them for testing
HARD: Final[Mapping[Task, Difficulty]] = MappingProxyType(
    {  # `scenes-hard`: where *demo* answers between .55 and .85 of the questions
        "Relation": Difficulty.of(0.45),
        "Count": Difficulty.of(0.25),
        "Attribute": Difficulty.of(0.35),
        "Entity": Difficulty.of(0.3),
    }
)


def drawn_rows(
    task: str | None,
    *,
    form: AnswerForm,
    shifted: bool = False,
    difficulty: Difficulty | Mapping[Task, Difficulty] = EASY,
    limit: int | None = None,
    per_task: int = PER_TASK,
    seed: int = SEED,
) -> Iterator[Row]:
    """Questions of one task, or of all in turn: `limit` of them, or `per_task` of each.

    Raises:
        UsageError: no such task.
    """
    tasks = _tasks(task)
    for idx in range(per_task * len(tasks) if limit is None else limit):
        yield drawn_question(make_example(seed, idx, tasks=tasks, shifted=shifted, difficulty=difficulty), form)


def drawn_question(example: SceneExample, form: AnswerForm) -> BenchmarkQuestion:
    """One scene's question, as it would be read from a file of CV-Bench's schema."""
    asked = example.question
    as_number = form != "letter" and asked.task == "Count"
    as_word = form == "word" and not as_number
    return BenchmarkQuestion(
        place=f"{example.source}:{example.idx}",
        kind="count" if as_number else "text" if as_word else "choice",
        task=asked.task,
        question=asked.text,
        prompt=asked.text if as_number else asked.prompt,
        choices=() if as_number else asked.choices,
        answer=asked.word if as_number or as_word else letter_of(asked.answer_idx),
        group_id=example.group_id,
        images=(ImageRef(name=example.filename, load=partial(SceneExample.png, example)),),
        meta={"idx": example.idx, "type": "2D", "filename": example.filename, "source": example.source},
    )


def _tasks(task: str | None) -> tuple[Task, ...]:
    found = tuple(known for known in TASKS if task in (None, known))
    if not found:
        raise UsageError(f"scenes have no task {task!r}", hint=f"one of: {', '.join(TASKS)}")
    return found
