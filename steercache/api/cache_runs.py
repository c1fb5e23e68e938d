"""Planning, building and looking up runs."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from steercache.api.cache_core import CacheCore
from steercache.api.progress import ProgressLike
from steercache.api.runs import Run, run_of

if TYPE_CHECKING:
    from steercache.api.tracing import TraceLike
    from steercache.runs.overview import Overview


class RunMethods(CacheCore):
    """Planning, building and looking up runs."""

    def run(self, name: str) -> Run:
        """The run that has this name, id or unique prefix; of several with one name the newest. Raises NotFoundError."""
        cache = self._session.cache
        return run_of(cache.run_document(cache.resolve_run(name)))

    def plan(
        self,
        trace: "TraceLike",
        *,
        model: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        progress: ProgressLike = None,
    ) -> "Overview":
        """What `build` would write, what is cached already, and about how long it takes; nothing is computed.

        Raises:
            ManifestError, NotFoundError, UsageError: as `build`.
        """
        from steercache.api.tracing import plan_trace

        return plan_trace(
            self._session.cache, self.root, trace, model=model, device=device, dtype=dtype, progress=progress
        )

    def build(
        self,
        trace: "TraceLike",
        *,
        model: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        device_map: str | None = None,
        workers: int = 1,
        budget_gb: float | None = None,
        force: bool = False,
        progress: ProgressLike = None,
        on_note: Callable[[str], None] | None = None,
    ) -> Run:
        """Trace a model into the cache, and return the run. What is cached already is not traced again.

        `trace` is a shipped trace's name, a manifest's file, a `TraceManifest`, or a data file (.csv, .jsonl, .parquet, .txt)
        together with the name of a `model`. Safe to interrupt at any moment: calling it again continues, and loses at most the
        shard that was being written. `workers` processes trace shards side by side; `budget_gb` overrides the manifest's limit
        on what may be written; `force` resumes under other numerics than the run began with, and records that.
        `on_note` is called with each remark as it is made; the run's `notes` hold all of them.

        Raises:
            ManifestError: what is wrong with the manifest or the samples, all problems at once.
            NotFoundError: a manifest, model or file is missing. BusyError: another process builds this run.
            BudgetError: over the budget, or the disk is full. UsageError: begun under other numerics.
        """
        from steercache.api.tracing import build_trace

        return build_trace(
            self._session.cache,
            trace,
            model=model,
            device=device,
            dtype=dtype,
            device_map=device_map,
            workers=workers,
            budget_gb=budget_gb,
            force=force,
            progress=progress,
            on_note=on_note,
        )
