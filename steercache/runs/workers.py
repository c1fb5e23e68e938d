"""A run traced by several processes: one plans, hands out shards and tells the index; workers compute and commit files."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from steercache.cache.commit import RunWriter, ShardTables, commit_files, open_shard
from steercache.cache.documents import PlannedShard, RunDocument, check_that_the_run_is_seen
from steercache.cache.paths import RunPaths
from steercache.core.numerics import BATCHING
from steercache.engines.crew import EngineOptions, Work, do_work
from steercache.models.memory import freed_memory_kept
from steercache.runs.inputs import InputStream
from steercache.runs.job import PreparedTrace
from steercache.runs.shard import ShardTracer, capture_of, other_numerics
from steercache.runs.writing import WritingThread
from steercache.store.shard import ShardWriter
from steercache.store.staging import Staging


@dataclass(frozen=True, slots=True, kw_only=True)
class Telling:
    """Who hears of what: shards that are committed, and remarks."""

    on_shard: Callable[[PlannedShard], None]
    on_note: Callable[[str], None]


def trace_in_workers(
    run: RunWriter,
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
        if about.get("numerics"):
            run.admit_numerics(about["numerics"])

    def done(planned: PlannedShard, result: None) -> None:
        telling.on_shard(planned)

    work = Work(
        name=run.document.name,
        tasks=pending,
        start=partial(ShardWorker, run.paths, _for_workers(run.document), again, mixed_numerics=mixed_numerics),
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
        paths: RunPaths,
        document: RunDocument,
        again: Callable[[], PreparedTrace],
        *,
        mixed_numerics: bool = False,
    ) -> None:
        check_that_the_run_is_seen(paths, document.run_id)
        n_threads = document.numerics.get("threads")
        if isinstance(n_threads, int):
            torch.set_num_threads(n_threads)  # an engine may have chosen fewer, and the number moves bits
        prepared, staging = again(), Staging()
        loaded = prepared.load()
        differences, numerics = other_numerics(loaded, document) if mixed_numerics else ((), None)
        own = document.numerics if numerics is None else numerics | _batching(document)
        self._about = {"numerics": own} if differences else {}

        def open_(planned: PlannedShard) -> ShardWriter:
            return open_shard(paths, document, planned, staging)

        def commit(planned: PlannedShard, writer: ShardWriter, tables: ShardTables) -> None:
            commit_files(paths, planned, writer, tables, computed_otherwise=tuple(differences))

        job = prepared.job
        self._tracer = ShardTracer(
            loaded=loaded,
            begin_batch=capture_of(loaded, document, other_numerics_too=bool(differences)),
            document=document,
            manifest=job.manifest,
            inputs=InputStream(job.datasets, job.bundle, max_tokens=job.manifest.max_tokens, patches=job.patches),
            open_shard=open_,
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


def _for_workers(document: RunDocument) -> RunDocument:
    """The document without its planned shards, which workers get one by one: 20 MB at 100,000 of them, for every worker."""
    return replace(document, shards=())


def _batching(document: RunDocument) -> dict[str, Any]:
    return {name: value for name, value in document.numerics.items() if name in BATCHING}
