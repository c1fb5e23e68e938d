"""Writing an import: files are read one after the other while a thread puts them into shards, through a build's own commit."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from steercache.cache.commit import RunWriter, ShardTables, begin_run
from steercache.cache.documents import PlannedShard
from steercache.cache.handle import CacheFolder
from steercache.cache.status import free_bytes
from steercache.core.errors import BudgetError, DamagedError, Problem
from steercache.core.layout import DType
from steercache.exchange.activations.checks import refuse
from steercache.exchange.activations.inputs import NoTokenizer, PairedSample
from steercache.exchange.activations.plan import ImportPlan
from steercache.runs.labels import LabelWriter
from steercache.runs.pooling import pooled_rows
from steercache.runs.rows import KeptRows
from steercache.runs.tables import shard_tables
from steercache.runs.writing import WritingThread
from steercache.store.dtypes import bits_dtype, numpy_dtype
from steercache.store.non_finite import count_non_finite
from steercache.store.shard import ShardWriter

SPARE_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOutcome:
    """What an import wrote."""

    n_shards_written: int
    n_shards_kept: int
    n_bytes: int
    seconds: float
    index_held_by: str | None = None


def write_import(
    cache: CacheFolder,
    plan: ImportPlan,
    *,
    allow_non_finite: bool = False,
    on_rows: Callable[[int], None] = lambda n_rows: None,
) -> ImportOutcome:
    """Take in what the cache does not have of a planned import; the same call goes on after a kill.

    Raises:
        ManifestError: values that are not finite, every sample named; shards before them stay.
        DamagedError: a file changed since it was planned. BusyError: another process writes this run. BudgetError: no space.
    """
    started = time.monotonic()
    free = free_bytes(cache.root)
    if plan.n_bytes + SPARE_BYTES > free:
        raise BudgetError(
            f"the rows need {plan.n_bytes:,} bytes, the disk has {free:,} free",
            place=str(cache.root),
            hint="fewer layers or rows, or a cache on another disk",
        )
    _keep_labels(cache, plan)
    bad: list[Problem] = []
    with begin_run(cache, plan.document) as run:
        pending = run.pending()
        with WritingThread() as writing:
            for planned in pending:
                _read_shard(run, plan, planned, writing, bad if not allow_non_finite else None, on_rows)
        refuse(bad, n=len(plan.samples), place=plan.document.name)
        held_by = run.finish()
        records = run.records()
    return ImportOutcome(
        n_shards_written=len(pending),
        n_shards_kept=len(records) - len(pending),
        n_bytes=sum(r.n_bytes for r in records),
        seconds=time.monotonic() - started,
        index_held_by=held_by,
    )


def _keep_labels(cache: CacheFolder, plan: ImportPlan) -> None:
    for part in plan.document.datasets:
        with LabelWriter(part.dataset) as labels:
            for one in plan.samples[part.first_sample : part.first_sample + part.n_samples]:
                labels.add(one.input)
            labels.keep(cache, part.inputs_digest)


def _read_shard(
    run: RunWriter,
    plan: ImportPlan,
    planned: PlannedShard,
    writing: WritingThread,
    bad: list[Problem] | None,
    on_rows: Callable[[int], None],
) -> None:
    members = range(planned.first_sample, planned.first_sample + planned.n_samples)
    writer = run.open_shard(planned)
    try:
        slot = 0
        for i in members:
            values = _values_of(plan.samples[i])
            kept = plan.kept[i]
            writing.put(partial(_place, writer, plan, plan.samples[i], kept, values, slot, bad))
            slot += kept.n_rows
            on_rows(kept.n_rows)
        tables = _tables(plan, planned)
        writing.put(partial(_commit, run, planned, writer, tables, bad))
    except BaseException:
        writing.drain()
        writer.abort()
        raise


def _values_of(one: PairedSample) -> npt.NDArray[Any]:
    captured = one.captured
    wanted = (captured.n_rows, captured.n_entries, captured.width)
    try:
        values = captured.read()
    except (OSError, ValueError, KeyError) as error:
        raise DamagedError(f"{captured.key} can no longer be read: {error}", place=captured.place) from error
    if values.shape != wanted:
        raise DamagedError(f"{captured.key} has changed: {values.shape}, was {wanted}", place=captured.place)
    return values


def _place(
    writer: ShardWriter,
    plan: ImportPlan,
    one: PairedSample,
    kept: KeptRows,
    values_ted: npt.NDArray[Any],
    slot: int,
    bad: list[Problem] | None,
) -> None:
    """Put the rows of one sample into the shard, layer by layer; note it in `bad` when a value is not finite."""
    layout, entries = plan.document.layout, plan.entries
    n_bad = 0
    for site in layout.sites:
        positions = entries.positions if site.site == "resid_post" else (entries.embedding,)
        for layer_pos, entry in enumerate(positions):
            assert entry is not None
            rows_td = values_ted[:, entry]
            if kept.pools:
                pools = [pool.positions for pool in kept.pools]
                block_nd = pooled_rows(rows_td, pools, dtype=layout.dtype)
            else:
                whole = len(kept.positions) == len(rows_td)
                block_nd = rows_td if whole else rows_td[kept.positions]
                block_nd = _converted(block_nd, layout.dtype)
            if bad is not None:
                n_bad += count_non_finite(block_nd.view(bits_dtype(layout.dtype)), layout.dtype)
            if len(block_nd):
                writer.write(site.site, layer_pos, slot, block_nd)
    if n_bad and bad is not None:
        message = f"{n_bad} rows of its layers hold infinities or NaN"
        bad.append(Problem(loc=one.captured.key, kind="values", message=message))


def _converted(block_nd: npt.NDArray[Any], dtype: DType) -> npt.NDArray[Any]:
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(block_nd.astype(numpy_dtype(dtype), copy=False))


def _commit(
    run: RunWriter, planned: PlannedShard, writer: ShardWriter, tables: ShardTables, bad: list[Problem] | None
) -> None:
    if bad:
        writer.abort()
        return
    run.commit_files(planned, writer, tables)
    run.tell_index(planned.shard_idx)


def _tables(plan: ImportPlan, planned: PlannedShard) -> ShardTables:
    chosen = slice(planned.first_sample, planned.first_sample + planned.n_samples)
    samples = [one.input for one in plan.samples[chosen]]
    kept = plan.kept[chosen]
    return shard_tables(
        samples,
        [k.positions for k in kept],
        [None] * len(samples),
        first_row=planned.shard_idx * plan.document.layout.rows_per_shard,
        tokenizer=plan.tokenizer or NoTokenizer(),
        pools=[k.pools for k in kept],
    )
