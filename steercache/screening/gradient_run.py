"""Recording a gradient run: shard by shard, batch by batch, through the same commit as any other run of the cache.

Batches belong to the shard, so that a run which was killed and taken up again has the same bytes as an undisturbed one.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from steercache.answers.costs import MachineCosts, costs_here, gradients_key, gradients_s
from steercache.answers.model_workers import ModelWorker, packed
from steercache.answers.work import BatchWork
from steercache.benchmarks.task import Progress
from steercache.cache.calibration import record_outcome
from steercache.cache.commit import RunWriter, begin_run, commit_files, open_shard
from steercache.cache.documents import PlannedShard
from steercache.cache.handle import CacheFolder
from steercache.cache.status import free_bytes
from steercache.core.activity import announce
from steercache.core.errors import BudgetError
from steercache.core.numerics import BATCHING, numeric_differences
from steercache.engines.crew import Crew
from steercache.models.rope import length_rule
from steercache.models.spec import LoadedModel, TokenizerBundle
from steercache.objects.mirrors import refuse_remote
from steercache.runs.labels import LabelWriter
from steercache.screening.gradient_plan import GradientPlan, parent_of
from steercache.screening.gradient_shard import GradientShard, encoded_of, input_of, write_gradients
from steercache.store.staging import Staging
from steercache.trace.batches import plan_batches

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
    crew: Crew[Any, Any] | None = None,
    progress: Progress | None = None,
) -> RecordedGradients:
    """Compute and keep what the cache does not have of a planned run. An interrupted call is resumed by the same call.

    `crew` are the workers that compute (`answers.model_workers`); None: this process.

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
    refuse_remote(cache.root, "keeping gradients", hint="do it in a folder, and push the run")
    with begin_run(cache, document, force=force) as run:
        pending = run.pending()
        done = len(plan.samples) - sum(s.n_samples for s in pending)

        def count(n_samples: int) -> None:
            nonlocal done
            done += n_samples
            if progress is not None:
                progress(LABEL, done, len(plan.samples))

        if crew is not None:
            _record_elsewhere(crew, run, plan, pending, count)
        else:
            for planned in pending:
                _record_shard(run, loaded, plan, planned, count)
        held_by = run.finish()
    n_samples = sum(s.n_samples for s in pending)
    return RecordedGradients(run_id=document.run_id, n_shards=len(pending), n_samples=n_samples, index_held_by=held_by)


def record_in_time(
    cache: CacheFolder,
    loaded: LoadedModel,
    plan: GradientPlan,
    *,
    force: bool = False,
    crew: Crew[Any, Any] | None = None,
    progress: Progress | None = None,
) -> RecordedGradients:
    """`record_gradients`, with an estimate of its time announced before; the measured time corrects later estimates."""
    if crew is not None:
        return record_gradients(cache, loaded, plan, force=force, crew=crew, progress=progress)
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
    lengths = [encoded_of(sample).n_tokens for sample in plan.samples]
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
            labels.add(input_of(inputs.dataset, i, sample))
        labels.keep(cache, inputs.inputs_digest)


def _record_shard(
    run: RunWriter, loaded: LoadedModel, plan: GradientPlan, planned: PlannedShard, on_batch: Callable[[int], None]
) -> None:
    writer = run.open_shard(planned)
    try:
        run.commit_files(
            planned, writer, write_gradients(GradientShard.of(plan, run.document, planned), loaded, writer, on_batch)
        )
    except BaseException:
        writer.abort()
        raise
    run.tell_index(planned.shard_idx)


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientTask:
    """A shard for a worker, packed: it computes gradients and commits the shard's files. Gives back its numerics, where they
    are not the caller's."""

    planned: PlannedShard
    shard: bytes = field(repr=False)

    def on(self, host: ModelWorker) -> Mapping[str, Any] | None:
        """Compute and commit."""
        shard: GradientShard = host.unpacked(self.shard)
        paths, own = host.cache.run_paths(shard.document.run_id), host.other_numerics
        writer = open_shard(paths, shard.document, shard.planned, Staging())
        try:
            tables = write_gradients(shard, host.loaded, writer)
            recorded = {name: value for name, value in shard.document.numerics.items() if name not in BATCHING}
            otherwise = () if own is None else tuple(numeric_differences(recorded, own))
            commit_files(paths, shard.planned, writer, tables, computed_otherwise=otherwise)
        except BaseException:
            writer.abort()
            raise
        return own


def _record_elsewhere(
    crew: Crew[GradientTask, Mapping[str, Any] | None],
    run: RunWriter,
    plan: GradientPlan,
    pending: Sequence[PlannedShard],
    on_batch: Callable[[int], None],
) -> None:
    tasks = [GradientTask(planned=one, shard=packed(GradientShard.of(plan, run.document, one))) for one in pending]

    def done(task: GradientTask, numerics: Mapping[str, Any] | None) -> None:
        if numerics is not None:
            batching = {name: value for name, value in run.document.numerics.items() if name in BATCHING}
            run.admit_numerics({**numerics, **batching})
        run.tell_index(task.planned.shard_idx)
        on_batch(task.planned.n_samples)

    crew.do(tasks, done)
