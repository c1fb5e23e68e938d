"""How a question about a scene is put to a model: instruction, then prompt field, and the answer in three forms."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from steercache.data.scenes import INSTRUCTIONS, SceneQuestion, plural
from steercache.data.scenes.questions import AnswerForm, letter

# Other words for the instructions, so that the model does not hang on one wording.
PARAPHRASES: Final[dict[AnswerForm, tuple[str, ...]]] = {
    "letter": (
        "Answer by the letter only.",
        "Reply with the letter.",
        "Give only the letter of the right choice.",
    ),
    "number": (
        "Answer by the number only.",
        "Reply with a number.",
        "Give only the number.",
    ),
    "word": (
        "Answer by one word only.",
        "Reply with a word.",
        "Give only the word.",
    ),
}
PREAMBLES: Final = (
    "Look carefully at the picture.",
    "Pay attention to where things are.",
    "Pay attention to how many things there are.",
    "Look at the shapes and their colours.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One question as text: the user's words after the image, the answer, and character places in the words.

    `name_at` are the places of the words that name the question's items; `option_at` is that of the right choice's word,
    None if the choices are not shown.
    """

    question: SceneQuestion
    form: AnswerForm
    body: str
    answer: str
    name_at: tuple[int, ...]
    option_at: int | None


def make_turn(
    question: SceneQuestion, form: AnswerForm, *, instruction: str | None = None, choices: bool = True
) -> Turn:
    """The words of one question; without `instruction`, the canonical one of the form."""
    head = (INSTRUCTIONS[form] if instruction is None else instruction) + "\n"
    shown = question.prompt if choices else question.text
    spot = f"({letter(question.answer_idx)}) "
    return Turn(
        question=question,
        form=form,
        body=head + shown,
        answer=letter(question.answer_idx) if form == "letter" else question.word,
        name_at=tuple(len(head) + question.text.index(word) for word in naming_words(question)),
        option_at=len(head) + shown.index(spot) + len(spot) if choices else None,
    )


def naming_words(question: SceneQuestion) -> tuple[str, ...]:
    """The words of the question that name its items: one per item, one for all of them when they are counted."""
    if question.task == "Count":
        return (plural(question.names[0].shape),)
    if question.task == "Entity":
        return (question.names[0].colour,)
    return tuple(item.shape for item in question.names)


def vary_instruction(rng: np.random.Generator, form: AnswerForm) -> str:
    """Mostly the canonical instruction, else a paraphrase; sometimes with a sentence before it."""
    words = INSTRUCTIONS[form] if rng.random() < 0.6 else PARAPHRASES[form][int(rng.integers(3))]
    if rng.random() < 0.1:
        return f"{PREAMBLES[int(rng.integers(len(PREAMBLES)))]} {words}"
    return words
