"""CLEVR counting (hub), and CLEVR and Super-CLEVR as published: questions in JSON beside a folder of pictures."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from steercache.core.errors import NotFoundError
from steercache.core.excerpts import excerpt
from steercache.data.benchmarks.columns import PICTURES
from steercache.data.benchmarks.questions import AnswerKind, BenchmarkQuestion, FailedRow, Row
from steercache.data.benchmarks.source import (
    BenchmarkFiles,
    HubPart,
    find_files,
    json_rows,
    picture_failure,
    table_rows,
)
from steercache.data.benchmarks.tables import TableRow, picture_in_folder

COUNT_COLUMNS: Final[Mapping[str, str]] = MappingProxyType(
    {"images": PICTURES, "problem": "text", "answer": "integer or text"}
)
KEYS: Final = ("image_filename", "question", "answer")
MAX_DIGITS: Final = 9
IMAGE_TAG: Final = "<image>"  # stands for the picture in `problem`; where it goes is the model family's matter


def read_clevr_count(source: BenchmarkFiles, split: str) -> Iterator[Row]:
    """Rows of one split of `BUAADreamer/clevr_count_70k`.

    Raises:
        NotFoundError, ManifestError: as `table_rows`.
    """
    part = HubPart(
        hub_id="BUAADreamer/clevr_count_70k",
        split=split,
        files=(f"data/{split}-*.parquet", f"{split}-*.parquet", f"{split}.parquet"),
    )
    for row in table_rows(source, [part], COUNT_COLUMNS):
        yield _count(row)


def _count(row: TableRow) -> Row:
    problem, answer = row.labels["problem"], row.labels["answer"]
    pictures = row.pictures["images"]
    if not problem or answer is None:
        missing = [name for name in ("problem", "answer") if row.labels[name] in (None, "")]
        return FailedRow(place=row.place, kind="missing_value", message=f"empty: {', '.join(missing)}", task="Count")
    number = str(answer).strip()
    if not is_count(number):
        return FailedRow(place=row.place, kind="bad_answer", message=f"{excerpt(number)} is no count", task="Count")
    if len(pictures) != 1:
        message = f"one picture was expected, the row has {len(pictures)}"
        return FailedRow(place=row.place, kind="missing_image", message=message, task="Count")
    failed = picture_failure(pictures, row.place, "Count")
    picture = pictures[0]
    if failed or picture.image is None or picture.digest is None:
        return failed or FailedRow(place=row.place, kind="missing_image", message="no picture", task="Count")
    question = problem.replace(IMAGE_TAG, " ").strip()
    return BenchmarkQuestion(
        place=row.place,
        kind="count",
        task="Count",
        question=question,
        prompt=question,
        choices=(),
        answer=str(int(number)),
        group_id=picture.digest,
        images=(picture.image,),
    )


def read_clevr_json(source: BenchmarkFiles, questions: tuple[str, ...], images: tuple[str, ...]) -> Iterator[Row]:
    """Rows of a CLEVR question file; `images` are the folders that may hold the pictures.

    Raises:
        NotFoundError: no folder was given, or it has no such file; ManifestError: the JSON is not CLEVR's.
    """
    if source.folder is None:
        raise NotFoundError(
            "this set is not on the hub in its published layout", hint="download it and give its folder"
        )
    file = find_files(source.folder, questions)[0]
    rows = json_rows(file, KEYS, under="questions")
    home = next((name for name in images if (source.folder / name).is_dir()), images[0])
    for i, row in enumerate(rows[: source.limit]):
        yield _clevr(source.folder, home, row, f"{file.name}:{i + 1}")


def _clevr(folder: Path, home: str, row: Any, place: str) -> Row:
    if not isinstance(row, dict):
        return FailedRow(place=place, kind="wrong_type", message="the row is no object", task=None)
    missing = [key for key in KEYS if row.get(key) in (None, "")]
    if missing:
        return FailedRow(place=place, kind="missing_value", message=f"empty: {', '.join(missing)}", task=None)
    name, question = row["image_filename"], row["question"]
    if not isinstance(name, str) or not isinstance(question, str) or not isinstance(row["answer"], str | int | bool):
        message = "image_filename and question must be texts, the answer a text, a number or a truth value"
        return FailedRow(place=place, kind="wrong_type", message=message, task=None)
    answer, kind, task, choices = _answer(row["answer"])
    picture = picture_in_folder(folder, f"{home}/{name}")
    failed = picture_failure([picture], place, task)
    if failed or picture.image is None:
        return failed or FailedRow(place=place, kind="missing_image", message="no picture", task=task)
    return BenchmarkQuestion(
        place=place,
        kind=kind,
        task=task,
        question=question,
        prompt=question,
        choices=choices,
        answer=answer,
        group_id=name,
        images=(picture.image,),
        meta={"filename": name},
    )


def is_count(text: str) -> bool:
    """Whether an answer is a whole number, of no more digits than a count can have."""
    return text.isdecimal() and len(text) <= MAX_DIGITS


def _answer(value: str | int | bool) -> tuple[str, AnswerKind, str, tuple[str, ...]]:
    """Answer, kind, task and choices by the answer's form (Super-CLEVR writes numbers and truth values bare)."""
    if isinstance(value, bool):
        value = "yes" if value else "no"
    text = str(value).strip().lower()
    if is_count(text):
        return str(int(text)), "count", "Count", ()
    if text in ("yes", "no", "true", "false"):
        return {"true": "yes", "false": "no"}.get(text, text), "text", "YesNo", ("yes", "no")
    return text, "text", "Attribute", ()
