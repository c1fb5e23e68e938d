"""What a sweep will take, before anything is computed: answers that are wanted, those that the cache has, and time by each way.

Read from manifests, questions and the cache; the model's weights are not needed once its costs here are known.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from steercache.answers.costs import MachineCosts, ModeChoice, choose_mode, gradients_s, predict_seconds
from steercache.answers.kl_strengths import kl_strengths_s
from steercache.answers.lengths import AnswerLengths, known_lengths
from steercache.answers.mode import begun_in, rows_for
from steercache.answers.option_tokens import margins_wanted
from steercache.answers.store import stored_answers
from steercache.answers.units import in_units
from steercache.answers.work import work_of
from steercache.benchmarks.task import EncodedQuestion, Part
from steercache.cache.sweeps import sweep_id_of
from steercache.cells.arms import ArmCell
from steercache.cells.options import ModeRequest
from steercache.cells.sweep import SweepJob, TaskQuestions, stored_manifest
from steercache.core.trials import Mode
from steercache.screening.gradient_plan import find_run, plan_gradients
from steercache.screening.pilot import pilot_size
from steercache.screening.predict import by_place, wish_of
from steercache.sweeps.grid import GridOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPlan:
    """One task: questions and cells by split, and how each would be answered. `read_s` is how long it took to read what the
    cache has. On the test split one cell per vector is answered: the slowest is counted, as it is not chosen yet."""

    name: str
    sweep_id: str
    n_samples: Mapping[str, int]
    n_cells: Mapping[str, int]
    read_s: float
    modes: Mapping[str, ModeChoice]


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPlan:
    """A sweep before it runs. `parts` are seconds: "answers" adds up the modes chosen, "nulls" are the searches for null
    directions, "gradients" and "pilot" what a screening needs and the cache lacks, "strengths" those at a given KL; `seconds`
    is their sum. `at_most`: a race will run fewer cells."""

    sweep: str
    model: str
    n_vectors: int
    tasks: tuple[TaskPlan, ...]
    seconds: float
    parts: Mapping[str, float]
    at_most: bool


def plan_sweep(job: SweepJob, costs: MachineCosts, options: GridOptions, *, wanted: ModeRequest = "auto") -> SweepPlan:
    """Count and predict; nothing is run. Damage, a few forward passes for each cell chosen, comes on top.

    Raises:
        UsageError: a way is wanted that cannot be taken.
    """
    tasks = tuple(_plan_task(job.of_task(task), task, costs, options, wanted) for task in job.tasks)
    chosen = [mode for task in tasks for mode in task.modes.values() if mode.mode != "read"]
    parts = {"answers": sum(mode.seconds[mode.mode] for mode in chosen)} | _beside(job, costs, options)
    return SweepPlan(
        sweep=job.sweep.name,
        model=job.loaded.spec.name,
        n_vectors=len(job.grid.arms),
        tasks=tasks,
        seconds=sum(parts.values()),
        parts=parts,
        at_most=options.race is not None,
    )


def _plan_task(
    job: SweepJob, task: TaskQuestions, costs: MachineCosts, options: GridOptions, wanted: ModeRequest
) -> TaskPlan:
    job = in_units(job, task)  # where they are not measured yet, nothing is answered yet
    cache, grid = job.session.cache, job.grid
    manifest = stored_manifest(job, task, options.how)
    sweep_id = sweep_id_of(f"{job.sweep.name}: {task.name}", manifest)
    open_to: dict[Part, Sequence[ArmCell]] = {"search": [grid.baseline, *_cells_to_run(job, options)]}
    if "test" in task.asked:
        dearest = [min(grid.settings[arm.name], key=lambda s: s.cell.layer or 0) for arm in grid.arms]
        open_to["test"] = [grid.baseline, *dearest]
    wanted_margins = margins_wanted([one for some in task.asked.values() for one in some], job.loaded.tokenizer)
    started = time.perf_counter()
    known = stored_answers(cache, [s.cell.cell_id for s in open_to["search"]], margins=wanted_margins)
    read_s = time.perf_counter() - started
    begun = begun_in(cache.paths.sweep(sweep_id))
    modes = {}
    for split, settings in open_to.items():
        work = work_of(
            task.asked[split], settings, known, loaded=job.loaded, options=grid.options, lengths=_lengths(job, task)
        )
        rows, why = rows_for(cache, job.loaded, task.asked[split], settings, work)
        barred: dict[Mode, str] = {"replay": why} if rows is None and work.n_to_compute else {}
        modes[split] = choose_mode(work, predict_seconds(costs, work), barred, wanted=wanted, begun=begun.get(split))
    return TaskPlan(
        name=task.name,
        sweep_id=sweep_id,
        n_samples={str(split): len(task.asked[split]) for split in open_to},
        n_cells={str(split): len(settings) for split, settings in open_to.items()},
        read_s=read_s,
        modes={str(split): mode for split, mode in modes.items()},
    )


def _cells_to_run(job: SweepJob, options: GridOptions) -> list[ArmCell]:
    """Cells that the search split will be asked in: all, or of every vector as many as a screening keeps; these are not known
    yet, so the dearest are counted (a race among them stops some early)."""
    first = options.screening
    if first is None:
        return list(job.grid.cells)
    dearest = (sorted(some, key=lambda s: s.cell.layer or 0) for some in job.grid.settings.values())
    return [setting for some in dearest for setting in some[: first.k]]


def _beside(job: SweepJob, costs: MachineCosts, options: GridOptions) -> dict[str, float]:
    """Seconds of what comes beside a grid's own answers, over all tasks."""
    parts = {"nulls": 0.0, "gradients": 0.0, "pilot": 0.0}
    if "kl" in job.grid.options.axes.units:
        parts["strengths"] = kl_strengths_s(costs, job, n_nulls=options.nulls)
    for task in job.tasks:
        ready = in_units(job.of_task(task), task)
        if options.nulls:
            parts["nulls"] += options.nulls * _quickest(ready, task, _cells_to_run(ready, options), costs)
        first = options.screening
        if first is None:
            continue
        parts["gradients"] += _gradients(ready, task, costs)
        asked = task.asked["search"][: pilot_size(len(task.asked["search"]), first.pilot)]
        plain = [s for s in ready.grid.cells if not s.arm.parts]
        places = by_place(plain).values()
        ends = [plain[at] for some in places for at in {some[0], some[-1]}]  # a pilot runs at most two a place
        parts["pilot"] += _quickest(ready, task, ends, costs, asked=asked)
    return parts


def _quickest(
    job: SweepJob,
    task: TaskQuestions,
    settings: Sequence[ArmCell],
    costs: MachineCosts,
    *,
    asked: Sequence[EncodedQuestion] | None = None,
) -> float:
    """Seconds of answering these cells over the search split with nothing known, by branching or in full."""
    some = task.asked["search"] if asked is None else asked
    lengths = _lengths(job, task)
    work = work_of(some, settings, (), loaded=job.loaded, options=job.grid.options, lengths=lengths)
    seconds = predict_seconds(costs, work)
    return min(seconds["branch"], seconds["full"])


def _lengths(job: SweepJob, task: TaskQuestions) -> dict[str, AnswerLengths]:
    """How long the answers of earlier jobs were, by kind."""
    kinds = sorted({one.kind for some in task.asked.values() for one in some})
    return known_lengths(job.session.cache.paths, job.loaded.spec, job.grid.options, kinds)


def _gradients(job: SweepJob, task: TaskQuestions, costs: MachineCosts) -> float:
    """Seconds of recording the gradients that a screening needs; 0 where the cache has them."""
    bundle, asked = job.loaded.bundle, task.asked["search"]
    plain = [s for s in job.grid.cells if not s.arm.parts]
    if not plain:
        return 0.0
    plan = plan_gradients(bundle, asked, wish_of(task.benchmark.name, plain), numerics={})
    if find_run(job.session.cache, plan) is not None:
        return 0.0
    n_options = max(len(sample.options) for sample in plan.samples)
    work = work_of(asked, [job.grid.baseline], (), loaded=job.loaded, options=job.grid.options)
    return sum(gradients_s(costs, batch, n_options) for batch in work.batches)
