"""What was asked in a sweep, kept beside its answers: which picture each sample is of and what was right.

So a table can be made again from the cache alone, without the benchmark or its model.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from steercache.core.errors import DamagedError
from steercache.core.ids import canonical_json
from steercache.store.durable import make_folder, write_file_atomically

if TYPE_CHECKING:  # a page about a sweep is made without torch, which encoding needs
    from steercache.benchmarks.task import EncodedQuestion, Part

FILE_NAME: Final = "questions.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredQuestion:
    """One sample of a sweep: its picture (`group_id`) and its right answer."""

    group_id: str
    right: str | None
    place: str


def save_questions(folder: Path, asked: "Mapping[Part, Sequence[EncodedQuestion]]") -> None:
    """Write `questions.json` into a sweep's folder."""
    rows = [
        {
            "split": split,
            "sample_id": one.sample_id,
            "place": one.place,
            "group_id": one.group_id,
            "right": one.labels.answer,
        }
        for split, some in asked.items()
        for one in some
    ]
    make_folder(folder)
    write_file_atomically(folder / FILE_NAME, canonical_json({"questions": rows}))


def read_questions(folder: Path) -> dict[str, StoredQuestion]:
    """Questions by sample id; none where the sweep was written without them. Raises DamagedError."""
    path = folder / FILE_NAME
    if not path.exists():
        return {}
    try:
        rows = json.loads(path.read_bytes())["questions"]
        return {
            row["sample_id"]: StoredQuestion(group_id=row["group_id"], right=row["right"], place=row["place"])
            for row in rows
        }
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedError(f"not a sweep's questions: {error}", place=str(path), hint="run the sweep again") from error
