"""Writing an import: files are read one after the other while a thread puts them into shards, through a build's own commit."""

import time
from collections.abc import Callable, Iterator
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
from steercache.exchange.activations.checks import refuse
from steercache.exchange.activations.inputs import NoTokenizer, PairedSample
from steercache.exchange.activations.plan import ImportPlan
from steercache.objects.mirrors import refuse_remote
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
    refuse_remote(cache.root, "importing activations", hint="do it in a folder, and push the run")
    with begin_run(cache, plan.document) as run:
        pending = run.pending()
        with (
            WritingThread() as sealing,
            WritingThread() as placing,
        ):  # while a shard goes to the disk, the next is put together
            for planned in pending:
                shard = _Shard(run=run, plan=plan, planned=planned, bad=None if allow_non_finite else bad)
                _read_shard(shard, placing, sealing, on_rows)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shard:
    """A shard under way; `bad` gathers samples with values that are not finite, None where they are allowed."""

    run: RunWriter
    plan: ImportPlan
    planned: PlannedShard
    bad: list[Problem] | None

    @property
    def members(self) -> range:
        """Its samples, by their place in the run."""
        return range(self.planned.first_sample, self.planned.first_sample + self.planned.n_samples)


def _read_shard(shard: _Shard, placing: WritingThread, sealing: WritingThread, on_rows: Callable[[int], None]) -> None:
    plan, writer = shard.plan, shard.run.open_shard(shard.planned)
    try:
        slot = 0
        for i in shard.members:
            values, kept = _values_of(plan.samples[i]), plan.kept[i]
            placing.put(partial(_place, writer, plan, kept, values, slot))
            slot += kept.n_rows
            on_rows(kept.n_rows)
        tables = _tables(plan, shard.planned)
        placing.put(lambda: sealing.put(partial(_commit, shard, writer, tables)))
    except BaseException:
        placing.drain()
        sealing.drain()
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


def _place(writer: ShardWriter, plan: ImportPlan, kept: KeptRows, values_ted: npt.NDArray[Any], slot: int) -> None:
    """Put the rows of one sample into the shard, layer by layer."""
    for site, layer_pos, rows_td in _layers(plan, values_ted):
        block_nd = _block(plan, kept, rows_td)
        if len(block_nd):
            writer.write(site, layer_pos, slot, block_nd)


def _layers(plan: ImportPlan, values_ted: npt.NDArray[Any]) -> Iterator[tuple[str, int, npt.NDArray[Any]]]:
    """(site, position of the layer, its rows (t, d)) of everything that is kept of a sample."""
    for site in plan.document.layout.sites:
        entries = plan.entries.positions if site.site == "resid_post" else (plan.entries.embedding,)
        for layer_pos, entry in enumerate(entries):
            assert entry is not None
            yield site.site, layer_pos, values_ted[:, entry]


def _block(plan: ImportPlan, kept: KeptRows, rows_td: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The rows of one layer that a sample keeps, in the dtype of the run; a view where that is enough."""
    dtype = plan.document.layout.dtype
    if kept.pools:
        return pooled_rows(rows_td, [pool.positions for pool in kept.pools], dtype=dtype)
    block_nd = rows_td if len(kept.positions) == len(rows_td) else rows_td[kept.positions]
    with np.errstate(over="ignore"):
        stored = block_nd.astype(numpy_dtype(dtype), copy=False)
    return stored if stored.strides[-1] == stored.itemsize else np.ascontiguousarray(stored)


def _commit(shard: _Shard, writer: ShardWriter, tables: ShardTables) -> None:
    """Commit a shard; where some sample before or in it is bad, nothing more is committed, and its bad samples are named."""
    bad = shard.bad

    def accept(finished: ShardWriter) -> bool:
        if bad is None or not (bad or finished.non_finite):
            return True
        bad.extend(_bad_samples(shard) if finished.non_finite else ())
        return False

    if shard.run.commit_files(shard.planned, writer, tables, accept=accept) is not None:
        shard.run.tell_index(shard.planned.shard_idx)


def _bad_samples(shard: _Shard) -> Iterator[Problem]:
    """The samples of a shard that hold values which are not finite, read again."""
    plan = shard.plan
    for i in shard.members:
        values, n_bad = _values_of(plan.samples[i]), 0
        for _, _, rows_td in _layers(plan, values):
            block_nd = np.ascontiguousarray(_block(plan, plan.kept[i], rows_td))
            dtype = plan.document.layout.dtype
            n_bad += count_non_finite(block_nd.view(bits_dtype(dtype)), dtype)
        if n_bad:
            message = f"{n_bad} rows of its layers hold infinities or NaN"
            yield Problem(loc=plan.samples[i].captured.key, kind="values", message=message)


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
