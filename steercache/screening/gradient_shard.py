"""One shard of a gradient run: questions batch by batch, their gradients into a shard's arrays, and its tables."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from steercache.answers.replies import with_pixels
from steercache.cache.commit import ShardTables
from steercache.cache.documents import PlannedShard, RunDocument
from steercache.core.errors import DamagedError
from steercache.core.examples import EncodedSample, Example
from steercache.core.trials import Target
from steercache.index.schemas import TOKENS
from steercache.models.rope import length_rule
from steercache.models.spec import LoadedModel
from steercache.queries.token_clause import TokenClause
from steercache.runs.inputs import InputSample
from steercache.runs.tables import BatchPlace, pieces, samples_table
from steercache.screening.gradient_plan import SITE, GradientPlan, GradientSample
from steercache.steering.gradient import GradientRows, gradient_rows, margin_gradients
from steercache.store.shard import ShardWriter
from steercache.trace.batches import pad_batch, plan_batches


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientShard:
    """One planned shard of a gradient run: its questions, and of what gradients are taken. `document` is the run's."""

    document: RunDocument = field(repr=False)
    planned: PlannedShard
    samples: tuple[GradientSample, ...] = field(repr=False)
    targets: tuple[Target | str, ...]
    clauses: Mapping[str, TokenClause] = field(repr=False)

    @classmethod
    def of(cls, plan: GradientPlan, document: RunDocument, planned: PlannedShard) -> "GradientShard":
        """A shard of a planned run whose document, as it was begun, is `document`; the shards planned are left out of it."""
        return cls(
            document=replace(document, shards=()),
            planned=planned,
            samples=plan.samples[planned.first_sample : planned.first_sample + planned.n_samples],
            targets=plan.targets,
            clauses=plan.clauses,
        )

    @property
    def layers(self) -> tuple[int, ...]:
        """Blocks whose outputs' gradients are kept."""
        return self.document.layout.sites[0].layers


def write_gradients(
    shard: GradientShard, loaded: LoadedModel, writer: ShardWriter, on_batch: Callable[[int], None] = lambda n: None
) -> ShardTables:
    """Compute a shard's gradients and write them; returns its tables. `on_batch` hears how many questions a batch had.

    Raises:
        DamagedError: a picture can no longer be read. UsageError: a target hits nothing.
    """
    samples = shard.samples
    first_slot = np.cumsum([0, *(len(s.options) * len(shard.targets) for s in samples)]).tolist()
    batches = plan_batches(
        [encoded_of(s).n_tokens for s in samples],
        tokens_per_batch=shard.document.numerics["tokens_per_batch"],
        rule=length_rule(loaded.bundle),
    )
    parts: list[tuple[int, GradientRows]] = []  # by the shard's number of each sample
    places: list[BatchPlace | None] = [None] * len(samples)
    for batch_no, members in enumerate(batches):
        rows, padded_len = _gradients(loaded, shard, [samples[i] for i in members])
        for slot, i in enumerate(members):
            own = rows_of_sample(rows, slot)
            parts.append((i, own))
            places[i] = BatchPlace(batch_no=batch_no, slot=slot, padded_len=padded_len)
            for layer_pos, values_nd in enumerate(own.values):
                writer.write(SITE, layer_pos, first_slot[i], np.ascontiguousarray(values_nd))
        on_batch(len(members))
    parts.sort(key=lambda part: part[0])
    return _tables(shard, loaded, parts, places)


def _gradients(
    loaded: LoadedModel, shard: GradientShard, samples: Sequence[GradientSample]
) -> tuple[GradientRows, int]:
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
        layers=shard.layers,
        targets={target: shard.clauses.get(target, target) for target in shard.targets},
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
    shard: GradientShard,
    loaded: LoadedModel,
    parts: Sequence[tuple[int, GradientRows]],
    places: Sequence[BatchPlace | None],
) -> ShardTables:
    """Rows of `tokens` in slot order: each stands for an option under a target, at no position of its sample."""
    planned, samples = shard.planned, shard.samples
    dataset = shard.document.datasets[0].dataset
    inputs = [input_of(dataset, planned.first_sample + i, s) for i, s in enumerate(samples)]
    sample_idx = np.concatenate([np.full(len(p.option), planned.first_sample + i, np.int32) for i, p in parts])
    token_id = np.array([samples[i].options[k] for i, p in parts for k in p.option.tolist()], dtype=np.int32)
    n_rows, nowhere = len(sample_idx), np.full(len(sample_idx), -1, dtype=np.int32)
    first_row = planned.shard_idx * shard.document.layout.rows_per_shard
    columns: dict[str, Any] = {
        "sample_idx": sample_idx,
        "row_idx": first_row + np.arange(n_rows),
        "token_id": token_id,
        "piece": pieces(token_id, loaded.tokenizer),
        "kind": pa.array(["text"] * n_rows),
        "token_type": pa.nulls(n_rows),
        "target": pa.array([shard.targets[t] for _, p in parts for t in p.target.tolist()]),
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


def input_of(dataset: str, sample_idx: int, sample: GradientSample) -> InputSample:
    """A question as builds speak of their inputs."""
    encoded, one = encoded_of(sample), sample.one
    labels = replace(one.labels, split=one.split)
    example = Example(dataset=dataset, place=one.place, text=encoded.text, labels=labels)
    return InputSample(dataset=dataset, ordinal=sample_idx, sample_idx=sample_idx, example=example, encoded=encoded)


def encoded_of(sample: GradientSample) -> EncodedSample:
    assert sample.one.encoded is not None  # the plan holds none that cannot be asked
    return sample.one.encoded
