"""The questions of a sweep, stored beside its answers: the picture and the right answer of each sample.

So a table can be made again from the cache alone, without the benchmark or its model.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from steercache.core.errors import DamagedError
from steercache.core.ids import canonical_json
from steercache.store.durable import make_folder, read_bytes, write_file_atomically

if TYPE_CHECKING:  # a page about a sweep is made without torch, which encoding needs
    from steercache.benchmarks.task import EncodedQuestion, Part

FILE_NAME: Final = "questions.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredQuestion:
    """One sample of a sweep: its split (None: an older file), its picture (`group_id`), its right answer, where it comes from,
    and for What'sUp the set and the arrangement that it shows.

    `question` and `choices` are its words (None: an older file), `image` is the digest of the one picture that it shows."""

    sample_id: str
    split: str | None
    group_id: str
    right: str | None
    place: str
    set_id: str | None = None
    relation: str | None = None
    question: str | None = None
    choices: tuple[str, ...] = ()
    image: str | None = None


def questions_of(asked: "Mapping[Part, Sequence[EncodedQuestion]]") -> tuple[StoredQuestion, ...]:
    """What is stored of questions, split after split in their order."""
    return tuple(
        StoredQuestion(
            sample_id=one.sample_id,
            split=split,
            group_id=one.group_id,
            right=one.labels.answer,
            place=one.place,
            set_id=one.labels.meta.get("set_id"),
            relation=one.labels.meta.get("relation"),
            question=one.labels.question,
            choices=tuple(one.labels.choices),
            image=_one_picture(one),
        )
        for split, some in asked.items()
        for one in some
    )


def _one_picture(one: "EncodedQuestion") -> str | None:
    digests = () if one.encoded is None else one.encoded.image_digests
    return digests[0] if len(digests) == 1 else None


def save_questions(folder: Path, asked: "Mapping[Part, Sequence[EncodedQuestion]]") -> None:
    """Write `questions.json` into a sweep's folder."""
    rows = [
        {k: v for k, v in asdict(one).items() if v not in (None, ()) or k == "right"} for one in questions_of(asked)
    ]
    make_folder(folder)
    write_file_atomically(folder / FILE_NAME, canonical_json({"questions": rows}))


def read_questions(folder: Path) -> tuple[StoredQuestion, ...]:
    """Questions of a sweep in their order; empty if the sweep was stored without them. Raises DamagedError."""
    path = folder / FILE_NAME
    if not path.exists():
        return ()
    try:
        rows = json.loads(read_bytes(path))["questions"]
        return tuple(
            StoredQuestion(**{"split": None, **row, "choices": tuple(map(str, row.get("choices", ())))}) for row in rows
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedError(f"not a sweep's questions: {error}", place=str(path), hint="run the sweep again") from error
