"""Build a run: plan, begin or resume, trace what is pending, commit shard by shard, finish."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from steercache.cache.calibration import LEAST_TOKENS, record_outcome, record_speed
from steercache.cache.commit import RunWriter, ShardTables, begin_run
from steercache.cache.documents import PlannedShard, RunDocument
from steercache.cache.handle import CacheFolder
from steercache.cache.non_finite import REMEDIES, describe_non_finite, sum_non_finite
from steercache.cache.remote_run import RemoteRunWriter, begin_remote_run
from steercache.cache.scratch import VARIABLE as SCRATCH
from steercache.cache.scratch import scratch_parent
from steercache.cache.status import free_bytes
from steercache.core.activity import announce
from steercache.core.errors import BudgetError
from steercache.core.layout import NonFinite, ShardRecord
from steercache.core.numerics import numeric_differences
from steercache.engines.crew import ONE_HERE, EngineOptions
from steercache.models.memory import freed_memory_kept
from steercache.models.spec import LoadedModel
from steercache.runs.first_guess import guess_key
from steercache.runs.inputs import InputStream
from steercache.runs.job import PreparedTrace
from steercache.runs.overview import build_time, bytes_of_gb, decimal_bytes, enough_gb, pending_shards, sizes_of
from steercache.runs.plan import Plan, TraceJob
from steercache.runs.shard import ShardTracer, capture_of
from steercache.runs.threads import threads_restored
from steercache.runs.workers import Telling, trace_in_workers
from steercache.runs.writing import WritingThread
from steercache.store.shard import ShardWriter

SPARE_BYTES = 64 * 2**20  # left free for the index and the tables of the shard in flight
IN_SCRATCH = 4  # shards of a process that lie on the disk at once while they are sent to an object store, at most
_OpenAndCommit = tuple[
    Callable[[PlannedShard], ShardWriter], Callable[[PlannedShard, ShardWriter, ShardTables], ShardRecord | None]
]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """How a build is carried out; nothing here is part of what is built.

    `mixed_numerics` takes workers that compute other bits than the run's numerics say; their shards' records say so.
    """

    force: bool = False
    engine: EngineOptions = ONE_HERE
    mixed_numerics: bool = False
    budget_bytes: int | None = None
    on_tokens: Callable[[int], None] = field(default=lambda n_tokens: None, repr=False)
    on_note: Callable[[str], None] = field(default=lambda note: None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """What a build did. `computed_otherwise`: in which numerics the rows of a run that was complete already differ from those
    of this build, which computed nothing. `non_finite` names sites and layers with rows that are not finite, and how many."""

    run_id: str
    name: str
    n_shards_built: int
    n_shards_kept: int
    n_rows: int
    n_bytes: int
    seconds: float
    index_held_by: str | None = None
    computed_otherwise: tuple[str, ...] = ()
    non_finite: tuple[NonFinite, ...] = ()


def build_run(
    cache: CacheFolder,
    plan: Plan,
    prepared: PreparedTrace,
    options: BuildOptions = BuildOptions(),
) -> BuildResult:
    """Trace what is not in the cache yet; the model is loaded only when there is work.

    Raises:
        BusyError: another process builds this run. UsageError: begun under other numerics. BudgetError: too large, or the
        disk is full. DamagedError: the data changed since the plan.
    """
    started = time.monotonic()
    in_manifest = bytes_of_gb(prepared.job.manifest.budget_gb)
    wanted_bytes = in_manifest if options.budget_bytes is None else options.budget_bytes
    check_budget(cache, plan, pending_shards(cache, plan.document), budget_bytes=wanted_bytes, engine=options.engine)
    with _begun(cache, plan.document, force=options.force) as run:
        pending = run.pending()
        if pending and options.engine.elsewhere:
            _trace_there(run, prepared, pending, options)
        elif pending:
            with threads_restored():  # the manifest may ask for others while the model runs
                _trace_here(run, prepared.job, pending, prepared.load(), options)
        held_by = run.finish()
        total = _total(run.records())
    return BuildResult(
        run_id=run.document.run_id,
        name=run.document.name,
        n_shards_built=len(pending),
        n_shards_kept=total.n_shards - len(pending),
        n_rows=total.n_rows,
        n_bytes=total.n_bytes,
        seconds=time.monotonic() - started,
        index_held_by=held_by,
        computed_otherwise=() if pending else tuple(numeric_differences(run.document.numerics, plan.document.numerics)),
        non_finite=total.non_finite,
    )


def _begun(
    cache: CacheFolder, document: RunDocument, *, force: bool
) -> AbstractContextManager[RunWriter | RemoteRunWriter]:
    if cache.remote is None:
        return begin_run(cache, document, force=force)
    return begin_remote_run(cache, cache.remote, document, force=force)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Total:
    n_shards: int
    n_rows: int
    n_bytes: int
    non_finite: tuple[NonFinite, ...]


def _total(records: Iterable[ShardRecord]) -> _Total:
    """Sums over shards, whose records are not kept."""
    n_shards = n_rows = n_bytes = 0

    def counted() -> Iterator[ShardRecord]:
        nonlocal n_shards, n_rows, n_bytes
        for record in records:
            n_shards, n_rows, n_bytes = n_shards + 1, n_rows + record.n_rows, n_bytes + record.n_bytes
            yield record

    non_finite = sum_non_finite(counted())
    return _Total(n_shards=n_shards, n_rows=n_rows, n_bytes=n_bytes, non_finite=non_finite)


def check_budget(
    cache: CacheFolder,
    plan: Plan,
    pending: Sequence[PlannedShard],
    *,
    budget_bytes: int | None,
    engine: EngineOptions = ONE_HERE,
) -> None:
    """Refuse a build that would not fit. Raises BudgetError before anything is written."""
    needed = plan.bytes_of(pending)
    if budget_bytes is not None and needed > budget_bytes:
        raise BudgetError(
            f"the trace needs {decimal_bytes(needed)}, the budget is {decimal_bytes(budget_bytes)}: {sizes_of(plan)}",
            place=plan.document.name,
            hint="fewer `layers`, `rows: {policy: image}`, `last` or `pooled`, fewer samples (`limit`), "
            f"or a budget of {enough_gb(needed)} GB (`budget_gb`)",
        )
    if cache.remote is not None:
        _check_scratch(plan, pending, engine)
        return
    free = free_bytes(cache.root)
    if needed + SPARE_BYTES > free:
        raise BudgetError(
            f"the trace needs {decimal_bytes(needed)}, the disk has {decimal_bytes(free)} free: {sizes_of(plan)}",
            place=str(cache.root),
            hint="steercache cache gc, fewer layers or rows, or a cache on another disk",
        )


def _check_scratch(plan: Plan, pending: Sequence[PlannedShard], engine: EngineOptions) -> None:
    """Refuse a build into an object store for which this machine has no room to put shards together."""
    if engine.name != "local" or not pending:
        return  # workers of a cluster find out where they are
    folder, largest = scratch_parent(), max(plan.bytes_of([one]) for one in pending)
    needed, free = IN_SCRATCH * largest * engine.workers, free_bytes(folder)
    if needed + SPARE_BYTES > free:
        raise BudgetError(
            f"up to {IN_SCRATCH} shards of {decimal_bytes(largest)} lie on the disk before they are sent, for each of"
            f" {engine.workers} processes; the disk has {decimal_bytes(free)} free",
            place=str(folder),
            hint=f"a scratch folder on a larger disk ({SCRATCH} in the environment), fewer workers, or a smaller `shard_mib`",
        )


def _trace_here(
    run: RunWriter | RemoteRunWriter,
    job: TraceJob,
    pending: list[PlannedShard],
    loaded: LoadedModel,
    options: BuildOptions,
) -> None:
    if isinstance(run, RunWriter):
        _trace_into(run, (run.open_shard, run.commit_files), job, pending, loaded, options)
    else:
        with run.place.entered(run.document) as target:
            _trace_into(run, (target.open, target.commit), job, pending, loaded, options)


def _trace_into(
    run: RunWriter | RemoteRunWriter,
    writing: _OpenAndCommit,
    job: TraceJob,
    pending: list[PlannedShard],
    loaded: LoadedModel,
    options: BuildOptions,
) -> None:
    tell, (open_shard, commit_files) = _tell(run, options), writing

    def commit(planned: PlannedShard, writer: ShardWriter, tables: ShardTables) -> None:
        tell(planned, commit_files(planned, writer, tables))

    tracer = ShardTracer(
        loaded=loaded,
        begin_batch=capture_of(loaded, run.document),
        document=run.document,
        manifest=job.manifest,
        inputs=InputStream(job.datasets, job.bundle, max_tokens=job.manifest.max_tokens, patches=job.patches),
        open_shard=open_shard,
        commit=commit,
        on_tokens=options.on_tokens,
    )
    expected = build_time(run.cache, run.document, pending)
    announce(f"tracing {run.document.name}", expected.seconds)
    started = time.monotonic()
    with freed_memory_kept(), WritingThread() as thread:
        tracer.trace_all(pending, thread)
    model, n_tokens = run.document.model, sum(s.n_tokens for s in pending)
    if not job.patches:
        took = time.monotonic() - started
        if expected.guess_s is not None and n_tokens >= LEAST_TOKENS:
            record_outcome(run.cache.paths, guess_key(model), predicted_s=expected.guess_s, seconds=took)
        record_speed(run.cache.paths, model.fingerprint, model.dtype, n_tokens=n_tokens, seconds=took)


def _trace_there(
    run: RunWriter | RemoteRunWriter, prepared: PreparedTrace, pending: list[PlannedShard], options: BuildOptions
) -> None:
    """Trace in other processes; progress is told shard by shard."""
    tell = _tell(run, options)

    def done(planned: PlannedShard) -> None:
        options.on_tokens(planned.n_tokens)
        tell(planned, None)

    telling = Telling(on_shard=done, on_note=options.on_note)
    trace_in_workers(run, prepared.again, pending, options.engine, telling, mixed_numerics=options.mixed_numerics)


def _tell(
    run: RunWriter | RemoteRunWriter, options: BuildOptions
) -> Callable[[PlannedShard, ShardRecord | None], None]:
    """Tell the index of a committed shard, whose record is read where it is not at hand; a person who holds the index is named
    once, as is the first shard with rows that are not finite, and the build goes on."""
    told: set[str] = set()
    warned = False

    def tell(planned: PlannedShard, at_hand: ShardRecord | None) -> None:
        nonlocal warned
        record = run.record_of(planned.shard_idx) if at_hand is None else at_hand
        if record.non_finite and not warned:
            warned = True
            remedy = REMEDIES[run.document.layout.dtype]
            rows = describe_non_finite(record.non_finite, n_rows=record.n_rows)
            options.on_note(f"shard {record.shard_idx} holds {rows}; {remedy}")
        if record.computed_otherwise and "otherwise" not in told:
            told.add("otherwise")
            differences = "; ".join(record.computed_otherwise)
            options.on_note(f"shard {record.shard_idx} was computed under other numerics than the run's: {differences}")
        held_by = run.tell_index(planned.shard_idx)
        if held_by is not None and held_by not in told:
            told.add(held_by)
            options.on_note(f"the index is busy ({held_by}); rows are being committed, and the index catches up later")

    return tell
