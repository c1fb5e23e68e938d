"""`Sweep`: a set of cells over one or several tasks; planned, screened, run and reported from Python."""

from collections.abc import Callable
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Literal

from steercache.answers.costs import costs_here, known_costs
from steercache.answers.elsewhere import with_crew
from steercache.api.engines import EngineName, EngineOptions, Where, workers_for
from steercache.api.notebook import sweep_html
from steercache.api.progress import ProgressLike, reporting
from steercache.cells.options import ModeRequest
from steercache.cells.sweep import prepare_sweep, sweep_model
from steercache.core.errors import UsageError
from steercache.core.trials import NULL_KINDS, TRUST, ControlKind
from steercache.manifests.resolve import ResolvedSweep, resolve_sweep
from steercache.manifests.sweep import Race
from steercache.models.load import resolve_device
from steercache.models.spec import LoadedModel, TokenizerBundle
from steercache.queries.session import Session
from steercache.screening.for_grid import screening_for_grid
from steercache.screening.gradient_source import GradientSource
from steercache.screening.job import (
    ScreenedTask,
    corrected_by_pilot,
    model_without_weights,
    screen_task,
    sweep_job,
    tasks_of_sweep,
)
from steercache.screening.pilot import ScreenFirst, screen_first_of
from steercache.sweeps.finished_grid import ShortcutOptions
from steercache.sweeps.gain_maps import gain_maps as gain_maps
from steercache.sweeps.grid import GridOptions, GridResult, run_grid
from steercache.sweeps.plan import SweepPlan, plan_sweep
from steercache.sweeps.shortcuts_job import ComparedShortcuts, compare_sweep
from steercache.sweeps.together import INTERFERENCE_COLUMNS as INTERFERENCE_COLUMNS
from steercache.sweeps.together import interference_line as interference_line


class Sweep:
    """A sweep manifest over one cache: `plan`, `screen`, `run`.

    `device` and `dtype` say how its model is loaded; the model is loaded by the first method that needs it and kept.
    """

    def __init__(self, session: Session, resolved: ResolvedSweep, *, device: str = "auto", dtype: str = "auto") -> None:
        self._session = session
        self._resolved = resolved
        self._device = device
        self._dtype = dtype
        self._loaded: LoadedModel | None = None

    @property
    def name(self) -> str:
        """The manifest's name."""
        return self._resolved.sweep.name

    @property
    def root(self) -> Path:
        """The cache's folder."""
        return self._session.cache.root

    def __repr__(self) -> str:
        sweep = self._resolved.sweep
        tasks = ", ".join(f"{task.benchmark} {task.task or ''}".strip() for task in sweep.tasks)
        targets = ", ".join(map(str, sweep.targets))
        return f"<Sweep {sweep.name!r}: {tasks}; {len(sweep.strengths)} strengths, targets {targets}>"

    def _repr_html_(self) -> str:
        """What it asks for, and the gains of its newest stored run, for a notebook."""
        return sweep_html(self._session, self._resolved.sweep)

    def plan(
        self, *, nulls: int = 0, mode: ModeRequest = "auto", recalibrate: bool = False, progress: ProgressLike = None
    ) -> SweepPlan:
        """What running the sweep would compute, what is cached already, and how long each execution mode would take.

        With `nulls`, the time counts the searches for so many null directions of each vector.

        Costs are measured once per machine, model and dtype, and again with `recalibrate`. Vectors that the manifest asks to
        fit are fitted and saved.

        Raises:
            NotFoundError, UsageError, BudgetError: as `run`.
        """
        bundle = self._bundle()
        with reporting(progress) as show:
            job = prepare_sweep(self._session, model_without_weights(bundle), self._resolved, progress=show)
        cache = self._session.cache
        costs = None if recalibrate else known_costs(cache, bundle.spec, resolve_device(self._device))
        if costs is None:
            costs = costs_here(cache, self._model(), again=recalibrate)
        sweep = self._resolved.sweep
        options = GridOptions(race=sweep.race, screen_first=screen_first_of(sweep), nulls=nulls)
        return plan_sweep(job, costs, options, wanted=mode)

    def screen(
        self,
        *,
        pilot: int = 0,
        trust: float = TRUST,
        gradients: str | None = None,
        force: bool = False,
        progress: ProgressLike = None,
    ) -> list[ScreenedTask]:
        """Predict every cell from gradients of the answer margin, recorded once and cached; one result per task.

        With `pilot`, so many questions are answered exactly and the predictions are corrected by them. `trust` is the strength,
        in median norms of the steered rows, up to which a straight line is believed. `gradients` names the gradient run to use;
        `force` continues one under other numerics than it began with. The test split is not looked at.

        Raises:
            NotFoundError, UsageError: as `run`.
        """
        wanted = self._gradients(run=gradients, force=force)
        with reporting(progress) as show:
            job = sweep_job(self._session, self._resolved, wanted, progress=show)
            tasks = tasks_of_sweep(job)
            screened = [screen_task(self._session, task, wanted, trust=trust, progress=show) for task in tasks]
            if pilot:
                screened = [
                    corrected_by_pilot(job, questions, one, wanted, n=pilot, progress=show)
                    for questions, one in zip(job.tasks, screened, strict=True)
                ]
        return screened

    def run(
        self,
        *,
        nulls: int = 0,
        null_kinds: tuple[ControlKind, ...] = NULL_KINDS,
        race: bool | Race | None = None,
        tolerance: float | None = None,
        screen_first: int | None = None,
        pilot: int | None = None,
        by: Literal["margin", "accuracy"] | None = None,
        test: bool = True,
        damage: bool = True,
        panel: int = 0,
        mode: ModeRequest = "auto",
        recalibrate: bool = False,
        memory_mib: int | None = None,
        tokens_per_batch: int | None = None,
        engine: EngineName = "local",
        workers: int = 1,
        address: str | None = None,
        cpus_per_worker: float = 1.0,
        gpus_per_worker: float = 0.0,
        mixed_numerics: bool = False,
        progress: ProgressLike = None,
        on_note: Callable[[str], None] | None = None,
    ) -> GridResult:
        """Run every cell on the search split, choose one per vector, and ask the test split once for each.

        Safe to interrupt: answers are stored as they come and read from the cache the next time. `nulls` null directions per
        vector get the same search, so that the vector's gain can be ranked among theirs. `race` stops cells early that cannot
        win, and promises the best cell or one at most `tolerance` (a share of right answers) below it; `screen_first` runs only
        that many of the best predicted cells of each vector, after `pilot` exact questions. None: as the manifest says. `panel`
        questions of each unrelated task (the manifest's `panel`; without it, drawn scenes) show what the chosen cells do there.
        `mode` "auto" takes the quickest exact execution mode by costs measured on this machine (again with `recalibrate`).
        `workers` processes answer batches of questions side by side, on the `engine` "local" or "ray" (as in `Cache.build`);
        each loads the model itself, and the answers are the same. A worker whose numerics differ is left out with a note
        (`on_note`); with `mixed_numerics` it takes part, and the stored sweep records it.

        Raises:
            UsageError: a text model, a vector that does not fit the model, a layer that the model does not have.
            NotFoundError: a vector, run or file is missing. BudgetError: too many cells.
            PartlyFailedError: no question of a task can be encoded.
        """
        resolved = self._with(memory_mib=memory_mib, tokens_per_batch=tokens_per_batch, test=test)
        options = GridOptions(
            race=_race(resolved, race, tolerance),
            screen_first=_screen_first(resolved, k=screen_first, pilot=pilot, by=by),
            nulls=nulls,
            null_kinds=null_kinds,
            damage=damage,
            mode=mode,
            recalibrate=recalibrate,
        )
        where = Where(
            engine=EngineOptions(
                name=engine,
                workers=workers,
                address=address,
                cpus_per_worker=cpus_per_worker,
                gpus_per_worker=gpus_per_worker,
            ),
            mixed_numerics=mixed_numerics,
            on_note=on_note or (lambda note: None),
        )
        found, loaded = sweep_model(resolved, self.root), self._model()
        with (
            reporting(progress) as show,
            workers_for(loaded, found, self.root, where, device=self._device, dtype=self._dtype) as crew,
        ):
            job = prepare_sweep(self._session, loaded, resolved, panel=panel, progress=show)
            job = replace(job, grid=replace(job.grid, options=with_crew(job.grid.options, crew)))
            return run_grid(job, options, screening=screening_for_grid(progress=show), progress=show)

    def report(self, path: str | PathLike[str] | None = None) -> Path:
        """Write one self-contained HTML page about the newest stored run of this sweep, its tasks side by side.

        Raises:
            NotFoundError: it was not run.
        """
        from steercache.api.reporting import write_report

        return write_report(self._session, self.name, None if path is None else Path(path)).path

    def compare_shortcuts(
        self,
        options: ShortcutOptions | None = None,
        *,
        gradients: str | None = None,
        force: bool = False,
        progress: ProgressLike = None,
    ) -> tuple[ComparedShortcuts, ...]:
        """What replaces the grid search: every way of choosing a cell, tried on the answers of this sweep, run exhaustively.

        One result per task and vector, kept with the sweep (table `searches`). `gradients` and `force` as in `screen`.

        Raises:
            UsageError: answers are missing: the sweep was not run, or raced.
        """
        wanted = self._gradients(run=gradients, force=force)
        with reporting(progress) as show:
            job = sweep_job(self._session, self._resolved, wanted, progress=show)
            return compare_sweep(job, wanted, options or ShortcutOptions(), progress=show)

    def _gradients(self, *, run: str | None, force: bool) -> GradientSource:
        return GradientSource(bundle=self._bundle(), load=self._model, device=self._device, run=run, force=force)

    def _bundle(self) -> TokenizerBundle:
        return sweep_model(self._resolved, self.root).bundle(self.root, dtype=self._dtype)

    def _model(self) -> LoadedModel:
        if self._loaded is None:
            found = sweep_model(self._resolved, self.root)
            self._loaded = found.load(self.root, device=self._device, dtype=self._dtype)
        return self._loaded

    def _with(self, *, memory_mib: int | None, tokens_per_batch: int | None, test: bool) -> ResolvedSweep:
        given = {"memory_mib": memory_mib, "tokens_per_batch": tokens_per_batch}
        changes: dict[str, object] = {name: value for name, value in given.items() if value is not None}
        if not test:
            changes["splits"] = ("search",)
        return replace(self._resolved, sweep=self._resolved.sweep.model_copy(update=changes))


def open_sweep(session: Session, sweep: str | Path, *, device: str = "auto", dtype: str = "auto") -> Sweep:
    """The sweep of a manifest, by name or file. Raises NotFoundError, ManifestError."""
    return Sweep(session, resolve_sweep(sweep, search=(Path(),)), device=device, dtype=dtype)


def _race(resolved: ResolvedSweep, wanted: bool | Race | None, tolerance: float | None) -> Race | None:
    rules = wanted if isinstance(wanted, Race) else resolved.sweep.race
    if wanted is False or (wanted is None and rules is None):
        return None
    rules = rules or Race()
    return rules if tolerance is None else rules.model_copy(update={"tolerance": tolerance})


def _screen_first(
    resolved: ResolvedSweep, *, k: int | None, pilot: int | None, by: Literal["margin", "accuracy"] | None
) -> ScreenFirst | None:
    given = {"k": k, "pilot": pilot, "by": by}
    changes = {name: value for name, value in given.items() if value is not None}
    written = screen_first_of(resolved.sweep)
    if written is not None:
        return replace(written, **changes)  # type: ignore[arg-type]
    if k is None:
        if changes:
            raise UsageError("`pilot` and `by` apply to screened cells only", hint="give `screen_first`, such as 12")
        return None
    return ScreenFirst(**changes)  # type: ignore[arg-type]
