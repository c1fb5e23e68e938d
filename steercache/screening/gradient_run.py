"""Recording a gradient run: shard by shard, batch by batch, through the same commit as any other run of the cache.

Batches belong to the shard, so that a run which was killed and taken up again has the same bytes as an undisturbed one.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from steercache.answers.costs import MachineCosts, costs_here, gradients_key, gradients_s
from steercache.answers.replies import with_pixels
from steercache.answers.work import BatchWork
from steercache.benchmarks.task import Progress
from steercache.cache.calibration import record_outcome
from steercache.cache.commit import RunWriter, ShardTables, begin_run
from steercache.cache.documents import PlannedShard
from steercache.cache.handle import CacheFolder
from steercache.cache.status import free_bytes
from steercache.core.activity import announce
from steercache.core.errors import BudgetError, DamagedError
from steercache.core.examples import EncodedSample, Example
from steercache.index.schemas import TOKENS
from steercache.models.rope import length_rule
from steercache.models.spec import LoadedModel, TokenizerBundle
from steercache.runs.inputs import InputSample
from steercache.runs.labels import LabelWriter
from steercache.runs.tables import BatchPlace, pieces, samples_table
from steercache.screening.gradient_plan import SITE, GradientPlan, GradientSample, parent_of
from steercache.steering.gradient import GradientRows, gradient_rows, margin_gradients
from steercache.trace.batches import pad_batch, plan_batches

SPARE_BYTES = 64 * 2**20
LABEL = "recording gradients"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedGradients:
    """What was recorded: the run, and how many of its shards were not there before."""

    run_id: str
    n_shards: int
    n_samples: int
    index_held_by: str | None = None


def record_gradients(
    cache: CacheFolder,
    loaded: LoadedModel,
    plan: GradientPlan,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> RecordedGradients:
    """Compute and keep what the cache does not have of a planned run. An interrupted call is resumed by the same call.

    Raises:
        BusyError: another process records this run. UsageError: it was begun under other numerics and `force` is false, or a
        target hits nothing. BudgetError: the disk is full. DamagedError: a picture can no longer be read.
    """
    free = free_bytes(cache.root)
    if plan.n_bytes + SPARE_BYTES > free:
        raise BudgetError(
            f"the gradients need {plan.n_bytes:,} bytes, the disk has {free:,} free",
            place=str(cache.root),
            hint="fewer layers, targets or questions (--n), or steercache cache gc",
        )
    document = replace(plan.document, parent_run_id=parent_of(cache, plan))
    _keep_labels(cache, plan)
    with begin_run(cache, document, force=force) as run:
        pending = run.pending()
        done = len(plan.samples) - sum(s.n_samples for s in pending)
        for planned in pending:
            done = _record_shard(run, loaded, plan, planned, done=done, progress=progress)
        held_by = run.finish()
    n_samples = sum(s.n_samples for s in pending)
    return RecordedGradients(run_id=document.run_id, n_shards=len(pending), n_samples=n_samples, index_held_by=held_by)


def record_in_time(
    cache: CacheFolder,
    loaded: LoadedModel,
    plan: GradientPlan,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> RecordedGradients:
    """`record_gradients`, with an estimate of its time announced before; the measured time corrects later estimates."""
    costs = costs_here(cache, loaded)
    predicted_s = recording_s(costs, plan, loaded.bundle)
    announce(f"{LABEL} of {len(plan.samples):,} questions", predicted_s)
    started = time.perf_counter()
    recorded = record_gradients(cache, loaded, plan, force=force, progress=progress)
    if recorded.n_samples == len(plan.samples):  # begun earlier, it says nothing of the whole
        before_correction_s = predicted_s / costs.gradient_factor
        seconds = time.perf_counter() - started
        record_outcome(cache.paths, gradients_key(costs.key), predicted_s=before_correction_s, seconds=seconds)
    return recorded


def recording_s(costs: MachineCosts, plan: GradientPlan, bundle: TokenizerBundle) -> float:
    """Seconds of recording a whole gradient run, in the batches that it is recorded in."""
    total = 0.0
    lengths = [_encoded(sample).n_tokens for sample in plan.samples]
    tokens_per_batch = plan.document.numerics["tokens_per_batch"]
    for members in plan_batches(lengths, tokens_per_batch=tokens_per_batch, rule=length_rule(bundle)):
        width, n_options = max(lengths[i] for i in members), max(len(plan.samples[i].options) for i in members)
        batch = BatchWork(n_seq=len(members), n_tokens=width, n_more=0, cells=())
        total += gradients_s(costs, batch, n_options)
    return total


def _keep_labels(cache: CacheFolder, plan: GradientPlan) -> None:
    (inputs,) = plan.document.datasets
    with LabelWriter(inputs.dataset) as labels:
        for i, sample in enumerate(plan.samples):
            labels.add(_input(inputs.dataset, i, sample))
        labels.keep(cache, inputs.inputs_digest)


def _record_shard(
    run: RunWriter,
    loaded: LoadedModel,
    plan: GradientPlan,
    planned: PlannedShard,
    *,
    done: int,
    progress: Progress | None,
) -> int:
    samples = plan.samples[planned.first_sample : planned.first_sample + planned.n_samples]
    first_slot = np.cumsum([0, *(len(s.options) * len(plan.targets) for s in samples)]).tolist()
    batches = plan_batches(
        [_encoded(s).n_tokens for s in samples],
        tokens_per_batch=run.document.numerics["tokens_per_batch"],
        rule=length_rule(loaded.bundle),
    )
    parts: list[tuple[int, GradientRows]] = []  # by the shard's number of each sample
    places: list[BatchPlace | None] = [None] * len(samples)
    writer = run.open_shard(planned)
    try:
        for batch_no, members in enumerate(batches):
            rows, padded_len = _gradients(loaded, plan, [samples[i] for i in members])
            for slot, i in enumerate(members):
                own = rows_of_sample(rows, slot)
                parts.append((i, own))
                places[i] = BatchPlace(batch_no=batch_no, slot=slot, padded_len=padded_len)
                for layer_pos, values_nd in enumerate(own.values):
                    writer.write(SITE, layer_pos, first_slot[i], np.ascontiguousarray(values_nd))
            done += len(members)
            if progress is not None:
                progress(LABEL, done, len(plan.samples))
        parts.sort(key=lambda part: part[0])
        run.commit_files(planned, writer, _tables(run, loaded, plan, planned, parts, places))
    except BaseException:
        writer.abort()
        raise
    run.tell_index(planned.shard_idx)
    return done


def _gradients(loaded: LoadedModel, plan: GradientPlan, samples: Sequence[GradientSample]) -> tuple[GradientRows, int]:
    ready, broken = with_pixels([s.one for s in samples])
    if broken:
        raise DamagedError(
            f"the data changed while it was read: {broken[0].error}",
            place=broken[0].place,
            hint="mend the picture, then run the same command again: shards that were committed are kept",
        )
    batch = pad_batch(
        [one.encoded for one in ready if one.encoded is not None], padding_side="left", pad_id=loaded.pad_id
    )
    found = margin_gradients(
        loaded,
        batch,
        [s.options for s in samples],
        layers=plan.layers,
        targets={target: plan.clauses.get(target, target) for target in plan.targets},
    )
    return gradient_rows(found), int(batch.input_ids.shape[1])


def rows_of_sample(rows: GradientRows, sample: int) -> GradientRows:
    """The rows of one sample of a batch."""
    own = rows.sample == sample
    return GradientRows(
        values=rows.values[:, own],
        sample=rows.sample[own],
        target=rows.target[own],
        option=rows.option[own],
        margin=rows.margin[own],
        n_steered=rows.n_steered[own],
        row_norms=rows.row_norms[:, own],
    )


def _tables(
    run: RunWriter,
    loaded: LoadedModel,
    plan: GradientPlan,
    planned: PlannedShard,
    parts: Sequence[tuple[int, GradientRows]],
    places: Sequence[BatchPlace | None],
) -> ShardTables:
    """Rows of `tokens` in slot order: each stands for an option under a target, at no position of its sample."""
    samples = plan.samples[planned.first_sample : planned.first_sample + planned.n_samples]
    dataset = run.document.datasets[0].dataset
    inputs = [_input(dataset, planned.first_sample + i, s) for i, s in enumerate(samples)]
    sample_idx = np.concatenate([np.full(len(p.option), planned.first_sample + i, np.int32) for i, p in parts])
    token_id = np.array([samples[i].options[k] for i, p in parts for k in p.option.tolist()], dtype=np.int32)
    n_rows, nowhere = len(sample_idx), np.full(len(sample_idx), -1, dtype=np.int32)
    first_row = planned.shard_idx * run.document.layout.rows_per_shard
    columns: dict[str, Any] = {
        "sample_idx": sample_idx,
        "row_idx": first_row + np.arange(n_rows),
        "token_id": token_id,
        "piece": pieces(token_id, loaded.tokenizer),
        "kind": pa.array(["text"] * n_rows),
        "token_type": pa.nulls(n_rows),
        "target": pa.array([plan.targets[t] for _, p in parts for t in p.target.tolist()]),
        "option_idx": np.concatenate([p.option for _, p in parts]),
        "margin": np.concatenate([p.margin for _, p in parts]),
        "n_steered": np.concatenate([p.n_steered for _, p in parts]),
        "row_norms": pa.array([norms.tolist() for _, p in parts for norms in p.row_norms.T]),
    }
    arrays = {f.name: pa.array(columns.get(f.name, nowhere)).cast(f.type) for f in TOKENS}
    return ShardTables(
        sample_idx=sample_idx,
        position=nowhere,
        token_id=token_id,
        tokens=pa.table(arrays, schema=TOKENS),
        samples=samples_table(inputs, places),
    )


def _input(dataset: str, sample_idx: int, sample: GradientSample) -> InputSample:
    """A question as builds speak of their inputs."""
    encoded, one = _encoded(sample), sample.one
    labels = replace(one.labels, split=one.split)
    example = Example(dataset=dataset, place=one.place, text=encoded.text, labels=labels)
    return InputSample(dataset=dataset, ordinal=sample_idx, sample_idx=sample_idx, example=example, encoded=encoded)


def _encoded(sample: GradientSample) -> EncodedSample:
    assert sample.one.encoded is not None  # the plan holds none that cannot be asked
    return sample.one.encoded
