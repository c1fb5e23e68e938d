"""Planning and building runs: what `Cache.plan` and `Cache.build` do."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from steercache.api.files import SUFFIXES, notes_on_columns, trace_of_file
from steercache.api.progress import ProgressLike, reporting
from steercache.api.runs import Run, run_of
from steercache.cache.handle import CacheFolder as CacheFolder
from steercache.cache.handle import open_cache
from steercache.core.errors import NotFoundError, UsageError
from steercache.engines.crew import ONE_HERE
from steercache.engines.crew import EngineName as EngineName
from steercache.engines.crew import EngineOptions as EngineOptions
from steercache.manifests.documents import TraceManifest
from steercache.manifests.load import declared_kind, find_manifest
from steercache.manifests.resolve import ResolvedTrace, resolve_trace, resolve_trace_document
from steercache.runs.budget import Proposal as Proposal
from steercache.runs.budget import propose
from steercache.runs.budget import shortlist as shortlist
from steercache.runs.dates import notes_on_dates
from steercache.runs.engine import BuildOptions, build_run
from steercache.runs.job import PreparedTrace, prepare_trace
from steercache.runs.overview import Overview, bytes_of_gb, overview
from steercache.runs.overview import decimal_bytes as decimal_bytes
from steercache.runs.overview import sizes_of as sizes_of
from steercache.runs.plan import Plan, Progress, TraceJob, plan_run

TraceLike = str | Path | TraceManifest | ResolvedTrace
"""A shipped trace's name, a manifest's file, a manifest object, or a data file (with the name of a model)."""


def resolved_trace(trace: TraceLike, *, model: str | None) -> ResolvedTrace:
    """Everything that `trace` names, found and validated.

    Raises:
        NotFoundError, ManifestError: as `manifests.resolve.resolve_trace`; UsageError: a data file without a model, or a model
        for what names its own.
    """
    if model is not None and not is_data_file(trace):
        raise UsageError(
            "a model is named for a data file only: a manifest names its own",
            place=str(trace) if isinstance(trace, str | Path) else trace_name(trace),
            hint="leave the model out, or change it in the manifest",
        )
    if isinstance(trace, ResolvedTrace):
        return trace
    if isinstance(trace, TraceManifest):
        return resolve_trace_document(trace, place=Path.cwd() / "manifest.yaml")
    from_file = trace_of_file(trace, model=model)
    if from_file is not None:
        manifest, folder = from_file
        return resolve_trace_document(manifest, place=folder / "manifest.yaml", search=(Path(),))
    return resolve_trace(trace, search=(Path(),))


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTrace:
    """A trace worked out: `plan` is what would be written, `overview` how that stands to the cache."""

    plan: Plan
    overview: Overview


def plan_at(
    root: Path,
    trace: TraceLike,
    *,
    model: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    budget_gb: float | None = None,
    progress: ProgressLike = None,
) -> PlannedTrace:
    """What building `trace` into the cache at `root`, which need not exist yet, would write; raises as `Cache.plan`."""
    try:
        folder: CacheFolder | None = open_cache(root)
    except NotFoundError:
        folder = None
    with reporting(progress) as show:
        resolved = resolved_trace(trace, model=model)
        prepared = prepare_trace(resolved, cache_root=root, device=device, dtype=dtype)
        plan = plan_run(prepared.job, progress=show)
        seen = _within(overview(folder, root, plan), prepared.job, budget_gb, show)
    return PlannedTrace(plan=plan, overview=_with_notes(seen, notes_on_columns(resolved)))


def _within(planned: Overview, job: TraceJob, budget_gb: float | None, show: Progress) -> Overview:
    """The overview with what could be kept within a budget."""
    if budget_gb is None:
        return planned
    if not 0 < budget_gb < math.inf:
        raise UsageError(f"a budget of {budget_gb} GB is not a size", hint="give a positive number of GB")
    budget = bytes_of_gb(budget_gb)
    return replace(planned, budget_bytes=budget, proposals=propose(job, budget, progress=show))


def is_sweep(manifest: str) -> bool:
    """Whether a name or file means a sweep manifest; what cannot be found is none."""
    try:
        return declared_kind(find_manifest(manifest, search=(Path(),))) == "sweep"
    except NotFoundError:
        return False


def is_data_file(trace: TraceLike) -> bool:
    """Whether `trace` names a data file, by its suffix."""
    return isinstance(trace, str | Path) and Path(trace).suffix.lower() in SUFFIXES


def trace_name(trace: TraceManifest | ResolvedTrace) -> str:
    """The name that a trace's manifest gives it."""
    return trace.name if isinstance(trace, TraceManifest) else trace.trace.name


def plan_trace(
    folder: CacheFolder | None,
    root: Path,
    trace: TraceLike,
    *,
    model: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    budget_gb: float | None = None,
    progress: ProgressLike = None,
) -> Overview:
    """What building `trace` would write and how long it would take; see `Cache.plan`."""
    with reporting(progress) as show:
        resolved = resolved_trace(trace, model=model)
        prepared = prepare_trace(resolved, cache_root=root, device=device, dtype=dtype)
        planned = overview(folder, root, plan_run(prepared.job, progress=show))
        planned = _within(planned, prepared.job, budget_gb, show)
    return _with_notes(planned, notes_on_columns(resolved))


def _with_notes(planned: Overview, notes: tuple[str, ...]) -> Overview:
    return replace(planned, notes=(*planned.notes, *notes))


def build_trace(
    cache: CacheFolder | Path,
    trace: TraceLike,
    *,
    model: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    device_map: str | None = None,
    engine: EngineOptions = ONE_HERE,
    mixed_numerics: bool = False,
    budget_gb: float | None = None,
    force: bool = False,
    progress: ProgressLike = None,
    on_note: Callable[[str], None] | None = None,
) -> Run:
    """Trace what the cache does not have yet; see `Cache.build`. A root by path is made once the trace is known to be right."""
    root = cache if isinstance(cache, Path) else cache.root
    resolved = resolved_trace(trace, model=model)
    prepared: PreparedTrace = prepare_trace(
        resolved, cache_root=root, device=device, dtype=dtype, device_map=device_map
    )
    folder = open_cache(cache, create=True) if isinstance(cache, Path) else cache
    with reporting(progress) as show:
        plan = plan_run(prepared.job, cache=folder, progress=show)
        notes: list[str] = []

        def remark(sentence: str) -> None:
            notes.append(sentence)
            if on_note is not None:
                on_note(sentence)

        if plan.mended_labels_in:
            remark(f"labels changed: joined anew in {', '.join(plan.mended_labels_in)}; no activation was touched")
        for sentence in (*notes_on_dates(folder, plan.document), *notes_on_columns(resolved)):
            remark(sentence)
        done = 0

        def count(n_tokens: int) -> None:
            nonlocal done
            done += n_tokens
            show(f"tracing {plan.document.name}", done, plan.n_tokens)

        options = BuildOptions(
            force=force,
            engine=engine,
            mixed_numerics=mixed_numerics,
            budget_bytes=None if budget_gb is None else bytes_of_gb(budget_gb),
            on_tokens=count,
            on_note=remark,
        )
        result = build_run(folder, plan, prepared, options)
    return run_of(
        plan.document,
        n_bytes=result.n_bytes,
        n_shards_built=result.n_shards_built,
        n_shards_kept=result.n_shards_kept,
        seconds=result.seconds,
        index_held_by=result.index_held_by,
        computed_otherwise=result.computed_otherwise,
        non_finite=result.non_finite,
        notes=tuple(notes),
    )
