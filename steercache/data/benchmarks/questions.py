"""What an opened benchmark is: questions about pictures, and the rows that could not become one."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal

from steercache.core.errors import MAX_PROBLEM_CHARS
from steercache.core.examples import Example, ImageRef
from steercache.core.excerpts import without_middle

AnswerKind = Literal["choice", "count", "text"]
# CV-Bench's schema can be asked for the letter, its counts for the bare number, all else for the choice's own word
AnswerForm = Literal["letter", "number", "word"]
# The words of `scenes`, which the shipped models were trained on; a caller may give others.
INSTRUCTIONS: Final[Mapping[AnswerKind, str]] = MappingProxyType(
    {
        "choice": "Answer with the letter only.",
        "count": "Answer with the number only.",
        "text": "Answer with one word.",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedRow:
    """A row of the set that cannot be used: `place` is file and row, `kind` a stable word.

    `split` is the part it would have belonged to under the published rule; by picture it is unknown where the picture is.
    """

    place: str
    kind: str
    message: str
    task: str | None = None
    split: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", without_middle(self.message, MAX_PROBLEM_CHARS))

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkQuestion:
    """One row before it becomes an Example: `prompt` is what the model reads after the instruction.

    `answer` is a letter without parentheses (`choice`), an integer (`count`) or a word (`text`).
    """

    place: str
    kind: AnswerKind
    task: str
    question: str
    prompt: str
    choices: tuple[str, ...]
    answer: str
    group_id: str
    images: tuple[ImageRef, ...]
    meta: Mapping[str, Any] = field(default_factory=dict)


Row = BenchmarkQuestion | FailedRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """A benchmark as opened: every row of the set is either in `examples` or in `failures`.

    Labels and texts are in memory, pictures are read when their `load` is called. Re-iterable; `part` picks one split.
    """

    name: str
    rule: str
    examples: tuple[Example, ...]
    failures: tuple[FailedRow, ...] = ()

    def __iter__(self) -> Iterator[Example]:
        return iter(self.examples)

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def has_pictures(self) -> bool:
        """Whether its questions are about pictures; a text model can answer those of a set without."""
        return any(example.images for example in self.examples)

    @property
    def n_rows(self) -> int:
        """Rows of the set, usable or not."""
        return len(self.examples) + len(self.failures)

    def part(self, split: str) -> tuple[Example, ...]:
        """The examples of one split ("search" or "test"), in the set's order."""
        return tuple(e for e in self.examples if e.labels.split == split)


def letter_index(letter: str, n_choices: int) -> int | None:
    """Position of "A", "(A)" or "a" among the choices; None when it is no letter of theirs.

    >>> letter_index("(B)", 4), letter_index("e", 4)
    (1, None)
    """
    bare = letter.strip().removeprefix("(").removesuffix(")").strip().upper()
    if len(bare) != 1 or not "A" <= bare <= "Z":
        return None
    idx = ord(bare) - ord("A")
    return idx if idx < n_choices else None


def letter_of(idx: int) -> str:
    """The letter of a choice: 0 is A."""
    return chr(ord("A") + idx)
