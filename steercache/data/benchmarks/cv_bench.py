"""CV-Bench (2D: Count, Relation; 3D: Depth, Distance), and any set in its schema, such as `scenes`.

Columns as on the hub (`nyu-visionx/CV-Bench`). Pictures are drawn anew for every question (boxes are painted in), so
questions about one photograph are known by `source` and `source_filename`; where those are empty, by the picture's bytes.
"""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from steercache.core.excerpts import excerpt
from steercache.data.benchmarks.columns import PICTURE
from steercache.data.benchmarks.questions import AnswerForm, BenchmarkQuestion, FailedRow, Row, letter_index, letter_of
from steercache.data.benchmarks.source import BenchmarkFiles, HubPart, picture_failure, table_rows
from steercache.data.benchmarks.tables import TableRow

COLUMNS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "idx": "integer",
        "type": "text",
        "task": "text",
        "image": PICTURE,
        "question": "text",
        "choices": "list of texts",
        "answer": "text",
        "prompt": "text",
        "filename": "text",
        "source": "text",
    }
)
OPTIONAL: Final = ("source_dataset", "source_filename", "group_id")

CV_BENCH: Final = tuple(
    HubPart(
        hub_id="nyu-visionx/CV-Bench",
        config=name.upper(),
        split="test",
        files=(f"test_{name}.parquet", f"data/test_{name}*.parquet"),
    )
    for name in ("2d", "3d")
)


def read_cv_bench(source: BenchmarkFiles, parts: Sequence[HubPart], *, form: AnswerForm = "letter") -> Iterator[Row]:
    """Rows of the parts in order; `form` "number" asks counts without choices, "word" does too and asks all else by the word.

    Raises:
        NotFoundError, ManifestError: as `table_rows`.
    """
    for row in table_rows(source, parts, COLUMNS, optional=OPTIONAL):
        yield ask(row, form)


def ask(row: TableRow, form: AnswerForm) -> Row:
    """One row of the schema as a question, or why it is none."""
    labels = row.labels
    task = labels["task"]
    missing = [name for name in ("task", "question", "choices", "answer", "prompt") if not labels[name]]
    if missing:
        return FailedRow(place=row.place, kind="missing_value", message=f"empty: {', '.join(missing)}", task=task)
    choices = tuple(labels["choices"])
    right = letter_index(labels["answer"], len(choices))
    if right is None or None in choices:
        message = f"the answer {excerpt(labels['answer'])} is no letter of the {len(choices)} choices"
        return FailedRow(place=row.place, kind="bad_answer", message=message, task=task)
    (picture,) = row.pictures["image"]
    failed = picture_failure([picture], row.place, task)
    if failed or picture.image is None or picture.digest is None:
        return failed or FailedRow(place=row.place, kind="missing_image", message="no picture", task=task)
    as_number = form != "letter" and task == "Count"
    as_word = form == "word" and not as_number
    if as_number and not choices[right].strip().isdecimal():
        message = f"the right choice {excerpt(choices[right])} is no number"
        return FailedRow(place=row.place, kind="bad_answer", message=message, task=task)
    return BenchmarkQuestion(
        place=row.place,
        kind="count" if as_number else "text" if as_word else "choice",
        task=task,
        question=labels["question"],
        prompt=labels["question"] if as_number else labels["prompt"],
        choices=() if as_number else choices,
        answer=choices[right].strip() if as_number or as_word else letter_of(right),
        group_id=_group(labels, picture.digest),
        images=(picture.image,),
        meta={name: labels[name] for name in ("idx", "type", "filename", "source") if labels[name] is not None},
    )


def _group(labels: Mapping[str, Any], digest: str) -> str:
    if labels.get("group_id"):
        return str(labels["group_id"])
    if labels.get("source_filename"):
        return f"{labels.get('source') or ''}/{labels['source_filename']}"
    return digest
