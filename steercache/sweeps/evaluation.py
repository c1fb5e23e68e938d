"""`steercache eval`: a benchmark's table for vectors, a prompting baseline and controls, every answer kept.

On the search split every arm tries all its settings and takes its best; on the test split it runs that one only. Controls
are given the same selection as the vectors they belong to. Looks at the test split go to the ledger before it is answered.
"""

from collections.abc import Sequence

from steercache.answers.costs import costs_here
from steercache.benchmarks.task import Progress
from steercache.cells.arms import settings_of
from steercache.cells.combinations import NO_COMBINATIONS, Combinations
from steercache.cells.options import EvalOptions
from steercache.core.vectors import SteeringVector
from steercache.data.benchmarks.questions import Benchmark
from steercache.models.spec import LoadedModel
from steercache.queries.session import Session
from steercache.sweeps.engine import Looked, PlannedSweep, mode_chooser, run_sweep
from steercache.sweeps.evaluation_job import prepare
from steercache.sweeps.result import SweepResult, result_of
from steercache.sweeps.side_effects import Panel, side_effects_of
from steercache.sweeps.tabulate import sweep_table


def evaluate(
    session: Session,
    loaded: LoadedModel,
    benchmark: Benchmark,
    *,
    vectors: Sequence[SteeringVector],
    options: EvalOptions,
    combinations: Combinations = NO_COMBINATIONS,
    progress: Progress | None = None,
) -> SweepResult:
    """Run baseline, prompting, vectors, combinations of several vectors (by name) and controls over a benchmark, and compare.

    Answers that the cache has already, in whatever sweep, are not computed again; an interrupted evaluation is resumed.

    Raises:
        UsageError: a text model, a vector that does not fit, a split without rows, a mode that cannot be had;
        PartlyFailedError: no question could be encoded; BusyError: another process runs this evaluation.
    """
    job = prepare(
        session, loaded, benchmark, vectors=vectors, options=options, combinations=combinations, progress=progress
    )
    options = job.options  # with the norms of the steered rows, where strengths count in them
    (baseline, *arms) = job.arms
    plan = PlannedSweep(
        loaded=loaded,
        options=options,
        looked=Looked(dataset=benchmark.name, rule=benchmark.rule, task=job.task),
        asked=job.asked,
        reworded=job.reworded,
        baseline=settings_of(baseline, loaded, options)[0],
        settings={arm.name: settings_of(arm, loaded, options) for arm in arms},
        lineages=job.lineages,
        seed=options.seed,
        damage=options.damage,
    )
    costs = (
        None if options.compute.mode is None else costs_here(session.cache, loaded, again=options.compute.recalibrate)
    )
    choosing, root = mode_chooser(costs, options.compute.mode), session.cache.root
    run = run_sweep(plan, job.writer, choosing=choosing, root=root, progress=progress)
    panel = Panel(
        name=job.writer.name,
        of=job.name,
        tasks=job.panel,
        manifests=tuple(map(job.panel_manifest, job.panel)),
        cache=session.cache,
        loaded=loaded,
        options=options,
        baseline=plan.baseline,
        lineages=job.lineages,
        seed=options.seed,
        choosing=choosing,
        root=root,
    )
    chosen = {name: setting for name, setting in run.chosen.items() if setting.arm.role == "vector"}
    effects = side_effects_of(panel, chosen, progress=progress)
    table = sweep_table(run.store(root, {name: {"panel": found} for name, found in effects.items() if found}))
    return result_of(table, run.runner, modes=run.modes, notes=job.notes)
