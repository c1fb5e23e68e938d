"""Several processes trace one run: the coordinator hands out shards and tells the index, workers compute and commit files."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from steercache.cache.commit import RunWriter, ShardTables, commit_files, open_shard
from steercache.cache.documents import PlannedShard, RunDocument
from steercache.cache.paths import RunPaths
from steercache.core.errors import BudgetError, SteercacheError
from steercache.models.memory import freed_memory_kept
from steercache.runs.inputs import InputStream
from steercache.runs.job import PreparedTrace
from steercache.runs.shard import ShardTracer, capture_of
from steercache.runs.writing import WritingThread
from steercache.store.shard import ShardWriter
from steercache.store.staging import Staging

_tracer: ShardTracer | None = None  # this process's own, made by `_start`
_refusal: SteercacheError | None = (
    None  # why there is none: an error of the initializer itself would not reach the user
)


def trace_in_workers(
    run: RunWriter,
    again: Callable[[], PreparedTrace],
    pending: list[PlannedShard],
    n_workers: int,
    *,
    on_shard: Callable[[PlannedShard], None],
) -> None:
    """Trace `pending` in `n_workers` child processes; the batch plan belongs to the shard, so the bytes are the same.

    Each worker opens the data and loads the model itself, by `again`.
    """
    context = multiprocessing.get_context("spawn")
    setup = (run.paths, run.document, again)
    with ProcessPoolExecutor(
        min(n_workers, len(pending)), mp_context=context, initializer=_start, initargs=setup
    ) as pool:
        try:
            running = {
                pool.submit(_trace_one, planned): planned for planned in pending
            }  # may find a worker dead already
            while running:
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                    on_shard(running.pop(future))
        except BrokenProcessPool as error:
            raise BudgetError(  # most often for want of memory
                "a worker died; the shards it had committed are kept",
                place=run.document.name,
                hint="look at its messages above, then build again (fewer workers need less memory)",
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _start(paths: RunPaths, document: RunDocument, again: Callable[[], PreparedTrace]) -> None:
    global _tracer, _refusal
    try:
        _tracer = _make_tracer(paths, document, again)
    except SteercacheError as error:
        _refusal = error


def _make_tracer(paths: RunPaths, document: RunDocument, again: Callable[[], PreparedTrace]) -> ShardTracer:
    """This worker's model and data. Raises UsageError where it would compute other bits than the run's numerics say."""
    staging = Staging()

    def open_(planned: PlannedShard) -> ShardWriter:
        return open_shard(paths, document, planned, staging)

    def commit(planned: PlannedShard, writer: ShardWriter, tables: ShardTables) -> None:
        commit_files(paths, planned, writer, tables)

    prepared = again()
    job = prepared.job
    inputs = InputStream(job.datasets, job.bundle, max_tokens=job.manifest.max_tokens, patches=job.patches)
    loaded = prepared.load()
    return ShardTracer(
        loaded=loaded,
        capture_batch=capture_of(loaded, document),
        document=document,
        manifest=job.manifest,
        inputs=inputs,
        open_shard=open_,
        commit=commit,
    )


def _trace_one(planned: PlannedShard) -> None:
    if _refusal is not None:
        raise _refusal
    if _tracer is None:
        raise RuntimeError("the worker was not started")
    with freed_memory_kept(), WritingThread() as writing:
        _tracer.trace(planned, writing)
