"""A run traced by several processes: one plans, hands out shards and tells the index; workers compute and commit files."""

import atexit
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from steercache.cache.commit import RunWriter, ShardTables
from steercache.cache.documents import PlannedShard, RunDocument
from steercache.cache.remote_run import RemoteRunWriter
from steercache.cache.shard_places import FolderPlace, ShardPlace
from steercache.core.errors import UsageError
from steercache.core.numerics import BATCHING
from steercache.engines.crew import EngineOptions, Work, do_work
from steercache.models.memory import freed_memory_kept
from steercache.runs.inputs import InputStream
from steercache.runs.job import PreparedTrace
from steercache.runs.shard import ShardTracer, capture_of, other_numerics
from steercache.runs.writing import WritingThread
from steercache.store.shard import ShardWriter


@dataclass(frozen=True, slots=True, kw_only=True)
class Telling:
    """Who hears of what: shards that are committed, and remarks."""

    on_shard: Callable[[PlannedShard], None]
    on_note: Callable[[str], None]


def trace_in_workers(
    run: RunWriter | RemoteRunWriter,
    again: Callable[[], PreparedTrace],
    pending: list[PlannedShard],
    options: EngineOptions,
    telling: Telling,
    *,
    mixed_numerics: bool = False,
) -> None:
    """Trace `pending` in other processes; the batch plan belongs to the shard, so the bytes are the same.

    Each worker opens the data and loads the model itself, by `again`. With `mixed_numerics`, one that computes other bits than
    the run's numerics say is not refused; its numerics go into the run's document, and its shards' records say so.
    """

    def learn(about: Mapping[str, Any]) -> None:
        if about.get("numerics") and isinstance(run, RunWriter):
            run.admit_numerics(about["numerics"])

    def done(planned: PlannedShard, result: None) -> None:
        telling.on_shard(planned)

    if mixed_numerics and isinstance(run, RemoteRunWriter):
        raise UsageError(
            "workers of other numerics cannot build into an object store: a shard that is begun by one and redone by another"
            " has to come to the same bytes",
            place=run.document.name,
            hint="let them build into a folder, and push the run",
        )
    work = Work(
        name=run.document.name,
        tasks=pending,
        start=partial(ShardWorker, place_of(run), _for_workers(run.document), again, mixed_numerics=mixed_numerics),
        on_done=done,
        on_worker=learn,
        on_note=telling.on_note,
    )
    do_work(work, options)


class ShardWorker:
    """A worker's model and data: traces shards, and commits their files.

    Raises:
        UsageError: it would compute other bits than the run's numerics say. NotFoundError: it does not see the run's files.
    """

    def __init__(
        self,
        place: ShardPlace,
        document: RunDocument,
        again: Callable[[], PreparedTrace],
        *,
        mixed_numerics: bool = False,
    ) -> None:
        entered = ExitStack()
        atexit.register(entered.close)
        target = self._target = entered.enter_context(place.entered(document))
        n_threads = document.numerics.get("threads")
        if isinstance(n_threads, int):
            torch.set_num_threads(n_threads)  # an engine may have chosen fewer, and the number moves bits
        prepared = again()
        loaded = prepared.load()
        differences, numerics = other_numerics(loaded, document) if mixed_numerics else ((), None)
        own = document.numerics if numerics is None else numerics | _batching(document)
        self._about = {"numerics": own} if differences else {}

        def commit(planned: PlannedShard, writer: ShardWriter, tables: ShardTables) -> None:
            target.commit(planned, writer, tables, computed_otherwise=tuple(differences))

        job = prepared.job
        self._tracer = ShardTracer(
            loaded=loaded,
            begin_batch=capture_of(loaded, document, other_numerics_too=bool(differences)),
            document=document,
            manifest=job.manifest,
            inputs=InputStream(job.datasets, job.bundle, max_tokens=job.manifest.max_tokens, patches=job.patches),
            open_shard=target.open,
            commit=commit,
        )

    @property
    def about(self) -> Mapping[str, Any]:
        """Its numerics under "numerics", where they differ from the run's."""
        return self._about

    def run(self, planned: PlannedShard) -> None:
        """Trace and commit one shard."""
        with freed_memory_kept(), WritingThread() as writing:
            self._tracer.trace(planned, writing)
        self._target.flush()


def _for_workers(document: RunDocument) -> RunDocument:
    """The document without its planned shards, which workers get one by one: 20 MB at 100,000 of them, for every worker."""
    return replace(document, shards=())


def _batching(document: RunDocument) -> dict[str, Any]:
    return {name: value for name, value in document.numerics.items() if name in BATCHING}


def place_of(run: RunWriter | RemoteRunWriter) -> ShardPlace:
    """Where processes put the shards of a run."""
    return FolderPlace(run.paths) if isinstance(run, RunWriter) else run.place
