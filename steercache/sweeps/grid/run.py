"""`steercache grid`: a sweep run exactly. Every cell over the search split, or a race among them; the chosen one over the test
split, once, after an entry in the ledger. Every answer is kept as it comes, and none that the cache has is computed again.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from steercache.answers.batches import Runner
from steercache.answers.costs import MachineCosts, ModeChoice, costs_here
from steercache.answers.damage import damage_of, neutral_inputs
from steercache.answers.mode import ModeChooser
from steercache.answers.row_norms import with_target_norms
from steercache.answers.store import Key, SweepWriter, stored_answers
from steercache.benchmarks.questions import save_questions
from steercache.benchmarks.task import Part, Progress
from steercache.cells.arms import Arm, ArmCell, ModeRequest
from steercache.cells.controls import ControlKind
from steercache.cells.sweep import SweepJob, TaskQuestions, stored_manifest
from steercache.core.damage import Damage
from steercache.core.errors import UsageError
from steercache.core.trials import Answer, Choice, ChoiceRule
from steercache.manifests.sweep import Race
from steercache.screening.pilot import Pilot, ScreenedCells, ScreenFirst
from steercache.sweeps.choices import best_setting, choice_of
from steercache.sweeps.evaluation.ledger import looks_of, record_look
from steercache.sweeps.evaluation.nulls import NULL_KINDS
from steercache.sweeps.grid.nulls import NullSearch, search_nulls
from steercache.sweeps.grid.race import RaceSummary, race_cells
from steercache.sweeps.record import SweepRecord
from steercache.sweeps.result import SweepResult, record_of, result_of, status_of
from steercache.sweeps.table import SweepTable, adjust_together, sweep_table

Choices = Mapping[str, ArmCell]
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
        """What is asked of a screening: before a race the cells that may win it are those predicted to have most right."""
        first = self.screen_first
        return first if first is None or first.by or self.race is None else replace(first, by="accuracy")


@dataclass(frozen=True, slots=True, kw_only=True)
class GridResult:
    """A sweep that was run, task by task."""

    sweep: str
    model: str
    tasks: tuple[SweepResult, ...]
    seconds: float


@dataclass(slots=True, kw_only=True)
class _Run:
    """One task while it runs."""

    job: SweepJob
    task: TaskQuestions
    sweep_id: str
    runner: Runner
    open_to: Mapping[str, tuple[ArmCell, ...]]
    chosen: Choices = field(default_factory=dict)
    pilot: Pilot | None = None
    first: Choices = field(default_factory=dict)  # the best predicted setting of each arm, after a screening
    answers: dict[Part, dict[Key, Answer]] = field(default_factory=dict)
    races: dict[str, RaceSummary] = field(default_factory=dict)
    dropped: frozenset[str] = frozenset()
    chooser: ModeChooser | None = None
    modes: dict[str, ModeChoice] = field(default_factory=dict)
    nulls: dict[str, SweepRecord] = field(default_factory=dict)  # by the id of the vector that they belong to
    family: tuple[str, ...] = ()
    damage: Mapping[str, Damage] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    n_computed_nulls: int = 0

    @property
    def baseline_id(self) -> str:
        return self.job.grid.baseline.cell.cell_id

    @property
    def arms(self) -> tuple[Arm, ...]:
        return self.job.grid.arms

    def choose(self, split: Part, settings: Sequence[ArmCell]) -> None:
        """How the runner gets answers to these settings over a split; without a chooser it branches."""
        if self.chooser is not None:
            self.modes[split] = self.chooser.choose(self.runner, self.task.asked[split], settings, split)


def run_grid(
    job: SweepJob,
    options: GridOptions = GridOptions(),
    *,
    screening: Screening | None = None,
    progress: Progress | None = None,
) -> GridResult:
    """Run every task of a sweep. Killed anywhere, it goes on at the same call with what was written.

    `screening` is what `screen_first` asks.

    Raises:
        BudgetError: one cell over a batch does not fit into the memory budget; BusyError: another process runs this sweep;
        UsageError: a target that hits nothing in a prompt, or cells are to be screened without a screening.
    """
    started = time.monotonic()
    cache = job.session.cache
    costs = None if options.mode is None else costs_here(cache, job.loaded, again=options.recalibrate)
    search = NullSearch(
        count=options.nulls, kinds=options.null_kinds, how=options.how, race=options.race, progress=progress
    )
    first = options.screening
    if first is not None:
        search = replace(search, screening=lambda job, task: _screened(job, task, first, screening))
    runs = []
    for task in job.tasks:
        in_norms = with_target_norms(job, task, load=lambda: job.loaded)
        picked = None if first is None else _screened(in_norms, task, first, screening)
        runs.append(_run_task(in_norms, task, options, picked, costs=costs, search=search))
    return GridResult(
        sweep=job.sweep.name,
        model=job.loaded.spec.name,
        tasks=_results(runs),
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
    costs: MachineCosts | None,
    search: NullSearch,
) -> _Run:
    cache, grid, progress = job.session.cache, job.grid, search.progress
    name = f"{job.sweep.name}: {task.name}"
    writer = SweepWriter(cache=cache, name=name, manifest=stored_manifest(job, task, options.how))
    open_to, first = dict(grid.settings), {}
    if picked is not None:
        first = {arm: some[0] for arm, some in picked.settings.items()}
        ids = {s.cell.cell_id for some in picked.settings.values() for s in some}
        open_to = {arm: tuple(s for s in some if s.cell.cell_id in ids) for arm, some in open_to.items()}
    with writer.held():
        n_cells = sum(map(len, open_to.values()))
        asked_for = [grid.baseline.cell.cell_id, *(s.cell.cell_id for some in open_to.values() for s in some)]
        runner = Runner(
            loaded=job.loaded,
            options=grid.options,
            writer=writer,
            known=stored_answers(cache, asked_for),
            progress=None if progress is None else _under(f"{task.name}: answers", progress),
            planned=len(task.asked["search"]) * (1 + n_cells) + len(task.asked.get("test", ())) * (1 + len(grid.arms)),
        )
        run = _Run(
            job=job,
            task=task,
            sweep_id=writer.sweep_id,
            runner=runner,
            open_to=open_to,
            first=first,
            pilot=None if picked is None else picked.pilot,
        )
        if costs is not None and options.mode is not None:
            run.chooser = ModeChooser(cache=cache, costs=costs, folder=writer.folder, wanted=options.mode)
        chosen = _search(run, options)
        writer.choose(_choices(run, chosen))
        if "test" in task.asked:
            _test(run, chosen)
        save_questions(writer.folder, task.asked)
        writer.save(status=status_of(run.answers))
    if options.nulls:
        _place_among_nulls(run, chosen, search)
    if options.damage:
        cells = [s.branch_cell(s.cell.cell_id, job.loaded.spec.hidden_size) for s in chosen.values()]
        inputs = neutral_inputs(job.loaded, tokens_per_batch=grid.options.tokens_per_batch)
        run.damage = damage_of(job.loaded, cells, inputs, memory_mib=grid.options.memory_mib)
    run.chosen = chosen
    return run


def _choices(run: _Run, chosen: Choices) -> list[Choice]:
    """What the baseline and every vector took, to be stored."""
    found = [choice_of(run.job.grid.baseline, rule="single", n_cells=1)]
    for arm in run.arms:
        setting, race = chosen[arm.name], run.races.get(arm.name)
        details: dict[str, object] = {"family": list(run.family)} if run.family else {}
        if race is not None:
            dropped = [s.cell.cell_id for s in run.open_to[arm.name] if s.cell.cell_id in run.dropped]
            details |= {"race": {**asdict(race), "dropped": dropped}}
        if setting.cell.vector_id in run.nulls:
            details["nulls"] = run.nulls[setting.cell.vector_id].sweep_id
        found.append(
            choice_of(
                setting,
                rule=_rule(run, raced=race is not None),
                n_cells=len(run.open_to[arm.name]),
                lineage=run.job.lineages.get(setting.cell.vector_id or ""),
                damage=run.damage.get(setting.cell.cell_id),
                details=details,
            )
        )
    return found


def _rule(run: _Run, *, raced: bool) -> ChoiceRule:
    if run.first:
        return "screening and race" if raced else "screening"
    return "race" if raced else "exhaustive"


def _place_among_nulls(run: _Run, chosen: Choices, search: NullSearch) -> None:
    """What every vector chose, among what its nulls chose by the same search."""
    search = replace(search, chooser=run.chooser)
    for setting in chosen.values():
        found = search_nulls(run.job, run.task, setting, search)
        if found.record is not None:
            run.nulls[setting.cell.vector_id or ""] = found.record
        run.notes += found.notes
        run.n_computed_nulls += found.n_computed


def _under(label: str, progress: Progress) -> Progress:
    return lambda _, done, total: progress(label, done, total)


def _search(run: _Run, options: GridOptions) -> Choices:
    """Answer the search split, and choose a cell for every vector."""
    asked, baseline = run.task.asked["search"], run.job.grid.baseline
    if options.race is None:
        cells = [baseline, *(s for some in run.open_to.values() for s in some)]
        run.choose("search", cells)
        run.answers["search"] = run.runner.run(asked, cells)
        return {name: best_setting(some, asked, run.answers["search"]) for name, some in run.open_to.items()}
    answers = run.answers["search"] = {}
    every = {s.cell.cell_id: s.cell for some in ((baseline,), *run.open_to.values()) for s in some}
    run.runner.writer.ask_for(every)
    run.choose("search", [baseline, *(s for some in run.open_to.values() for s in some)])
    chosen = {}
    for i, (name, some) in enumerate(run.open_to.items()):
        beside = () if i else (baseline,)
        raced = race_cells(
            run.runner, asked, some, options.race, seed=run.job.sweep.seed, beside=beside, first=run.first.get(name)
        )
        answers.update(raced.answers)
        if not i:  # what the race left unread: the baseline's share is of the whole split
            rest = [one for one in asked if (run.baseline_id, one.sample_id) not in answers]
            answers.update(run.runner.run(rest, [baseline]))
        chosen[name] = raced.best
        run.races[name], run.dropped = raced.summary, run.dropped | raced.dropped
    return chosen


def _test(run: _Run, chosen: Choices) -> None:
    """Answer the test split with the chosen cells only; the look goes into the ledger first, once per sweep."""
    asked, bench = run.task.asked["test"], run.task.benchmark
    settings = [run.job.grid.baseline, *chosen.values()]
    run.choose("test", settings)  # before the look: what cannot be done is not one
    record_look(
        run.job.root,
        dataset=bench.name,
        task=run.task.task,
        rule=bench.rule,
        split="test",
        subject=run.sweep_id,
        n=len(asked),
        once=True,
    )
    run.answers["test"] = run.runner.run(asked, settings)


def _results(runs: Sequence[_Run]) -> tuple[SweepResult, ...]:
    """The tables of all tasks; p values are adjusted for all vectors and tasks of the sweep, and that is stored."""
    records = []
    for run in runs:
        run.family = tuple(one.sweep_id for one in runs)
        choices = _choices(run, run.chosen)
        run.runner.writer.choose(choices)
        records.append(
            record_of(
                run.runner.writer,
                status=status_of(run.answers),
                asked=run.task.asked,
                answers=run.answers,
                choices=choices,
                n_looks=looks_of(run.job.root, run.sweep_id) if "test" in run.answers else None,
                nulls=run.nulls,
            )
        )
    tables = adjust_together([sweep_table(record) for record in records])
    return tuple(_result(run, table) for run, table in zip(runs, tables, strict=True))


def _result(run: _Run, table: SweepTable) -> SweepResult:
    pilot = run.pilot
    return result_of(
        table,
        run.runner,
        modes=run.modes,
        notes=run.notes,
        n_screened_out=len(run.job.grid.cells) - sum(map(len, run.open_to.values())),
        pilot=(0, 0, 0) if pilot is None else (pilot.n_samples, pilot.n_answers, pilot.n_computed),
        n_computed_nulls=run.n_computed_nulls,
    )
