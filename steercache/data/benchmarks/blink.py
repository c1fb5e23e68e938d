"""BLINK: one config per subtask, up to four pictures a question; only `val`, since the answers of `test` are hidden."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

from steercache.core.excerpts import excerpt
from steercache.data.benchmarks.columns import PICTURE
from steercache.data.benchmarks.questions import BenchmarkQuestion, FailedRow, Row, letter_index, letter_of
from steercache.data.benchmarks.source import BenchmarkFiles, HubPart, picture_failure, table_rows
from steercache.data.benchmarks.tables import StoredPicture, TableRow

SUBTASKS: Final = (
    "Art_Style",
    "Counting",
    "Forensic_Detection",
    "Functional_Correspondence",
    "IQ_Test",
    "Jigsaw",
    "Multi-view_Reasoning",
    "Object_Localization",
    "Relative_Depth",
    "Relative_Reflectance",
    "Semantic_Correspondence",
    "Spatial_Relation",
    "Visual_Correspondence",
    "Visual_Similarity",
)
IMAGES: Final = ("image_1", "image_2", "image_3", "image_4")
COLUMNS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "idx": "text",
        "question": "text",
        "sub_task": "text",
        **dict.fromkeys(IMAGES, PICTURE),
        "choices": "list of texts",
        "answer": "text",
        "prompt": "text",
        "explanation": "text",
    }
)


def read_blink(source: BenchmarkFiles, subtask: str) -> Iterator[Row]:
    """Rows of one subtask's `val`.

    Raises:
        NotFoundError, ManifestError: as `table_rows`.
    """
    part = HubPart(
        hub_id="BLINK-Benchmark/BLINK",
        config=subtask,
        split="val",
        files=(f"{subtask}/val-*.parquet", f"{subtask}/val*.parquet"),
    )
    for row in table_rows(source, [part], COLUMNS):
        yield _question(row, subtask)


def _question(row: TableRow, subtask: str) -> Row:
    labels = row.labels
    missing = [name for name in ("question", "choices", "answer", "prompt") if not labels[name]]
    if missing:
        return FailedRow(place=row.place, kind="missing_value", message=f"empty: {', '.join(missing)}", task=subtask)
    if labels["answer"].strip().lower() == "hidden":
        message = "the answer is hidden: these rows are the test split"
        return FailedRow(place=row.place, kind="hidden_answer", message=message, task=subtask)
    choices = tuple(labels["choices"])
    right = letter_index(labels["answer"], len(choices))
    if right is None or None in choices:
        message = f"the answer {excerpt(labels['answer'])} is no letter of the {len(choices)} choices"
        return FailedRow(place=row.place, kind="bad_answer", message=message, task=subtask)
    pictures = _pictures(row)
    first = pictures[0]
    gap = next((name for name, p in zip(IMAGES, pictures[:-1], strict=False) if _is_null(p)), None)
    if gap is not None:  # asked without it, the question would be about other pictures
        message = f"{gap} is missing, and {IMAGES[len(pictures) - 1]} is there"
        return FailedRow(place=row.place, kind="missing_image", message=message, task=subtask)
    failed = picture_failure(pictures, row.place, subtask)
    if failed or first.digest is None:
        return failed or FailedRow(place=row.place, kind="missing_image", message="no picture", task=subtask)
    return BenchmarkQuestion(
        place=row.place,
        kind="choice",
        task=subtask,
        question=labels["question"],
        prompt=labels["prompt"].strip(),
        choices=choices,
        answer=letter_of(right),
        group_id=first.digest,
        images=tuple(p.image for p in pictures if p.image is not None),
        meta={"idx": labels["idx"], "sub_task": labels["sub_task"]},
    )


def _pictures(row: TableRow) -> list[StoredPicture]:
    """The pictures of a row, up to the last one that it has: nulls after it are none."""
    cells = [picture for name in IMAGES for picture in row.pictures[name]]
    while len(cells) > 1 and _is_null(cells[-1]):  # the last columns are null where the subtask has fewer pictures
        cells.pop()
    return cells


def _is_null(picture: StoredPicture) -> bool:
    return picture.problem is not None and picture.problem[1] == "the picture is missing"
