"""`steercache grid`: a sweep run exactly. Every cell over the search split, or a race among them; the chosen one over the test
split, once, after an entry in the ledger. Every answer is kept as it comes, and none that the cache has is computed again.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from steercache.answers.costs import costs_here
from steercache.answers.store import SweepWriter
from steercache.answers.units import in_units
from steercache.benchmarks.task import Progress
from steercache.cells.combinations import notes_on_order
from steercache.cells.options import ModeRequest
from steercache.cells.sweep import SweepJob, TaskQuestions, stored_manifest
from steercache.core.errors import UsageError
from steercache.core.trials import NULL_KINDS, ControlKind
from steercache.manifests.sweep import Race
from steercache.screening.pilot import Pilot, ScreenedCells, ScreenFirst
from steercache.sweeps.engine import Looked, PlannedSweep, SweepRun, mode_chooser, run_sweep
from steercache.sweeps.nulls import NullSearch, search_nulls
from steercache.sweeps.record import SweepRecord
from steercache.sweeps.result import SweepResult, result_of
from steercache.sweeps.side_effects import Panel, side_effects_of
from steercache.sweeps.table import SweepTable
from steercache.sweeps.tabulate import adjust_together, sweep_table

# the so many best predicted settings of every vector (by its arm's name), best first
Screening = Callable[[SweepJob, TaskQuestions, ScreenFirst], ScreenedCells]


@dataclass(frozen=True, slots=True, kw_only=True)
class GridOptions:
    """How a sweep is run: with `race` its cells are raced, with `screen_first` only the best predicted ones of each vector are
    run, and the best predicted one is the race's first reference.

    `nulls`: how many null directions of `null_kinds` get the same search, per vector. `damage`: measure what the chosen cells
    do to unrelated prompts. `mode` says how answers are computed; "auto" takes the quickest way that is exact by costs measured
    here (again with `recalibrate`), None branches unasked.
    """

    race: Race | None = None
    screen_first: ScreenFirst | None = None
    nulls: int = 0
    null_kinds: tuple[ControlKind, ...] = NULL_KINDS
    damage: bool = True
    mode: ModeRequest | None = None
    recalibrate: bool = False

    @property
    def how(self) -> dict[str, object]:
        """What of this decides which cell sees which sample, for the sweep's identity."""
        return {
            "race": None if self.race is None else self.race.model_dump(mode="json"),
            "screen_first": None if self.screen_first is None else asdict(self.screen_first),
        }

    @property
    def screening(self) -> ScreenFirst | None:
        """The screening rule; before a race, cells are ranked by predicted accuracy instead of margin."""
        first = self.screen_first
        return first if first is None or first.by or self.race is None else replace(first, by="accuracy")


@dataclass(frozen=True, slots=True, kw_only=True)
class GridResult:
    """A sweep that was run, task by task."""

    sweep: str
    model: str
    tasks: tuple[SweepResult, ...]
    seconds: float

    def _repr_html_(self) -> str:
        """The tables of its tasks, for a notebook."""
        return "".join(task._repr_html_() for task in self.tasks)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """One task that was run, what its null directions took, by the id of the vector that they belong to, and side effects of
    the cells it chose, by arm."""

    job: SweepJob
    task: TaskQuestions
    run: SweepRun
    pilot: Pilot | None
    nulls: Mapping[str, SweepRecord]
    panel: Mapping[str, list[dict[str, Any]]]
    notes: tuple[str, ...]
    n_computed_nulls: int


def run_grid(
    job: SweepJob,
    options: GridOptions = GridOptions(),
    *,
    screening: Screening | None = None,
    progress: Progress | None = None,
) -> GridResult:
    """Run every task of a sweep. An interrupted call is resumed by the same call.

    `screening` is what `screen_first` asks.

    Raises:
        BudgetError: one cell over a batch does not fit into the memory budget; BusyError: another process runs this sweep;
        UsageError: a target that hits nothing in a prompt, or cells are to be screened without a screening.
    """
    started = time.monotonic()
    cache = job.session.cache
    costs = None if options.mode is None else costs_here(cache, job.loaded, again=options.recalibrate)
    search = NullSearch(
        count=options.nulls,
        kinds=options.null_kinds,
        how=options.how,
        choosing=mode_chooser(costs, options.mode),
        race=options.race,
        progress=progress,
    )
    first = options.screening
    if first is not None:
        search = replace(search, screening=lambda job, task: _screened(job, task, first, screening))
    done = []
    for task in job.tasks:
        in_norms = in_units(job.of_task(task), task, load=lambda: job.loaded)
        picked = None if first is None else _screened(in_norms, task, first, screening)
        done.append(_run_task(in_norms, task, options, picked, search=search))
    return GridResult(
        sweep=job.sweep.name,
        model=job.loaded.spec.name,
        tasks=_results(done),
        seconds=time.monotonic() - started,
    )


def _screened(job: SweepJob, task: TaskQuestions, first: ScreenFirst, screening: Screening | None) -> ScreenedCells:
    """What a screening picks of the task's cells."""
    if screening is None:
        raise UsageError("cells are to be screened, and there is nothing to screen them with", hint="run all of them")
    return screening(job, task, first)


def _run_task(
    job: SweepJob,
    task: TaskQuestions,
    options: GridOptions,
    picked: ScreenedCells | None,
    *,
    search: NullSearch,
) -> _Task:
    grid, open_to, first = job.grid, dict(job.grid.settings), {}
    if picked is not None:
        first, open_to = picked.best, picked.in_order(grid.settings)
    bench = task.benchmark
    plan = PlannedSweep(
        loaded=job.loaded,
        options=grid.options,
        looked=Looked(dataset=bench.name, rule=bench.rule, task=task.task),
        asked=task.asked,
        baseline=grid.baseline,
        settings=open_to,
        lineages=job.lineages,
        race=options.race,
        first=first,
        screened=picked is not None,
        seed=job.sweep.seed,
        damage=options.damage,
    )
    name, progress = f"{job.sweep.name}: {task.name}", search.progress
    writer = SweepWriter(cache=job.session.cache, name=name, manifest=stored_manifest(job, task, options.how))
    run = run_sweep(
        plan,
        writer,
        choosing=search.choosing,
        root=job.root,
        progress=None if progress is None else _under(f"{task.name}: answers", progress),
    )
    steering = {name: setting for name, setting in run.chosen.items() if setting.arm.steers}
    panel = Panel(
        name=job.sweep.name,
        of=task.name,
        tasks=job.panel,
        manifests=tuple(stored_manifest(job, other, options.how) for other in job.panel),
        cache=job.session.cache,
        loaded=job.loaded,
        options=grid.options,
        baseline=grid.baseline,
        lineages=job.lineages,
        seed=job.sweep.seed,
        choosing=search.choosing,
        root=job.root,
    )
    found = []
    if options.nulls:
        found = [search_nulls(job, task, setting, search) for setting in run.chosen.values()]
    winners = [setting.arm.vector_id or "" for setting in run.chosen.values()]
    return _Task(
        job=job,
        task=task,
        run=run,
        pilot=None if picked is None else picked.pilot,
        nulls={v: one.record for v, one in zip(winners, found, strict=False) if one.record is not None},
        panel=side_effects_of(panel, steering, progress=progress),
        notes=(*notes_on_order(grid.arms), *(line for one in found for line in one.notes)),
        n_computed_nulls=sum(one.n_computed for one in found),
    )


def _under(label: str, progress: Progress) -> Progress:
    return lambda _, done, total: progress(label, done, total)


def _results(tasks: Sequence[_Task]) -> tuple[SweepResult, ...]:
    """The tables of all tasks; p values are adjusted for all vectors and tasks of the sweep, and that is stored."""
    family = [one.run.sweep_id for one in tasks]
    records = [one.run.store(one.job.root, _details(one, family), one.nulls) for one in tasks]
    tables = adjust_together([sweep_table(record) for record in records])
    return tuple(_result(one, table) for one, table in zip(tasks, tables, strict=True))


def _details(done: _Task, family: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What is stored of every vector beside what it took: the tasks it is adjusted with, its nulls' sweep, its side effects."""
    details: dict[str, dict[str, Any]] = {}
    for name, setting in done.run.chosen.items():
        nulls = done.nulls.get(setting.arm.vector_id or "")
        panel = done.panel.get(name)
        details[name] = {
            "family": list(family),
            **({} if nulls is None else {"nulls": nulls.sweep_id}),
            **({"panel": panel} if panel else {}),
        }
    return details


def _result(done: _Task, table: SweepTable) -> SweepResult:
    pilot, run = done.pilot, done.run
    return result_of(
        table,
        run.runner,
        modes=run.modes,
        notes=done.notes,
        n_screened_out=len(done.job.grid.cells) - sum(map(len, run.plan.settings.values())),
        pilot=(0, 0, 0) if pilot is None else (pilot.n_samples, pilot.n_answers, pilot.n_computed),
        n_computed_nulls=done.n_computed_nulls,
    )
