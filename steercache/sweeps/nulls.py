"""A grid's search done again for null directions: each is given the vector's cells, race and screening, on the same questions.

The best of many cells looks good whatever is tried. So null vectors matched to the real one (`cells.controls`) are given the
grid that it was given, layers x strengths x targets on the same samples, each takes its best cell by the same rule, and the
real winner's gain is placed among theirs: p = (1 + nulls that gained at least as much) / (1 + nulls). Under the null the
real vector is one more draw, so that p is valid for the whole search, however many cells it had and however they hang together.

A few nulls are run exactly; many are screened, where gradients of the answer margin are cached (`screening.nulls`). Their
answers are a sweep of their own, so that the grid's stays what it was asked for.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from steercache.answers.kl_strengths import kl_axes
from steercache.answers.store import SweepWriter
from steercache.benchmarks.task import Progress
from steercache.cache.vectors import save_vector
from steercache.cells.arms import Arm, ArmCell, settings_of
from steercache.cells.options import ControlOptions, EvalOptions
from steercache.cells.sweep import SweepJob, TaskQuestions, stored_manifest
from steercache.cells.vectors import control_arms
from steercache.core.ids import digest
from steercache.core.trials import ControlKind
from steercache.core.vectors import SteeringVector
from steercache.manifests.sweep import Race
from steercache.models.spec import LoadedModel
from steercache.queries.session import Session
from steercache.screening.pilot import ScreenedCells
from steercache.sweeps.engine import ChooserOf, Looked, PlannedSweep, run_sweep
from steercache.sweeps.record import SweepRecord

Screening = Callable[[SweepJob, TaskQuestions], ScreenedCells]


@dataclass(frozen=True, slots=True, kw_only=True)
class NullSearch:
    """How many nulls a vector's search is done for, of which kinds, and what the search is: `race` its cells, or only the best
    predicted ones of a `screening`. `how` is that for the sweep's identity; `choosing` says how answers are computed."""

    count: int
    kinds: tuple[ControlKind, ...]
    how: Mapping[str, object]
    choosing: ChooserOf = field(repr=False)
    race: Race | None = None
    screening: Screening | None = field(default=None, repr=False)
    progress: Progress | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class NullsFound:
    """The nulls' sweep (None: none could be made), a line for every kind that could not be made, and how many answers were
    computed for it, a pilot's included."""

    record: SweepRecord | None
    notes: tuple[str, ...]
    n_computed: int = 0


def null_arms(
    session: Session, of: SteeringVector | Arm, options: EvalOptions
) -> tuple[tuple[Arm, ...], tuple[str, ...]]:
    """`options.controls.count` null vectors, kept in the cache, and a line for every kind that could not be made. Of several
    vectors together, as many combinations of null vectors in their places (`cells.vectors.control_arms`)."""
    arms, notes = control_arms(session, of, options)
    for vector in {one.vector_id: one for arm in arms for one in arm.vectors}.values():
        save_vector(session.cache, vector)
    return arms, tuple(notes)


def null_settings(
    session: Session, loaded: LoadedModel, of: SteeringVector | Arm, options: EvalOptions
) -> tuple[tuple[tuple[ArmCell, ...], ...], tuple[str, ...]]:
    """The grid of `options` for every null of a vector, to be run on the samples that the vector was run on; of several vectors
    together, their one setting."""
    arms, notes = null_arms(session, of, options)
    memory_mib = options.compute.memory_mib
    axes = kl_axes(session.cache, loaded.bundle, arms, options.axes, load=lambda: loaded, memory_mib=memory_mib)
    options = replace(options, axes=axes)
    return tuple(settings_of(arm, loaded, options) for arm in arms), notes


def search_nulls(job: SweepJob, task: TaskQuestions, winner: ArmCell, search: NullSearch) -> NullsFound:
    """Search every null as the winner was searched, on the search split. What a race left unread of its winner is read."""
    grid = job.grid
    options = replace(grid.options, controls=ControlOptions(count=search.count, kinds=search.kinds))
    made, notes = null_settings(job.session, job.loaded, winner.arm, options)
    if not made:
        return NullsFound(record=None, notes=notes)
    every = {some[0].arm.name: some for some in made}
    screened = _screened(job, task, every, search.screening)
    picked = screened.in_order(every)
    plan = PlannedSweep(
        loaded=job.loaded,
        options=grid.options,
        looked=Looked(dataset=task.benchmark.name, rule=task.benchmark.rule, task=task.task),
        asked={"search": task.asked["search"]},
        baseline=grid.baseline,
        settings={winner.arm.name: (winner,), **picked},
        lineages={},
        race=search.race,
        first={} if search.screening is None else screened.best,
        screened=search.screening is not None,
        finish_races=True,
        settled={winner.arm.name: len(grid.settings[winner.arm.name])},
        seed=job.sweep.seed,
        damage=False,
    )
    progress = search.progress
    run = run_sweep(
        plan,
        _writer(job, task, winner, picked, search),
        choosing=search.choosing,
        root=job.root,
        progress=None if progress is None else lambda _, done, total: progress(f"{task.name}: nulls", done, total),
    )
    n_piloted = 0 if screened.pilot is None else screened.pilot.n_computed
    return NullsFound(record=run.store(job.root), notes=notes, n_computed=run.runner.tally.n_computed + n_piloted)


def _screened(
    job: SweepJob, task: TaskQuestions, every: Mapping[str, tuple[ArmCell, ...]], screening: Screening | None
) -> ScreenedCells:
    """The cells of every null that are run, the best predicted one first; all of them without a screening."""
    if screening is None:
        return ScreenedCells(settings=every)
    arms = tuple(some[0].arm for some in every.values())
    return screening(replace(job, grid=replace(job.grid, arms=arms, settings=every)), task)


def _writer(
    job: SweepJob,
    task: TaskQuestions,
    winner: ArmCell,
    picked: Mapping[str, Sequence[ArmCell]],
    search: NullSearch,
) -> SweepWriter:
    """The nulls' sweep of their own."""
    nulls = {name: some[0].arm.vector_id for name, some in picked.items()}
    manifest = {
        **stored_manifest(job, task, search.how),
        "kind": "nulls",
        "nulls_of": winner.arm.vector_id,
        "vectors": nulls,
        "cells": digest(sorted(s.cell.cell_id for some in picked.values() for s in some)),
    }
    name = f"{job.sweep.name}: {task.name}: nulls of {winner.arm.name}"
    return SweepWriter(cache=job.session.cache, name=name, manifest=manifest)
