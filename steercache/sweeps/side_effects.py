"""What the cells that a sweep chose do elsewhere: right answers to a few questions of tasks that it was not chosen for.

Each task of the panel is a stored sweep of its own, of the chosen cells alone on the search split (so no look at a test split
is spent); the numbers are kept with the choice and shown beside its damage.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from steercache.answers.store import SweepWriter
from steercache.benchmarks.task import Progress
from steercache.cells.arms import ArmCell
from steercache.cells.sweep import SweepJob, TaskQuestions, stored_manifest
from steercache.core.ids import digest
from steercache.sweeps.engine import ChooserOf, Looked, PlannedSweep, run_sweep
from steercache.sweeps.table import SideEffect
from steercache.sweeps.tabulate import compare_cells


def side_effects_of(
    job: SweepJob,
    task: TaskQuestions,
    chosen: Mapping[str, ArmCell],
    *,
    how: Mapping[str, Any],
    choosing: ChooserOf,
    progress: Progress | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """Of every vector's chosen cell, its effect on each task of the job's panel, as stored with its choice.

    Raises:
        UsageError: a target that hits nothing in a question of the panel; as `engine.run_sweep` otherwise.
    """
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in chosen}
    for other in job.panel:
        if other.name == task.name or not chosen:
            continue
        for name, effect in _on_task(job, task, other, chosen, how=how, choosing=choosing, progress=progress).items():
            found[name].append(asdict(effect))
    return found


def _on_task(
    job: SweepJob,
    task: TaskQuestions,
    other: TaskQuestions,
    chosen: Mapping[str, ArmCell],
    *,
    how: Mapping[str, Any],
    choosing: ChooserOf,
    progress: Progress | None,
) -> dict[str, SideEffect]:
    plan = PlannedSweep(
        loaded=job.loaded,
        options=job.grid.options,
        looked=Looked(dataset=other.benchmark.name, rule=other.benchmark.rule, task=other.task),
        asked=other.asked,
        baseline=job.grid.baseline,
        settings={name: (setting,) for name, setting in chosen.items()},
        lineages=job.lineages,
        settled=dict.fromkeys(chosen, 1),
        seed=job.sweep.seed,
        damage=False,
    )
    cells: Sequence[ArmCell] = [plan.baseline, *chosen.values()]
    manifest = {
        **stored_manifest(job, other, how),
        "kind": "panel",
        "of": task.name,
        "vectors": {name: setting.cell.vector_id for name, setting in chosen.items()},
        "cells": digest(sorted(setting.cell.cell_id for setting in cells)),
    }
    writer = SweepWriter(
        cache=job.session.cache, name=f"{job.sweep.name}: {task.name}: side effects on {other.name}", manifest=manifest
    )
    show = None if progress is None else lambda _, done, total: progress(f"side effects on {other.name}", done, total)
    record = run_sweep(plan, writer, choosing=choosing, root=job.root, progress=show).store(job.root)
    effects = {}
    for name, setting in chosen.items():
        c = compare_cells(record, "search", record.baseline_id, setting.cell.cell_id)
        effects[name] = SideEffect(
            task=other.name,
            n=c.n,
            n_failed=c.n_failed,
            before=c.before,
            after=c.after,
            change=c.gain.estimate,
            low=c.gain.low,
            high=c.gain.high,
            helped=c.mcnemar.helped,
            hurt=c.mcnemar.hurt,
        )
    return effects
