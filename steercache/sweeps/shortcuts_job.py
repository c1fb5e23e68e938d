"""A finished sweep as grids that ways of choosing can be tried on, and the result kept beside its answers."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from steercache.answers.option_tokens import margins_wanted
from steercache.answers.store import Key, StoredAnswer, stored_answers
from steercache.answers.units import in_units
from steercache.benchmarks.comparison import make_answer
from steercache.benchmarks.task import EncodedQuestion, Progress
from steercache.cache.catch_up import catch_up
from steercache.cache.sweep_files import write_searches
from steercache.cells.arms import Arm, ArmCell
from steercache.cells.sweep import SweepJob, TaskQuestions
from steercache.core.errors import UsageError
from steercache.core.trials import TRUST
from steercache.core.vectors import SteeringVector
from steercache.queries.session import Session
from steercache.screening.gradient_source import GradientSource, ensure_gradients
from steercache.screening.gradient_store import StoredGradients
from steercache.screening.predict import by_place, margins_of_settings, steps_of_settings, wish_of
from steercache.steering.screen import answer_margins
from steercache.sweeps.finished_grid import FinishedGrid, Ints, ShortcutOptions
from steercache.sweeps.shortcuts import Shortcut, compare_ways

_SWEEP = """
SELECT c.sweep_id
FROM cells c
JOIN sweeps w ON w.sweep_id = c.sweep_id
WHERE c.cell_id IN (SELECT unnest($cells))
GROUP BY c.sweep_id, w.created_at
HAVING count(DISTINCT c.cell_id) = $n
ORDER BY w.created_at DESC, c.sweep_id
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedShortcuts:
    """One vector of one task: its ways, and the cell that each chose, by place in `settings`."""

    model: str
    task: str
    sweep_id: str
    vector: str
    vector_id: str
    gradient_run: str
    n_samples: int
    n_left_out: int
    settings: tuple[ArmCell, ...]
    ways: tuple[Shortcut, ...]


def compare_sweep(
    job: SweepJob,
    wanted: GradientSource,
    options: ShortcutOptions,
    *,
    progress: Progress | None = None,
) -> tuple[ComparedShortcuts, ...]:
    """Try every way on every vector of a sweep that was run exhaustively, and keep the result beside its answers.

    Raises:
        UsageError: answers are missing, or have no margin; and as `gradient_source.ensure_gradients`.
    """
    return tuple(
        one for task in job.tasks for one in _compare_task(job.of_task(task), task, wanted, options, progress=progress)
    )


def _compare_task(
    job: SweepJob,
    task: TaskQuestions,
    wanted: GradientSource,
    options: ShortcutOptions,
    *,
    progress: Progress | None,
) -> list[ComparedShortcuts]:
    job = in_units(job, task, load=wanted.load)
    arms = [arm for arm in job.grid.arms if not arm.parts]  # several vectors together are one cell: nothing is chosen
    if not arms:
        return []
    cells, session = [s for arm in arms for s in job.grid.settings[arm.name]], job.session
    ids = [job.grid.baseline.cell.cell_id, *(s.cell.cell_id for s in cells)]
    known = stored_answers(session.cache, ids, margins=margins_wanted(task.asked["search"], job.loaded.tokenizer))
    sweep_id = _sweep_with(session, ids)
    _check_whole(task, ids, known, name=job.sweep.name)
    wish = wish_of(task.benchmark.name, cells)
    gradients = ensure_gradients(session, task.asked["search"], wish, wanted, progress=progress)
    found = []
    for arm in arms:
        settings = job.grid.settings[arm.name]
        grid = finished_grid(gradients, arm, settings, ids[0], known, trust=options.trust)

        def show(done: int, total: int, name: str = arm.name) -> None:
            if progress is not None:
                progress(f"{name}: resamples", done, total)

        assert arm.vector is not None
        found.append(
            ComparedShortcuts(
                model=job.loaded.spec.name,
                task=task.name,
                sweep_id=sweep_id,
                vector=arm.name,
                vector_id=arm.vector.vector_id,
                gradient_run=gradients.document.run_id,
                n_samples=grid.n_samples,
                n_left_out=gradients.n_left_out,
                settings=settings,
                ways=compare_ways(grid, options, progress=show),
            )
        )
    _keep(session, sweep_id, found, options)
    return found


def finished_grid(
    gradients: StoredGradients,
    arm: Arm,
    settings: Sequence[ArmCell],
    baseline_id: str,
    known: Mapping[Key, StoredAnswer],
    *,
    trust: float = TRUST,
) -> FinishedGrid:
    """One vector's cells over the questions that have gradients. Raises UsageError for answers without a margin."""
    vector, model = arm.vector, gradients.document.model
    assert vector is not None
    samples = gradients.samples
    ids = [s.cell.cell_id for s in settings]
    margins = np.array([[_margin(known[i, one.sample_id]) for one in samples] for i in (baseline_id, *ids)])
    if np.isnan(margins).any():
        raise UsageError(
            f"{int(np.isnan(margins).sum())} stored answers have no margin",
            hint="they were computed by an older steercache: run the grid under another root",
        )
    right = np.array([[_is_right(one, known[i, one.sample_id]) for one in samples] for i in (baseline_id, *ids)])
    target = str(settings[0].cell.target)
    layers = np.array([s.cell.layer for s in settings], dtype=np.int64)
    above = (model.n_layers - 1 - layers) / model.n_layers
    lowest = min(gradients.layers)
    n_options = (~np.isnan(gradients.margins)).sum(axis=1)
    diagnostics = {int(d["layer"]): d for d in vector.diagnostics if "layer" in d}
    return FinishedGrid(
        right=right[1:],
        margin=margins[1:],
        base_right=right[0],
        base_margin=margins[0],
        predicted=margins_of_settings(gradients, settings, trust=trust).astype(np.float64),
        base_predicted=answer_margins(gradients.screen(target)).astype(np.float64),
        alphas=np.array([s.cell.alpha for s in settings], dtype=np.float64),
        layers=layers,
        places=_numbered(settings),
        steps=steps_of_settings(gradients, settings),
        fitted_steps=np.array([_fitted_step(vector, s) for s in settings]),
        auc={k: float(d["auc"]) for k, d in diagnostics.items() if d.get("auc") is not None},
        cell_work=np.maximum(above, 0.0),
        gradient_work=1 + (n_options - 1) * (model.n_layers - 1 - lowest) / model.n_layers,
        groups=[one.group_id for one in samples],
    )


def _numbered(settings: Sequence[ArmCell]) -> Ints:
    """The number of each cell's place: cells that bend alike."""
    numbers = np.empty(len(settings), dtype=np.int64)
    for number, some in enumerate(by_place(settings).values()):
        numbers[some] = number
    return numbers


def _check_whole(task: TaskQuestions, ids: Sequence[str], known: Mapping[Key, StoredAnswer], *, name: str) -> None:
    askable = [one for one in task.asked["search"] if one.encoded is not None]
    missing = sum((i, one.sample_id) not in known for i in ids for one in askable)
    if missing:
        raise UsageError(
            f"{missing:,} of {len(ids) * len(askable):,} answers of {task.name} are not there: only a grid that was run"
            " exhaustively can be compared with",
            hint=f"run the grid {name} whole, without a race",
        )


def _sweep_with(session: Session, ids: Sequence[str]) -> str:
    """The newest sweep that asked for all of these cells."""
    cells = {"cells": list(ids), "n": len({*ids})}
    rows = []
    if session.cache.paths.sweeps.is_dir():
        with session.cache.connection() as con:
            rows = con.execute(_SWEEP, cells).fetchall()
    if not rows:
        raise UsageError("no sweep of this cache has all of these cells", hint="run the grid whole, without a race")
    return str(rows[0][0])


def _keep(session: Session, sweep_id: str, found: Sequence[ComparedShortcuts], options: ShortcutOptions) -> None:
    rows = []
    for one in found:
        params = {**asdict(options), "gradient_run": one.gradient_run}
        for way in one.ways:
            columns = {k: v for k, v in asdict(way).items() if k != "cell"}
            rows.append(
                {
                    **columns,
                    "vector_id": one.vector_id,
                    "cell_id": one.settings[way.cell].cell.cell_id,
                    "n_cells": len(one.settings),
                    "n_samples": one.n_samples,
                    "n_resamples": options.n_resamples,
                    "params": params,
                }
            )
    write_searches(session.cache.paths.sweep(sweep_id), rows)
    catch_up(session.cache.paths)


def _margin(said: StoredAnswer) -> float:
    return np.nan if said.margin is None else said.margin


def _is_right(one: EncodedQuestion, said: StoredAnswer) -> bool:
    labels = replace(one.labels, split=one.split)
    return bool(make_answer(labels, said.raw, cell_id="", sample_id=one.sample_id).correct)


def _fitted_step(vector: SteeringVector, setting: ArmCell) -> float:
    """What is added in median norms of the rows that the vector was fitted on; NaN where it does not say."""
    layer, alpha, unit_norm = setting.cell.layer, abs(setting.cell.alpha), setting.cell.unit_norm
    if setting.cell.operation != "add":
        return float("nan")
    if setting.cell.alpha_unit == "resid_norm":
        return alpha
    found = next((d for d in vector.diagnostics if d.get("layer") == layer), {})
    norm = found.get("resid_norm")
    assert layer is not None
    return float(alpha * (unit_norm or np.linalg.norm(vector.at(layer))) / norm) if norm else float("nan")
