"""A sweep before it runs: its model, its vectors, every cell that is tried, and the questions of every task.

The grid engine runs these cells, a screening predicts them: both begin here, so that they speak of the same cells.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from steercache.benchmarks.task import EncodedQuestion, Part, Progress, ask, check_can_ask, pick_rows
from steercache.cells.arms import Arm, ArmCell, settings_of
from steercache.cells.combinations import (
    check_combination,
    sweep_combinations,
    targets_of_parts,
    with_parts,
)
from steercache.cells.model import FoundModel, zoo_model
from steercache.cells.options import ComputeOptions, ControlOptions, DecodingOptions, EvalOptions, GridAxes
from steercache.cells.places import with_place
from steercache.cells.sweep_vectors import sweep_vectors, vector_arms
from steercache.cells.targets import refuse_empty, with_clauses
from steercache.cells.vectors import check_vector
from steercache.core.errors import BudgetError, PartlyFailedError, UsageError
from steercache.core.ids import digest
from steercache.core.vectors import SteeringVector
from steercache.data.benchmarks import open_benchmark
from steercache.data.benchmarks.own import is_own_file
from steercache.data.benchmarks.questions import Benchmark
from steercache.data.scenes import TASKS
from steercache.manifests.resolve import ResolvedSweep
from steercache.manifests.sweep import SweepManifest, SweepTask, ZooModel
from steercache.models.ends import answer_identity
from steercache.models.spec import LoadedModel
from steercache.queries.session import Session
from steercache.queries.token_clause import target_text
from steercache.zoo import in_place

PARTS: Final[tuple[Part, ...]] = ("search", "test")
MAX_CELLS: Final = 200_000  # more is a slip of the pen: the published grids have some hundreds


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepGrid:
    """Every cell of a sweep, the same for all its tasks (but `with_norms` and `SweepJob.of_task`). `settings` are those of each
    arm (a vector, or several together), by the arm's name, in order of preference among equals: strength aside, target and
    layer as the manifest has them."""

    options: EvalOptions
    baseline: ArmCell
    arms: tuple[Arm, ...]
    settings: Mapping[str, tuple[ArmCell, ...]] = field(repr=False)

    @property
    def cells(self) -> tuple[ArmCell, ...]:
        """The settings of all arms, arm after arm, without the baseline."""
        return tuple(setting for arm in self.arms for setting in self.settings[arm.name])

    def with_norms(self, loaded: LoadedModel, row_norms: Mapping[str, Sequence[float | None]]) -> "SweepGrid":
        """The same cells in the unit "target_norm" of one task, whose steered rows have these norms (`GridAxes`)."""
        return self.with_axes(loaded, replace(self.options.axes, row_norms=row_norms))

    def with_axes(self, loaded: LoadedModel, axes: GridAxes) -> "SweepGrid":
        """The same cells, whose axes know more of their unit."""
        options = replace(self.options, axes=axes)
        settings = {arm.name: settings_of(arm, loaded, options) for arm in self.arms}
        return replace(self, options=options, settings=settings)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskQuestions:
    """One task of a sweep with its questions by split, encoded under the plain wording; failed ones are among them.

    `vector_ids` are those of the sweep's vectors that are tried on it; None: all.
    """

    name: str
    wanted: SweepTask
    benchmark: Benchmark
    asked: Mapping[Part, tuple[EncodedQuestion, ...]] = field(repr=False)
    vector_ids: frozenset[str] | None = None

    @property
    def task(self) -> str | None:
        """The one task of the questions; None where there are several."""
        tasks = task_names(self.asked)
        return next(iter(tasks)) if len(tasks) == 1 else None


def task_names(asked: Mapping[Part, Sequence[EncodedQuestion]]) -> frozenset[str]:
    """Names of the tasks of the questions that could be encoded; "None" among them for questions without one."""
    encoded = (one for some in asked.values() for one in some if one.encoded is not None)
    return frozenset(str(one.labels.meta.get("task")) for one in encoded)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepJob:
    """A sweep ready to run: what it works on, its cells, and its questions. `lineages` has every vector's, by id.
    `panel` are questions of unrelated tasks, for the cells that are chosen."""

    session: Session
    loaded: LoadedModel = field(repr=False)
    sweep: SweepManifest
    grid: SweepGrid
    tasks: tuple[TaskQuestions, ...]
    lineages: Mapping[str, str]
    panel: tuple[TaskQuestions, ...] = ()

    @property
    def root(self) -> Path:
        """The cache's folder, where the ledger lies."""
        return self.session.cache.root

    def of_task(self, task: TaskQuestions) -> "SweepJob":
        """The job with the vectors that are tried on one task."""
        ids, grid = task.vector_ids, self.grid
        if ids is None:
            return self
        arms = tuple(arm for arm in grid.arms if all(one.vector_id in ids for one in arm.vectors))
        settings = {arm.name: grid.settings[arm.name] for arm in arms}
        kept = {arm.vector_id for arm in arms}
        lineages = {vector_id: lineage for vector_id, lineage in self.lineages.items() if vector_id in kept}
        return replace(self, grid=replace(grid, arms=arms, settings=settings), lineages=lineages)


def sweep_model(resolved: ResolvedSweep, root: Path) -> FoundModel:
    """The model of a sweep; one of the zoo's is built below `root` once. Raises as `settings_model.find_model`."""
    if resolved.model is not None:
        manifest = in_place(resolved.model.document, root)
        return FoundModel(manifest=manifest, base_dir=resolved.model.base_dir)
    assert isinstance(resolved.sweep.model, ZooModel)
    return zoo_model(resolved.sweep.model.zoo, root)


def prepare_sweep(
    session: Session,
    loaded: LoadedModel,
    resolved: ResolvedSweep,
    *,
    panel: int = 0,
    progress: Progress | None = None,
) -> SweepJob:
    """Find or fit the vectors, make the cells, and read the questions of every task, and `panel` of each unrelated one.

    Raises:
        UsageError: a text model, a vector that does not fit, a layer that the model lacks, no such benchmark or task;
        NotFoundError: a vector, run or file that is not there; BudgetError: too many cells; PartlyFailedError: none of a
        task's questions can be encoded.
    """
    sweep = resolved.sweep
    opened = [(task, _open(task, resolved.base_dir)) for task in sweep.tasks]  # cheap, and most often what is wrong
    for _, bench in opened:
        check_can_ask(bench, loaded.bundle, targets_of(sweep))
    vectors = sweep_vectors(session, sweep, base_dir=resolved.base_dir)
    grid = expand_sweep(sweep, loaded, vectors, session=session)
    together = tuple(arm for arm in grid.arms if arm.parts)
    for _, bench in opened:
        check_can_ask(bench, loaded.bundle, targets_of_parts(together))
    lineages: dict[str, str] = {}
    for arm in grid.arms:
        assert arm.vector_id is not None
        lineages[arm.vector_id] = (
            check_combination(session.cache, arm, loaded, grid.options)
            if arm.vector is None
            else check_vector(session.cache, arm.vector, loaded, grid.options)
        )
    every = {v.vector_id: v for v in (*vectors, *(one for arm in together for one in arm.vectors))}
    of_task = [_vectors_of(session, sweep, task, list(every.values())) for task, _ in opened]
    tasks = tuple(
        replace(_questions(task, bench, loaded, splits=sweep.splits, n=sweep.n, progress=progress), vector_ids=ids)
        for (task, bench), ids in zip(opened, of_task, strict=True)
    )
    for asked in tasks:
        samples = [one.encoded for some in asked.asked.values() for one in some if one.encoded is not None]
        refuse_empty(grid.options.axes.clauses, samples, tokenizer=loaded.bundle.tokenizer, name=asked.name)
    wanted = PanelRequest(
        n=panel,
        tasks=sweep.panel,
        asked=frozenset(name for one in tasks for name in task_names(one.asked)),
        targets=targets_of(sweep),
        base_dir=resolved.base_dir,
    )
    others = panel_of(wanted, loaded, progress)
    return SweepJob(
        session=session, loaded=loaded, sweep=sweep, grid=grid, tasks=tasks, lineages=lineages, panel=others
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelRequest:
    """`n` questions of each of `tasks`; without any, of the drawn scenes' tasks that are not among those `asked`. Files of
    questions are relative to `base_dir`. With `n` 0 nothing is asked."""

    n: int
    tasks: tuple[SweepTask, ...]
    asked: frozenset[str]
    targets: tuple[str, ...]
    base_dir: Path = Path()


def panel_of(wanted: PanelRequest, loaded: LoadedModel, progress: Progress | None) -> tuple[TaskQuestions, ...]:
    """Questions of the unrelated tasks, of their search splits: no look at a test split is spent.

    Raises:
        UsageError: no task is named, and there are no drawn scenes that are not asked already, or the model reads no pictures;
        NotFoundError: no such file or task.
    """
    if not wanted.n:
        return ()
    tasks = wanted.tasks
    if not tasks:
        if loaded.family.modality != "image":
            raise UsageError(
                "no unrelated questions for text models ship",
                hint="name files of your own questions: under `panel` in a sweep's manifest, as `panel_tasks` of an evaluation",
            )
        tasks = tuple(SweepTask(benchmark="scenes", task=task) for task in TASKS if task not in wanted.asked)
        if not tasks:
            raise UsageError(
                "every task of the drawn scenes is asked already: none is unrelated",
                hint="evaluate one task at a time, or name unrelated ones",
            )
    found = []
    for task in tasks:
        bench = _open(task, wanted.base_dir)
        check_can_ask(bench, loaded.bundle, wanted.targets)
        found.append(_questions(task, bench, loaded, splits=("search",), n=wanted.n, progress=progress))
    return tuple(found)


def _vectors_of(
    session: Session, sweep: SweepManifest, task: SweepTask, vectors: Sequence[SteeringVector]
) -> frozenset[str] | None:
    """Ids of the vectors that are tried on a task; None where the manifest leaves that open: all.

    Raises:
        UsageError: no vector of the sweep is of a concept that the task names.
    """
    if task.concepts is None and task.vectors is None:
        return None
    concepts = {v.concept for v in vectors if v.concept is not None}
    strange = sorted(set(task.concepts or ()) - concepts)
    if strange:
        raise UsageError(
            f"no vector of the sweep is of the concept {', '.join(strange)}",
            place=f"{sweep.name}: {task.benchmark} {task.task or ''}".strip(),
            hint=f"its vectors are of: {', '.join(sorted(concepts)) or 'no concept'}",
        )
    ids = {session.vector(name).vector_id for name in task.vectors or ()}
    return frozenset(ids | {v.vector_id for v in vectors if v.concept in (task.concepts or ())})


def expand_sweep(
    sweep: SweepManifest, loaded: LoadedModel, vectors: Sequence[SteeringVector], *, session: Session | None = None
) -> SweepGrid:
    """Every cell of a sweep for this model and these vectors; targets written as SQL and combinations need the session of their
    vectors.

    Raises:
        UsageError: a layer that the model lacks; BudgetError: more than `MAX_CELLS` cells; as
        `combinations.sweep_combinations`.
    """
    layers = sweep.resolve_layers(loaded.spec.n_layers)
    n_cells = len(vectors) * len(layers) * len(sweep.strengths) * len(sweep.targets)
    if n_cells > MAX_CELLS:
        raise BudgetError(
            f"{n_cells:,} cells; at most {MAX_CELLS:,} are run in one sweep",
            place=sweep.name,
            hint="fewer layers, alphas, targets or vectors, or several sweeps: they share their cells",
        )
    options = EvalOptions(
        axes=GridAxes(
            layers=layers,
            alphas=sweep.strengths or (1.0,),  # that of a combination
            targets=targets_of(sweep),
            alpha_unit=sweep.alpha_unit,
            operation=sweep.operation,
            place=sweep.place,
        ),
        decoding=DecodingOptions(max_new_tokens=sweep.decoding.max_new_tokens),
        compute=ComputeOptions(tokens_per_batch=sweep.tokens_per_batch, memory_mib=sweep.memory_mib),
        controls=ControlOptions(count=0),
        n=sweep.n,
        prompting="",
        seed=sweep.seed,
        allow_foreign=sweep.allow_foreign,
    )
    options = with_place(options, vectors if sweep.strengths else ())
    if session is not None:
        options = with_clauses(options, session)
    arms = vector_arms(tuple(vectors)) if sweep.strengths else ()
    if session is not None and sweep.combinations:
        together = sweep_combinations(session, sweep, vectors, taken=[arm.name for arm in arms])
        options, arms = with_parts(options, together), (*arms, *together)
    (baseline,) = settings_of(Arm(name="baseline", role="baseline"), loaded, options)
    settings = {arm.name: settings_of(arm, loaded, options) for arm in arms}
    return SweepGrid(options=options, baseline=baseline, arms=arms, settings=settings)


def targets_of(sweep: SweepManifest) -> tuple[str, ...]:
    """The targets of a sweep as text. Raises QueryError for SQL that is wrong or not allowed."""
    return tuple(one if isinstance(one, str) else target_text(one.where, one.weight) for one in sweep.targets)


def stored_manifest(job: SweepJob, task: TaskQuestions, how: Mapping[str, Any]) -> dict[str, Any]:
    """What one task of a sweep is, to be kept with its answers: enough to know it again, nothing of how fast it ran.

    `how` says which cells see which samples (race, screening). Other weights, prompts or vectors make another manifest, and so
    another sweep.
    """
    sweep, grid = job.sweep, job.grid
    together = {arm.name: [asdict(one.cell_part()) for one in arm.parts] for arm in grid.arms if arm.parts}
    return {
        "kind": "grid",
        "sweep": sweep.name,
        "model": answer_identity(job.loaded),
        "task": task.wanted.model_dump(mode="json", exclude={"folder", "concepts", "vectors"})
        | {"benchmark": task.benchmark.name},
        "samples": {split: digest([one.sample_id for one in some]) for split, some in task.asked.items()},
        "vectors": {arm.name: arm.vector.vector_id for arm in grid.arms if arm.vector is not None},
        "lineages": dict(job.lineages),
        "grid": grid.options.axes.manifest,
        "cells": digest(sorted(s.cell.cell_id for s in (grid.baseline, *grid.cells))),
        "decoding": grid.options.decoding.identity,
        "seed": sweep.seed,
        "how": dict(how),
        **({"combinations": together} if together else {}),
    }


def _open(task: SweepTask, base_dir: Path) -> Benchmark:
    folder = None if task.folder is None else base_dir / task.folder
    name = str(base_dir / task.benchmark) if is_own_file(task.benchmark) else task.benchmark
    return open_benchmark(name, folder, task=task.task, rule=task.rule, form=task.form)


def _questions(
    wanted: SweepTask,
    benchmark: Benchmark,
    loaded: LoadedModel,
    *,
    splits: Sequence[Part],
    n: int | None,
    progress: Progress | None,
) -> TaskQuestions:
    splits = [split for split in PARTS if split in splits]
    asked: dict[Part, tuple[EncodedQuestion, ...]] = {}
    name = f"{wanted.benchmark} {wanted.task or ''}".strip()
    for split in splits:
        rows = pick_rows(benchmark, split, n=n, orphans=splits[-1])
        asked[split] = ask(rows, loaded.bundle, split=split, progress=progress)
        if all(one.encoded is None for one in asked[split]):
            first = asked[split][0]
            raise PartlyFailedError(
                f"none of the {len(rows)} questions of {name} ({split}) can be asked; the first: {first.error}",
                place=first.place,
            )
    return TaskQuestions(name=name, wanted=wanted, benchmark=benchmark, asked=asked)
