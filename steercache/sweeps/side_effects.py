"""What the cells that a sweep chose do elsewhere: right answers to a few questions of tasks that it was not chosen for.

Each task of the panel is a stored sweep of its own, of the chosen cells alone on the search split (so no look at a test split
is spent); the numbers are kept with the choice and shown beside its damage.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from steercache.answers.store import SweepWriter
from steercache.benchmarks.task import Progress
from steercache.cache.handle import CacheFolder
from steercache.cells.arms import ArmCell
from steercache.cells.options import EvalOptions
from steercache.cells.sweep import TaskQuestions
from steercache.core.ids import digest
from steercache.models.spec import LoadedModel
from steercache.sweeps.engine import ChooserOf, Looked, PlannedSweep, run_sweep
from steercache.sweeps.table import SideEffect
from steercache.sweeps.tabulate import compare_cells


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """Unrelated tasks, each with what is stored as its sweep's manifest, for the cells chosen on the task `of` of the sweep or
    evaluation `name`."""

    name: str
    of: str
    tasks: tuple[TaskQuestions, ...] = field(repr=False)
    manifests: tuple[Mapping[str, Any], ...] = field(repr=False)
    cache: CacheFolder
    loaded: LoadedModel = field(repr=False)
    options: EvalOptions
    baseline: ArmCell
    lineages: Mapping[str, str]
    seed: int
    choosing: ChooserOf
    root: Path


def side_effects_of(
    panel: Panel, chosen: Mapping[str, ArmCell], *, progress: Progress | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Of every vector's chosen cell, its effect on each task of the panel, as stored with its choice.

    Raises:
        UsageError: a target that hits nothing in a question of the panel; as `engine.run_sweep` otherwise.
    """
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in chosen}
    for other, manifest in zip(panel.tasks, panel.manifests, strict=True):
        if other.name == panel.of or not chosen:
            continue
        for name, effect in _on_task(panel, other, manifest, chosen, progress=progress).items():
            found[name].append(asdict(effect))
    return found


def _on_task(
    panel: Panel,
    other: TaskQuestions,
    manifest: Mapping[str, Any],
    chosen: Mapping[str, ArmCell],
    *,
    progress: Progress | None,
) -> dict[str, SideEffect]:
    plan = PlannedSweep(
        loaded=panel.loaded,
        options=panel.options,
        looked=Looked(dataset=other.benchmark.name, rule=other.benchmark.rule, task=other.task),
        asked=other.asked,
        baseline=panel.baseline,
        settings={name: (setting,) for name, setting in chosen.items()},
        lineages=panel.lineages,
        settled=dict.fromkeys(chosen, 1),
        seed=panel.seed,
        damage=False,
    )
    cells: Sequence[ArmCell] = [plan.baseline, *chosen.values()]
    writer = SweepWriter(
        cache=panel.cache,
        name=f"{panel.name}: {panel.of}: side effects on {other.name}",
        manifest={
            **manifest,
            "kind": "panel",
            "of": panel.of,
            "vectors": {name: setting.arm.vector_id for name, setting in chosen.items()},
            "cells": digest(sorted(setting.cell.cell_id for setting in cells)),
        },
    )
    show = None if progress is None else lambda _, done, total: progress(f"side effects on {other.name}", done, total)
    record = run_sweep(plan, writer, choosing=panel.choosing, root=panel.root, progress=show).store(panel.root)
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
