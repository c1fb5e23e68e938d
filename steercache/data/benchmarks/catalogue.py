"""The sets by name, and the one way to open them."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from steercache.core.errors import NotFoundError, UsageError
from steercache.data.benchmarks.blink import SUBTASKS, read_blink
from steercache.data.benchmarks.clevr import read_clevr_count, read_clevr_json
from steercache.data.benchmarks.cv_bench import CV_BENCH, read_cv_bench
from steercache.data.benchmarks.drawn import HARD, PER_TASK, drawn_rows
from steercache.data.benchmarks.examples import as_example, under_instruction, with_counts
from steercache.data.benchmarks.own import is_own_file, open_own
from steercache.data.benchmarks.pictures import decode_problem
from steercache.data.benchmarks.questions import AnswerForm, Benchmark, BenchmarkQuestion, FailedRow, Row
from steercache.data.benchmarks.source import BenchmarkFiles, HubPart
from steercache.data.benchmarks.splits import SplitPlan, check_rule, grouped_split, paper_split
from steercache.data.benchmarks.whatsup import TASK as WHATSUP_TASK
from steercache.data.benchmarks.whatsup import read_whatsup
from steercache.data.scenes import EASY, TASKS, Difficulty, Task

Read = Callable[[BenchmarkFiles, str | None, AnswerForm], Iterable[Row]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkSpec:
    """One set: its tasks (the first is the default where a task must be named), split sizes, and how its rows are read."""

    name: str
    summary: str
    tasks: tuple[str, ...]
    plan: SplitPlan
    read: Read
    needs_task: bool = False


def _cv_bench(parts: Sequence[HubPart]) -> Read:
    return lambda source, task, form: read_cv_bench(source, parts, form=form)


def _scenes(
    *, shifted: bool = False, difficulty: Difficulty | Mapping[Task, Difficulty] = EASY, per_task: int = PER_TASK
) -> Read:
    """Without a folder the pictures are drawn, at first use."""

    def read(source: BenchmarkFiles, task: str | None, form: AnswerForm) -> Iterable[Row]:
        if source.folder is None:
            return drawn_rows(
                task, form=form, shifted=shifted, difficulty=difficulty, limit=source.limit, per_task=per_task
            )
        files = ("test_*.parquet", "*.parquet", "**/*.parquet")
        return read_cv_bench(source, [HubPart(hub_id="", split="test", files=files)], form=form)

    return read


_CLEVR_TASKS: Final = ("Count", "YesNo", "Attribute")
_CV_PLAN: Final = SplitPlan(n_test=150)
_PLAN: Final = SplitPlan(n_search=100)

_SPECS: Final = (
    BenchmarkSpec(
        name="cv-bench",
        summary="CV-Bench, 2D and 3D",
        tasks=("Relation", "Count", "Depth", "Distance"),
        plan=_CV_PLAN,
        read=_cv_bench(CV_BENCH),
    ),
    BenchmarkSpec(
        name="cv-bench-2d",
        summary="CV-Bench, 2D: relation and count",
        tasks=("Relation", "Count"),
        plan=_CV_PLAN,
        read=_cv_bench(CV_BENCH[:1]),
    ),
    BenchmarkSpec(
        name="cv-bench-3d",
        summary="CV-Bench, 3D: depth and distance",
        tasks=("Depth", "Distance"),
        plan=_CV_PLAN,
        read=_cv_bench(CV_BENCH[1:]),
    ),
    BenchmarkSpec(
        name="scenes",
        summary="drawn scenes in CV-Bench's schema; no download",
        tasks=TASKS,
        plan=_CV_PLAN,
        read=_scenes(),
    ),
    BenchmarkSpec(
        name="scenes-hard",
        summary="harder scenes, 1,000 a task: *demo* lies between chance and ceiling in every one",
        tasks=TASKS,
        plan=SplitPlan(n_test=500),
        read=_scenes(difficulty=HARD, per_task=1000),
    ),
    BenchmarkSpec(
        name="scenes-shifted",
        summary="the same questions, other outlines and palettes: out of distribution",
        tasks=TASKS,
        plan=_CV_PLAN,
        read=_scenes(shifted=True),
    ),
    BenchmarkSpec(
        name="whatsup-a",
        summary="What'sUp A: on, under, left, right",
        tasks=(WHATSUP_TASK,),
        plan=_PLAN,
        read=lambda source, task, form: read_whatsup(source, "a"),
    ),
    BenchmarkSpec(
        name="whatsup-b",
        summary="What'sUp B: in front, behind, left, right",
        tasks=(WHATSUP_TASK,),
        plan=_PLAN,
        read=lambda source, task, form: read_whatsup(source, "b"),
    ),
    BenchmarkSpec(
        name="blink",
        summary="BLINK, validation rows of one subtask",
        tasks=("Spatial_Relation", *(t for t in SUBTASKS if t != "Spatial_Relation")),
        plan=_PLAN,
        read=lambda source, task, form: read_blink(source, task or "Spatial_Relation"),
        needs_task=True,
    ),
    BenchmarkSpec(
        name="clevr-count",
        summary="CLEVR counting, the 200 test rows",
        tasks=("Count",),
        plan=_PLAN,
        read=lambda source, task, form: read_clevr_count(source, "test"),
    ),
    BenchmarkSpec(
        name="clevr-count-train",
        summary="CLEVR counting, the 70,000 training rows",
        tasks=("Count",),
        plan=_PLAN,
        read=lambda source, task, form: read_clevr_count(source, "train"),
    ),
    BenchmarkSpec(
        name="clevr",
        summary="CLEVR v1.0 validation questions, from their folder",
        tasks=_CLEVR_TASKS,
        plan=_PLAN,
        read=lambda source, task, form: read_clevr_json(
            source,
            ("questions/CLEVR_val_questions.json", "CLEVR_val_questions.json", "questions/*_questions.json"),
            ("images/val", "images"),
        ),
    ),
    BenchmarkSpec(
        name="super-clevr",
        summary="Super-CLEVR questions, from their folder",
        tasks=_CLEVR_TASKS,
        plan=_PLAN,
        read=lambda source, task, form: read_clevr_json(
            source, ("superCLEVR_questions_30k.json", "questions/superCLEVR_questions_30k.json"), ("images",)
        ),
    ),
)
BENCHMARKS: Final[Mapping[str, BenchmarkSpec]] = MappingProxyType({spec.name: spec for spec in _SPECS})


def open_benchmark(
    name: str,
    folder: Path | None = None,
    *,
    task: str | None = None,
    rule: str = "grouped",
    form: AnswerForm = "letter",
    limit: int | None = None,
) -> Benchmark:
    """Open a set from a folder of the hub's layout, or from the hub (through `datasets`) when no folder is given.

    A `name` that ends in .jsonl, .csv or .parquet is a file of the user's own questions (`own.open_own`); its pictures lie in
    `folder`, by default beside the file.

    `task` keeps one task. The published split is drawn within each task, so tasks may share pictures across it. The grouped
    split is drawn over the whole set before a task is kept, so no picture is on both sides in any task (BLINK's subtasks
    are read and split one at a time). In sets of CV-Bench's schema, `form` "number" asks counts for the
    bare number, "word" asks all else for the choice's own word. `scenes` without a folder are drawn, and come from no hub;
    `scenes-level0.5` (0 to 1) or `scenes-objects0.5-size1` are harder ones.
    `limit` reads only the first rows, for the large sets; the published split is of whole sets, so it takes no limit.

    Raises:
        UsageError: an unknown set, task or rule; NotFoundError: nothing there to read; ManifestError: columns missing or of
        another type; DamagedError: a file that cannot be read; MissingExtraError: the hub without `datasets`.
    """
    checked = check_rule(rule)
    if is_own_file(name):
        return open_own(Path(name), folder, task=task, rule=checked, form=form, limit=limit)
    spec = find_benchmark(name)
    if task is not None and task not in spec.tasks:
        raise UsageError(f"{name} has no task {task!r}", hint=f"one of: {', '.join(spec.tasks)}")
    if limit is not None and (limit < 1 or checked == "paper"):
        raise UsageError("a limit must be positive, and goes with the grouped split only", hint="leave the limit out")
    if spec.needs_task and task is None:
        task = spec.tasks[0]
    rows = list(spec.read(BenchmarkFiles(folder=folder, limit=limit), task, form))
    # Before the task is chosen: a picture's side is the same whichever tasks are opened.
    splits = _paper(rows, spec.plan) if checked == "paper" else _grouped(rows, spec.plan)
    kept = [(row, split) for row, split in zip(rows, splits, strict=True) if _wanted(row, task)]
    if not kept:
        raise NotFoundError(f"{name} has no row of task {task!r} here", hint=f"tasks: {', '.join(spec.tasks)}")
    examples = [as_example(name, row, split) for row, split in kept if isinstance(row, BenchmarkQuestion)]
    failures = [replace(row, split=split) for row, split in kept if isinstance(row, FailedRow)]
    return Benchmark(name=name, rule=checked, examples=with_counts(examples), failures=tuple(failures))


def find_benchmark(name: str) -> BenchmarkSpec:
    """The set called `name`; `scenes-level0.5` and its like are made when they are named.

    Raises:
        UsageError: no such set; the message names those there are.
    """
    if (drawn := re.fullmatch(r"scenes(-shifted)?(-[a-z]+[0-9].*)", name)) is not None:
        difficulty, shifted = Difficulty.of_label(drawn[2]), drawn[1] is not None
        base = BENCHMARKS["scenes-shifted" if shifted else "scenes"]
        return replace(base, name=name, read=_scenes(shifted=shifted, difficulty=difficulty))
    if name not in BENCHMARKS:
        raise UsageError(
            f"unknown benchmark {name!r}",
            hint=f"one of: {', '.join(BENCHMARKS)}; scenes-level0.5 (0 to 1) for harder scenes; or a .jsonl, .csv or .parquet"
            " file of your own questions",
        )
    return BENCHMARKS[name]


def reworded(benchmark: Benchmark, instruction: str) -> Benchmark:
    """The same questions under another instruction, such as the prompting baseline's."""
    examples = tuple(
        replace(e, text=under_instruction(instruction, e.labels.meta["prompt"])) for e in benchmark.examples
    )
    return replace(benchmark, examples=examples)


def verified(benchmark: Benchmark) -> Benchmark:
    """The same with every picture decoded once: those that do not decode to the end are moved to the failures.

    Raises:
        MissingExtraError: Pillow is not installed.
    """
    good, bad = [], list(benchmark.failures)
    for example in benchmark.examples:
        problem = next((p for image in example.images if (p := decode_problem(image)) is not None), None)
        if problem is None:
            good.append(example)
            continue
        task = example.labels.meta["task"]
        failed = FailedRow(
            place=example.place, kind="broken_image", message=problem, task=task, split=example.labels.split
        )
        bad.append(failed)
    return replace(benchmark, examples=tuple(good), failures=tuple(bad))


def _wanted(row: Row, task: str | None) -> bool:
    """Rows whose task cannot be read stay, as failures, whatever task is asked for."""
    return task is None or row.task is None or row.task == task


def _paper(rows: Sequence[Row], plan: SplitPlan) -> list[str | None]:
    """The published split within each task; broken rows keep their places in the permutation."""
    splits: list[str | None] = [None] * len(rows)
    for task in {row.task for row in rows if row.task is not None}:
        places = [i for i, row in enumerate(rows) if row.task == task]
        for place, split in zip(places, paper_split(len(places), plan), strict=True):
            splits[place] = split
    return splits


def _grouped(rows: Sequence[Row], plan: SplitPlan) -> list[str | None]:
    """The split by picture over all tasks together; broken rows have no picture to be split by."""
    questions = [row for row in rows if isinstance(row, BenchmarkQuestion)]
    names = iter(grouped_split([q.group_id for q in questions], plan, tasks=[q.task for q in questions]))
    return [next(names) if isinstance(row, BenchmarkQuestion) else None for row in rows]
