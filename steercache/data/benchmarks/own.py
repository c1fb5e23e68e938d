"""A user's own questions as a benchmark: one JSONL, CSV or Parquet file, about pictures or about text alone."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from steercache.core.errors import ManifestError, NotFoundError, Problem, UsageError
from steercache.core.excerpts import excerpt
from steercache.core.ids import SHORT_ID, digest
from steercache.data.benchmarks.examples import as_example, with_counts
from steercache.data.benchmarks.own_rows import OwnTable, cell_text, choices_of, pictures_of, read_table
from steercache.data.benchmarks.questions import (
    AnswerForm,
    Benchmark,
    BenchmarkQuestion,
    FailedRow,
    Row,
    letter_index,
    letter_of,
)
from steercache.data.benchmarks.splits import SplitPlan, grouped_split
from steercache.manifests.fields import QUESTION_FILES

HALF: Final = SplitPlan(n_test=2**62)  # half of every task
SPLITS: Final = ("search", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class _OwnRow:
    """A row as read, the split that its file names, and the digest of its content."""

    row: Row
    split: str | None
    digest: str


def is_own_file(name: str) -> bool:
    """Whether the name of a benchmark is a file of the user's own questions."""
    return name.lower().endswith(QUESTION_FILES)


def open_own(
    path: Path,
    folder: Path | None = None,
    *,
    task: str | None = None,
    rule: str = "grouped",
    form: AnswerForm = "letter",
    limit: int | None = None,
) -> Benchmark:
    """Open a file of questions; pictures named by path lie in `folder`, by default the file's own.

    Columns: `question` and `answer`, and any of `choices`, `image`, `group`, `task`, `split`. With choices, the answer is the
    text of one or its letter, and the model is asked for the letter (`form` "word": for its text; "number": for its number).
    Without, a whole number is a count and all else a word. Questions of one `group` are in one split; without that column,
    those about the same picture or of the same text. A column `split` ("search", "test") decides instead.

    The set's name is the file's with a digest of its content (questions, choices, answers, pictures, groups, tasks, splits;
    not their order or the file's format), so that the ledger tells two versions of a file apart.

    Raises:
        NotFoundError: no such file, or no row of the task; ManifestError: no question or answer column, or a group in both
        splits; UsageError: another split rule than "grouped".
    """
    if not path.is_file():
        hint = "give a .jsonl, .csv or .parquet file with the columns question and answer"
        raise NotFoundError("there is no such file of questions", place=str(path), hint=hint)
    if rule != "grouped":
        hint = "leave the rule out; a column `split` in the file decides which question is in which part"
        raise UsageError("the published splits exist for published benchmarks only", place=str(path), hint=hint)
    if limit is not None and limit < 1:
        raise UsageError("a limit must be positive", hint="leave the limit out")
    read = _rows(read_table(path), path, folder or path.absolute().parent, form)
    if not read:
        raise NotFoundError("the file has no question", place=str(path))
    stem = re.sub(r"[^a-z0-9._-]+", "-", path.stem.lower()).strip("-._")[:60] or "questions"
    name = f"{stem}-{digest(sorted(one.digest for one in read))[:SHORT_ID]}"
    _check_groups(read, path)
    splits = _splits(read)
    kept = [
        (one.row, split)
        for one, split in list(zip(read, splits, strict=True))[:limit]
        if task is None or one.row.task in (None, task)
    ]
    if not any(isinstance(row, BenchmarkQuestion) for row, _ in kept) and task is not None:
        tasks = sorted({one.row.task for one in read if one.row.task is not None})
        raise NotFoundError(f"{path.name} has no question of task {task!r}", hint=f"tasks: {', '.join(tasks)}")
    examples = [as_example(name, row, split) for row, split in kept if isinstance(row, BenchmarkQuestion)]
    failures = tuple(row for row, _ in kept if isinstance(row, FailedRow))
    return Benchmark(name=name, rule=rule, examples=with_counts(examples), failures=failures)


def _rows(table: OwnTable, path: Path, folder: Path, form: AnswerForm) -> list[_OwnRow]:
    with_pictures = "image" in table.has and any(
        not isinstance(row, Problem) and row.values["image"] not in (None, "", []) for row in table.rows
    )
    found = []
    for row in table.rows:
        if isinstance(row, Problem):
            place = f"{path.name}:{row.line}" if row.line else path.name
            failed = FailedRow(place=place, kind=row.kind, message=row.message)
            found.append(_OwnRow(row=failed, split=None, digest=digest({"failed": [row.kind, row.message]})))
            continue
        values = dict(row.values)
        if not with_pictures:
            values.pop("image", None)
        found.append(_row(values, row.place, path, folder, form))
    return found


def _row(values: Mapping[str, Any], place: str, path: Path, folder: Path, form: AnswerForm) -> _OwnRow:
    """One row; the digest of a row that cannot be asked is of what is wrong with it."""
    task = cell_text(values.get("task")) or path.stem
    split = cell_text(values.get("split")) or None

    def failed(kind: str, message: str) -> _OwnRow:
        row = FailedRow(place=place, kind=kind, message=message, task=task, split=split if split in SPLITS else None)
        return _OwnRow(row=row, split=None, digest=digest({"failed": [kind, message]}))

    question, answer = cell_text(values.get("question")), cell_text(values.get("answer"))
    choices, group = choices_of(values.get("choices")), cell_text(values.get("group"))
    if not question or not answer:
        missing = [name for name, text in (("question", question), ("answer", answer)) if not text]
        return failed("missing_value", f"empty, or neither text nor a whole number: {', '.join(missing)}")
    if choices is None or (choices and len(choices) < 2):
        return failed("bad_choices", "choices must be a list of at least two texts (in CSV: a JSON list, or a | b | c)")
    if len({choice.casefold() for choice in choices}) < len(choices):
        return failed("bad_choices", "two choices are the same")
    if split is not None and split not in SPLITS:
        return failed("bad_split", f"split must be search or test, not {excerpt(split)}")
    if group is None:
        return failed("bad_group", "group must be text or a whole number")
    try:
        right = _right(answer, choices)
    except ValueError as error:
        return failed("bad_answer", str(error))
    images, digests, problem = pictures_of(values["image"], folder, place) if "image" in values else ([], [], None)
    if problem is not None:
        return failed("missing_image" if "missing" in problem else "broken_image", problem)
    content: dict[str, Any] = {"question": question, "choices": choices, "answer": answer, "images": digests}
    content |= {"group": group, "task": task if "task" in values else "", "split": split}
    kind, prompt, shown, wanted = _asked(question, choices, right, answer, form)
    asked = BenchmarkQuestion(
        place=place,
        kind=kind,  # type: ignore[arg-type]
        task=task,
        question=question,
        prompt=prompt,
        choices=shown,
        answer=wanted,
        group_id=group or (digests[0] if digests else digest(question)),
        images=tuple(images),
    )
    return _OwnRow(row=asked, split=split, digest=digest(content))


def _right(answer: str, choices: Sequence[str]) -> int | None:
    """Which choice is right, by its text or its letter; None without choices. Raises ValueError."""
    if not choices:
        return None
    by_text = [i for i, choice in enumerate(choices) if choice.casefold() == answer.casefold()]
    by_letter = letter_index(answer, len(choices))
    if by_text and by_letter is not None and by_letter != by_text[0]:
        raise ValueError(f"the answer {excerpt(answer)} is the text of one choice and the letter of another")
    if by_text or by_letter is not None:
        return by_text[0] if by_text else by_letter
    raise ValueError(
        f"the answer {excerpt(answer)} is neither the text nor the letter of one of the {len(choices)} choices"
    )


def _asked(
    question: str, choices: tuple[str, ...], right: int | None, answer: str, form: AnswerForm
) -> tuple[str, str, tuple[str, ...], str]:
    """Kind, words, choices and right answer of a question in the form wanted."""
    if right is None:
        if answer.isdecimal() and answer.isascii():
            return "count", question, (), str(int(answer))
        return "text", question, (), answer
    options = "\n".join(f"({letter_of(i)}) {choice}" for i, choice in enumerate(choices))
    prompt = f"{question} Select from the following choices.\n{options}"
    if form != "letter" and choices[right].isdecimal() and choices[right].isascii():
        return "count", question, (), str(int(choices[right]))
    if form == "word":
        return "text", prompt, choices, choices[right]
    return "choice", prompt, choices, letter_of(right)


def _check_groups(read: Sequence[_OwnRow], path: Path) -> None:
    """Refuse a group in both of the splits that the file names: what is searched would be what is tested."""
    of_group: dict[str, set[str]] = {}
    for one in read:
        if isinstance(one.row, BenchmarkQuestion) and one.split is not None:
            of_group.setdefault(one.row.group_id, set()).add(one.split)
    both = sorted(group for group, splits in of_group.items() if len(splits) > 1)
    if both:
        problems = [
            Problem(loc="group", kind="group_in_both_splits", message=f"group {excerpt(group)}") for group in both[:20]
        ]
        hint = "move each group, picture or text to one split, or leave the column split out"
        message = f"{len(both)} group(s) of questions are in both splits"
        raise ManifestError(message, problems=problems, place=path.name, hint=hint)


def _splits(read: Sequence[_OwnRow]) -> list[str | None]:
    """The split of every row: as the file says, and for rows that it says nothing of, half and half by group."""
    given: dict[str, str] = {
        one.row.group_id: one.split for one in read if isinstance(one.row, BenchmarkQuestion) and one.split is not None
    }
    free = [one.row for one in read if isinstance(one.row, BenchmarkQuestion) and one.row.group_id not in given]
    drawn = grouped_split([row.group_id for row in free], HALF, tasks=[row.task for row in free])
    split_of = {row.group_id: str(split) for row, split in zip(free, drawn, strict=True)} | given
    return [split_of[one.row.group_id] if isinstance(one.row, BenchmarkQuestion) else one.row.split for one in read]
