"""Gradients for some questions, layers and targets: from the cache, or recorded into it first."""

from collections.abc import Callable, Sequence
from typing import Any

from steercache.benchmarks.task import EncodedQuestion, Progress
from steercache.engines.crew import Crew
from steercache.models.load import resolve_device
from steercache.models.spec import LoadedModel, TokenizerBundle
from steercache.queries.session import Session
from steercache.screening.gradient_plan import GradientPlan, GradientRequest, find_run, named_run, plan_gradients
from steercache.screening.gradient_run import record_in_time
from steercache.screening.gradient_store import StoredGradients, open_gradients
from steercache.trace.numerics import numerics

Load = Callable[[], LoadedModel]


class GradientSource:
    """Whose gradients, and how they may be had: `run` names one, `force` records on under other numerics. The model comes by
    `load`, which is called once, and only if something has to be recorded or answered. `crew` are workers that record; None:
    this process."""

    def __init__(
        self,
        *,
        bundle: TokenizerBundle,
        load: Load,
        device: str = "auto",
        run: str | None = None,
        force: bool = False,
        crew: Crew[Any, Any] | None = None,
    ) -> None:
        self.bundle, self.device, self.run, self.force, self.crew = bundle, device, run, force, crew
        self.loaded: LoadedModel | None = None  # the model, once something brought it into memory
        self._load = load

    def load(self) -> LoadedModel:
        """The model in memory."""
        if self.loaded is None:
            self.loaded = self._load()
        return self.loaded


def ensure_gradients(
    session: Session,
    asked: Sequence[EncodedQuestion],
    wish: GradientRequest,
    wanted: GradientSource,
    *,
    progress: Progress | None = None,
) -> StoredGradients:
    """Gradients for these questions, layers and targets: from the cache, or recorded into it first.

    Raises:
        UsageError: nothing can be screened, or the run named is stale; and as `gradient_run.record_gradients`.
    """
    cache = session.cache
    found = numerics(wanted.bundle, device=resolve_device(wanted.device))
    plan = plan_gradients(wanted.bundle, asked, wish, numerics=found)
    if wanted.run is not None:
        return open_gradients(cache, named_run(cache, wanted.run, plan).run_id, plan)
    document = find_run(cache, plan)
    run_id = plan.document.run_id if document is None else document.run_id
    if document is None or not _is_whole(session, plan, run_id):
        record_in_time(cache, wanted.load(), plan, force=wanted.force, crew=wanted.crew, progress=progress)
    return open_gradients(cache, run_id, plan)


def _is_whole(session: Session, plan: GradientPlan, run_id: str) -> bool:
    paths = session.cache.run_paths(run_id)
    if not paths.current.exists():
        return False
    document = session.cache.run_document(run_id)
    return len(session.cache.source(run_id).reader.shard_idxs) == len(document.shards)
