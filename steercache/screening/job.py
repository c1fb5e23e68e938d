"""What is screened: a sweep, or a benchmark with vectors of the cache."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from steercache.answers.kl_strengths import kl_axes
from steercache.answers.row_norms import row_norms_of
from steercache.answers.ties import known_tie_nats, tie_nats_here
from steercache.answers.units import in_units
from steercache.benchmarks.task import EncodedQuestion, Progress, check_can_ask
from steercache.cache.vectors import list_vectors
from steercache.cells.arms import Arm, ArmCell, settings_of
from steercache.cells.model import FoundModel
from steercache.cells.options import EvalOptions, GridAxes
from steercache.cells.sweep import SweepJob, TaskQuestions, prepare_sweep
from steercache.cells.sweep_vectors import vector_arms
from steercache.cells.targets import with_clauses
from steercache.cells.vectors import check_vector
from steercache.core.drawing.heat import heat_map
from steercache.core.errors import SteercacheError, UsageError
from steercache.core.notebook import notebook_html, notebook_table
from steercache.core.trials import TRUST, AlphaUnit
from steercache.core.vectors import SteeringVector
from steercache.data.benchmarks.questions import Benchmark
from steercache.manifests.resolve import ResolvedSweep
from steercache.models.load import resolve_device
from steercache.models.spec import LoadedModel, TokenizerBundle
from steercache.queries.session import Session
from steercache.screening.baseline import answer_baseline, stored_baseline
from steercache.screening.gradient_plan import GradientRequest
from steercache.screening.gradient_source import GradientSource, ensure_gradients
from steercache.screening.gradient_store import StoredGradients
from steercache.screening.many import NullRank, ScreenedGrid, VectorGrid, rank_among_nulls, screen_grid
from steercache.screening.pilot import Pilot, run_pilot
from steercache.screening.predict import (
    By,
    Predicted,
    SampleEffect,
    predict_settings,
    sample_effects,
)
from steercache.screening.questions import name_of_task, search_questions
from steercache.steering.screen import answer_margins


@dataclass(frozen=True, slots=True, kw_only=True)
class ScreenedCombination:
    """Several vectors together, predicted as the sum of what each does to first order; without `predicted`, `reason` says why
    it cannot be."""

    name: str
    setting: str
    predicted: Predicted | None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScreenTask:
    """One set of questions, of the search split, and the grid that is tried on them; `baseline` is the unsteered cell of a grid
    or evaluation with these `options`, `together` are arms of several vectors each."""

    name: str
    benchmark: str
    asked: tuple[EncodedQuestion, ...] = field(repr=False)
    grid: VectorGrid
    baseline: ArmCell
    options: EvalOptions
    together: tuple[Arm, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ScreenedTask:
    """One task's predictions. `base_margin` is the mean answer margin without a vector; `n_left_out` questions have no
    options that their first tokens tell apart, or could not be asked: nothing is predicted of them. Without a `pilot`
    predictions are straight lines. `baseline` is the share of right unsteered answers that `grid` shows (None: not answered
    yet, the margins' own share stands for it); `n_near_ties` counts margins that another batch composition can turn round.
    `combinations` are several vectors together, which no pilot corrects."""

    name: str
    benchmark: str
    model: str
    gradients: StoredGradients = field(repr=False)
    n_samples: int
    n_left_out: int
    base_margin: float
    grid: ScreenedGrid
    pilot: Pilot | None = None
    baseline: float | None = None
    n_near_ties: int | None = None
    combinations: tuple[ScreenedCombination, ...] = ()

    @property
    def base_accuracy(self) -> float:
        """Share of right unsteered answers: as answered, otherwise by first-token margins."""
        return self.grid.base_accuracy if self.baseline is None else self.baseline

    def _repr_html_(self) -> str:
        """The best predicted cells, and the map of the best vector, for a notebook."""
        best, grid = self.grid.best(8), self.grid.grid
        facts: list[tuple[str, object]] = [
            ("model", self.model),
            ("cells", f"{self.grid.n_cells:,}"),
            ("questions", f"{self.n_samples:,}"),
            ("right unsteered", f"{self.base_accuracy:.3f}"),
            ("mean margin unsteered", f"{self.base_margin:+.3f}"),
        ]
        columns = ("vector", "layer", "alpha", "target", "change of margin", "accuracy", "beyond the limit")
        rows = [(r.vector, r.layer, r.alpha, r.target, r.shift, r.accuracy, "yes" if r.beyond else "no") for r in best]
        pictures = []
        if best and len(grid.layers) * len(grid.alphas) > 1:
            top = best[0]
            at = grid.targets.index(top.target), slice(None, None, -1), grid.names.index(top.vector)
            pictures.append(
                heat_map(
                    self.grid.shift[at].tolist(),
                    rows=[str(layer) for layer in reversed(grid.layers)],
                    columns=[f"{alpha:g}" for alpha in grid.alphas],
                    title=f"{top.vector}, {top.target}: predicted change of the margin",
                    x_title="alpha",
                    y_title="layer",
                    n_digits=2,
                )
            )
        name = f"Screening of {self.name}"
        return notebook_html(name, facts, pictures=pictures, tables=[notebook_table(columns, rows)])

    @property
    def run_id(self) -> str:
        """The gradient run that the predictions were made from."""
        return self.gradients.document.run_id


def model_without_weights(bundle: TokenizerBundle) -> LoadedModel:
    """A model whose weights are not in memory: for what asks only for names, sizes and encoding."""
    return LoadedModel(model=None, bundle=bundle)


def gradient_source(
    found: FoundModel, root: Path, *, device: str, dtype: str, run: str | None, force: bool
) -> GradientSource:
    """How gradients of a model may be had; its weights are read only if some have to be recorded."""
    load = partial(found.load, root, device=device, dtype=dtype)
    return GradientSource(bundle=found.bundle(root, dtype=dtype), load=load, device=device, run=run, force=force)


def sweep_job(
    session: Session, resolved: ResolvedSweep, wanted: GradientSource, *, progress: Progress | None = None
) -> SweepJob:
    """A sweep's cells and its search questions, without its model. Raises as `sweep.prepare_sweep`."""
    searched = replace(resolved, sweep=resolved.sweep.model_copy(update={"splits": ("search",)}))
    return prepare_sweep(session, model_without_weights(wanted.bundle), searched, progress=progress)


def tasks_of_sweep(job: SweepJob) -> tuple[ScreenTask, ...]:
    """Every task of a sweep, with all its cells."""
    options = job.grid.options
    return tuple(
        ScreenTask(
            name=task.name,
            benchmark=task.benchmark.name,
            asked=task.asked["search"],
            grid=_grid([arm for arm in job.of_task(task).grid.arms if not arm.parts], options.axes),
            baseline=job.grid.baseline,
            options=options,
            together=tuple(arm for arm in job.of_task(task).grid.arms if arm.parts),
        )
        for task in job.tasks
    )


def task_of_benchmark(
    session: Session,
    wanted: GradientSource,
    benchmark: Benchmark,
    vectors: Sequence[SteeringVector],
    options: EvalOptions,
    *,
    progress: Progress | None = None,
) -> ScreenTask:
    """One benchmark's search split with some vectors.

    Raises:
        UsageError: a text model, or a vector that does not fit; PartlyFailedError: no question can be encoded.
    """
    model, options = model_without_weights(wanted.bundle), with_clauses(options, session)
    check_can_ask(benchmark, wanted.bundle, options.axes.targets)
    for vector in vectors:
        check_vector(session.cache, vector, model, options)
    asked = search_questions(benchmark, wanted.bundle, n=options.n, progress=progress)
    return ScreenTask(
        name=name_of_task(benchmark),
        benchmark=benchmark.name,
        asked=asked,
        grid=_grid(vector_arms(tuple(vectors)), options.axes),
        baseline=settings_of(Arm(name="baseline", role="baseline"), model, options)[0],
        options=options,
    )


def fitting_vectors(
    session: Session, bundle: TokenizerBundle, *, layers: Sequence[int] | None, allow_foreign: bool
) -> tuple[tuple[SteeringVector, ...], int]:
    """Every vector of the cache that can be added to this model at these layers (None: wherever it has some), controls left
    out; and how many others there are."""
    stored = [s.vector for s in list_vectors(session.cache) if "control_kind" not in s.vector.provenance]
    fitting = []
    for vector in stored:
        try:
            options = _options_at(layers or vector.layers, allow_foreign=allow_foreign)
            check_vector(session.cache, vector, model_without_weights(bundle), options)
        except SteercacheError:
            continue
        fitting.append(vector)
    return tuple(fitting), len(stored) - len(fitting)


def screen_task(
    session: Session,
    task: ScreenTask,
    wanted: GradientSource,
    *,
    trust: float = TRUST,
    progress: Progress | None = None,
) -> ScreenedTask:
    """Predict a task's grid; gradients and row norms that the cache lacks are recorded first.

    Raises as `gradient_source.ensure_gradients`.
    """
    linear = [one for arm in task.together if _why_not(arm) is None for one in arm.parts]
    if not task.grid.vectors and not linear:
        whys = [f"{arm.name}: {_why_not(arm)}" for arm in task.together]
        raise UsageError(f"nothing of {task.name} can be predicted: {'; '.join(whys)}", hint="run its cells")
    wish = GradientRequest(
        benchmark=task.benchmark,
        layers=tuple(sorted({*task.grid.layers, *(one.layer for one in linear)})),
        targets=tuple(dict.fromkeys([*task.grid.targets, *(one.target for one in linear)])),
        clauses=task.options.axes.clauses,
    )
    gradients = ensure_gradients(session, task.asked, wish, wanted, progress=progress)
    margins = answer_margins(gradients.screen(wish.targets[0], wish.layers[:1]))
    grid = screen_grid(gradients, _with_norms(session, task, wanted), trust=trust, progress=progress)
    if not grid.n_cells:
        grid = replace(grid, base_accuracy=float((margins > 0).mean()))
    return ScreenedTask(
        name=task.name,
        benchmark=task.benchmark,
        model=wanted.bundle.spec.name,
        gradients=gradients,
        n_samples=len(gradients.samples),
        n_left_out=gradients.n_left_out,
        base_margin=float(margins.mean()),
        grid=grid,
        combinations=_combined(session, task, gradients, wanted, trust=trust),
        baseline=_baseline(session, task, wanted, progress),
        n_near_ties=_near_ties(session, margins, wanted),
    )


def _combined(
    session: Session, task: ScreenTask, gradients: StoredGradients, wanted: GradientSource, *, trust: float
) -> tuple[ScreenedCombination, ...]:
    """Predictions of several vectors together, with the norms and strengths that their units take."""
    arms, options = [arm for arm in task.together if _why_not(arm) is None], task.options
    units = {one.alpha_unit for arm in arms for one in arm.parts}
    if "target_norm" in units:
        norms = row_norms_of(session.cache, wanted.bundle, task.asked, load=wanted.load, clauses=options.axes.clauses)
        options = replace(options, axes=replace(options.axes, row_norms=norms))
    if "kl" in units:
        axes = kl_axes(session.cache, wanted.bundle, arms, options.axes, load=wanted.load)
        options = replace(options, axes=axes)
    found = []
    for arm in task.together:
        (setting,) = settings_of(arm, model_without_weights(wanted.bundle), options if arm in arms else task.options)
        why = _why_not(arm)
        words = setting.cell.setting([one.vector.name for one in arm.parts] if setting.cell.parts else ())
        predicted = predict_settings(gradients, [setting], trust=trust)[0] if why is None else None
        found.append(ScreenedCombination(name=arm.name, setting=words, predicted=predicted, reason=why))
    return tuple(found)


def _why_not(arm: Arm) -> str | None:
    """Why several vectors together cannot be predicted; None: each has a first-order term."""
    for one in arm.parts:
        if one.operation != "add":
            return f"{one.operation.partition(':')[0]} of {one.vector.name} has no first-order term here"
    return None


def _baseline(session: Session, task: ScreenTask, wanted: GradientSource, progress: Progress | None) -> float | None:
    """The unsteered accuracy as answered: read from the cache, or answered now if the model is in memory."""
    found = stored_baseline(session, task.asked, task.baseline)
    if found is not None or wanted.loaded is None:
        return found
    return answer_baseline(
        session,
        wanted.loaded,
        task.asked,
        task.baseline,
        name=task.name,
        options=task.options,
        progress=progress,
    )


def _near_ties(session: Session, margins: npt.NDArray[np.float32], wanted: GradientSource) -> int | None:
    """Questions whose unsteered margin is a near-tie; None where the tolerance was not measured on this machine."""
    if wanted.loaded is not None:
        tie = tie_nats_here(session.cache, wanted.loaded)
    else:
        tie = known_tie_nats(session.cache, wanted.bundle.spec, resolve_device(wanted.device))
    return None if tie is None else int((np.abs(margins) <= tie).sum())


def corrected_by_pilot(
    job: SweepJob,
    task: TaskQuestions,
    screened: ScreenedTask,
    wanted: GradientSource,
    *,
    n: int | None = None,
    progress: Progress | None = None,
) -> ScreenedTask:
    """A sweep's task predicted after a pilot of `n` questions (None: `pilot_size`), whose answers count as the sweep's own;
    as it was where that is too few. Raises as `pilot.run_pilot`.
    """
    loaded, trust = wanted.load(), screened.grid.trust
    ready = in_units(replace(job.of_task(task), loaded=loaded), task, load=lambda: loaded)
    pilot = run_pilot(ready, task, screened.gradients, n=n, trust=trust, progress=progress)
    if pilot is None:
        return screened
    predicted = predict_settings(screened.gradients, ready.grid.cells, trust=trust, bends=pilot.bends)
    return replace(screened, grid=screened.grid.with_predictions(predicted), pilot=pilot)


def effects_of_best(
    screened: ScreenedTask, *, n: int, n_vectors: int, by: By = "margin"
) -> Mapping[str, Mapping[str, tuple[SampleEffect, ...]]]:
    """For the best predicted vectors, the samples that their best cell helps and hurts most, along straight lines."""
    found, grid = {}, screened.grid.grid
    for row in screened.grid.best_of_each(by=by)[:n_vectors]:
        delta_d = grid.delta(grid.names.index(row.vector), row.layer, row.target, alpha=row.alpha)
        found[row.vector] = sample_effects(
            screened.gradients, row.target, row.layer, delta_d, n=n, trust=screened.grid.trust
        )
    return found


def ranks_of_best(
    session: Session, screened: ScreenedTask, *, count: int, n: int, by: By = "margin", seed: int = 0
) -> tuple[NullRank, ...]:
    """Ranks among null directions of the n best predicted vectors, all along straight lines."""
    names = [row.vector for row in screened.grid.best_of_each(by=by)[:n]]
    which = [screened.grid.grid.names.index(name) for name in names]
    return rank_among_nulls(session, screened.gradients, screened.grid.grid, which, count=count, seed=seed)


def _with_norms(session: Session, task: ScreenTask, wanted: GradientSource) -> VectorGrid:
    """A task's grid with the norms of the rows that it steers, where alpha counts in them: those that `grid` goes by."""
    grid = task.grid
    refuse_kl(grid.alpha_unit)
    if grid.alpha_unit != "target_norm":
        return grid
    found = row_norms_of(session.cache, wanted.bundle, task.asked, load=wanted.load, clauses=task.options.axes.clauses)
    axes = GridAxes(layers=grid.layers, alphas=grid.alphas, alpha_unit=grid.alpha_unit, row_norms=found)
    norms: dict[str, tuple[float, ...]] = {
        t: tuple(axes.norm_of(t, layer) or 0.0 for layer in grid.layers) for t in grid.targets
    }
    return replace(grid, row_norms=norms)


def refuse_kl(unit: AlphaUnit) -> None:
    """Raises UsageError for the unit "kl": a prediction is a straight line in the strength, and damage is not."""
    if unit == "kl":
        raise UsageError(
            "a screening predicts along straight lines in the strength, and equal steps in kl are none",
            hint="run every cell of a grid in the unit kl, or screen in raw units",
        )


def _grid(arms: Sequence[Arm], axes: GridAxes) -> VectorGrid:
    if not arms:
        return VectorGrid(names=(), vectors=(), layers=(), alphas=(), targets=())
    return VectorGrid(
        names=tuple(arm.name for arm in arms),
        vectors=tuple(arm.vector for arm in arms if arm.vector is not None),
        layers=axes.layers,
        alphas=axes.alphas,
        targets=axes.targets,
        alpha_unit=axes.alpha_unit,
    )


def _options_at(layers: Sequence[int], *, allow_foreign: bool) -> EvalOptions:
    return EvalOptions(axes=GridAxes(layers=tuple(layers), alphas=(1.0,)), allow_foreign=allow_foreign)
