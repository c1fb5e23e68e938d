"""Planning and building runs: what `Cache.plan` and `Cache.build` do."""

from pathlib import Path

from steercache.api.files import trace_of_file
from steercache.api.progress import ProgressLike, reporting
from steercache.api.runs import Run, run_of
from steercache.cache.handle import CacheFolder as CacheFolder
from steercache.manifests.documents import TraceManifest
from steercache.manifests.resolve import ResolvedTrace, resolve_trace, resolve_trace_document
from steercache.runs.engine import BuildOptions, build_run
from steercache.runs.job import PreparedTrace, prepare_trace
from steercache.runs.overview import Overview, bytes_of_gb, overview
from steercache.runs.plan import plan_run

TraceLike = str | Path | TraceManifest | ResolvedTrace
"""A shipped trace's name, a manifest's file, a manifest object, or a data file (with the name of a model)."""


def resolved_trace(trace: TraceLike, *, model: str | None) -> ResolvedTrace:
    """Everything that `trace` names, found and validated.

    Raises:
        NotFoundError, ManifestError: as `manifests.resolve.resolve_trace`; UsageError: a data file without a model.
    """
    if isinstance(trace, ResolvedTrace):
        return trace
    if isinstance(trace, TraceManifest):
        return resolve_trace_document(trace, place=Path.cwd() / "manifest.yaml")
    from_file = trace_of_file(trace, model=model)
    if from_file is not None:
        manifest, folder = from_file
        return resolve_trace_document(manifest, place=folder / "manifest.yaml", search=(Path(),))
    return resolve_trace(trace, search=(Path(),))


def plan_trace(
    folder: CacheFolder | None,
    root: Path,
    trace: TraceLike,
    *,
    model: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    progress: ProgressLike = None,
) -> Overview:
    """What building `trace` would write and how long it would take; see `Cache.plan`."""
    with reporting(progress) as show:
        prepared = prepare_trace(resolved_trace(trace, model=model), cache_root=root, device=device, dtype=dtype)
        return overview(folder, root, plan_run(prepared.job, progress=show))


def build_trace(
    folder: CacheFolder,
    trace: TraceLike,
    *,
    model: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    device_map: str | None = None,
    workers: int = 1,
    budget_gb: float | None = None,
    force: bool = False,
    progress: ProgressLike = None,
) -> Run:
    """Trace what the cache does not have yet; see `Cache.build`."""
    prepared: PreparedTrace = prepare_trace(
        resolved_trace(trace, model=model), cache_root=folder.root, device=device, dtype=dtype, device_map=device_map
    )
    with reporting(progress) as show:
        plan = plan_run(prepared.job, cache=folder, progress=show)
        done = 0

        def count(n_tokens: int) -> None:
            nonlocal done
            done += n_tokens
            show(f"tracing {plan.document.name}", done, plan.n_tokens)

        options = BuildOptions(
            force=force,
            workers=workers,
            budget_bytes=None if budget_gb is None else bytes_of_gb(budget_gb),
            on_tokens=count,
        )
        result = build_run(folder, plan, prepared, options)
    return run_of(
        plan.document,
        n_bytes=result.n_bytes,
        n_shards_built=result.n_shards_built,
        n_shards_kept=result.n_shards_kept,
        seconds=result.seconds,
        index_held_by=result.index_held_by,
    )
