"""Trace one shard: encode its samples, run its batches, hand every batch to the writing thread, commit."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from steercache.cache.commit import ShardTables
from steercache.cache.documents import PlannedShard, RunDocument
from steercache.core.errors import DamagedError, UsageError
from steercache.core.examples import EncodedSample
from steercache.core.numerics import BATCHING, numeric_differences, require_same_numerics
from steercache.manifests.trace import TraceManifest
from steercache.models.rope import LengthRule, alone, any_length, length_rule
from steercache.models.spec import LoadedModel
from steercache.runs.inputs import InputSample, InputStream
from steercache.runs.packing import digest_of_inputs
from steercache.runs.pooling import pooled_rows
from steercache.runs.prefetch import prefetched
from steercache.runs.rows import KeptRows, TokenPool, kept_rows
from steercache.runs.sharing import PrefixOwners, SharedRows
from steercache.runs.tables import BatchPlace, shard_tables
from steercache.runs.writing import WritingThread
from steercache.store.dtypes import numpy_dtype
from steercache.store.shard import ShardWriter
from steercache.store.site_file import Piece
from steercache.trace.batches import PaddedBatch, pad_batch, plan_batches
from steercache.trace.capture import Begin, Captured, make_begin
from steercache.trace.numerics import numerics_of
from steercache.trace.prompt import ImageError
from steercache.trace.tower import padded_together

Positions = npt.NDArray[np.int64]
Rows = Positions | tuple[TokenPool, ...]  # of one sample: single tokens, or means
_Members = tuple[int, Sequence[int]]  # number of a batch in its shard, and its samples
Commit = Callable[[PlannedShard, ShardWriter, ShardTables], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedRows:
    """The rows that one sample keeps, from `slot` of its shard on; its first token is row `begin` of the batch's block."""

    slot: int
    begin: int
    kept: Rows


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedShard:
    """A shard before its first forward pass: its samples encoded, the rows that they keep, and its batches."""

    planned: PlannedShard
    samples: Sequence[InputSample]
    kept: Sequence[KeptRows]
    shared: list[SharedRows] | None
    batches: Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTracer:
    """What tracing needs beside the shard itself; one per process."""

    loaded: LoadedModel
    begin_batch: Begin
    document: RunDocument
    manifest: TraceManifest
    inputs: InputStream
    open_shard: Callable[[PlannedShard], ShardWriter]
    commit: Commit
    on_tokens: Callable[[int], None] = lambda n_tokens: None

    def trace(self, planned: PlannedShard, writing: WritingThread) -> None:
        """Encode and compute one shard; its last batches and its commit may still be under way when this returns.

        Raises:
            DamagedError: the data is no longer what was planned.
        """
        self.compute(self.encode(planned), writing)

    def trace_all(self, pending: Sequence[PlannedShard], writing: WritingThread) -> None:
        """Shard after shard. Where a GPU computes, the next one is encoded meanwhile.

        On the CPU a thread that encodes would take from the passes what it gains.
        """
        if not encodes_ahead(self.loaded):
            for planned in pending:
                self.trace(planned, writing)
            return
        with closing(prefetched(self.encode, pending)) as shards:
            for shard in shards:
                self.compute(shard, writing)

    def encode(self, planned: PlannedShard) -> EncodedShard:
        """What can be done without the model; shards come in the order of the data. Raises as `trace`."""
        samples = self._samples(planned)
        kept = [kept_rows(s.units, self.manifest.rows, sink=s.patches is None) for s in samples]
        batches = plan_batches(
            [s.units.n_tokens for s in samples],
            tokens_per_batch=self.manifest.numerics.padded_tokens,
            rule=self._rule(),
        )
        shared = self._shared(samples, kept)
        return EncodedShard(planned=planned, samples=samples, kept=kept, shared=shared, batches=batches)

    def compute(self, shard: EncodedShard, writing: WritingThread) -> None:
        """Run a shard's batches; the last ones and the commit may still be under way when this returns."""
        planned, samples, kept, shared = shard.planned, shard.samples, shard.kept, shard.shared
        own = [k.positions for k in kept] if shared is None else [s.own for s in shared]
        rows: list[Rows] = [k.pools or positions for k, positions in zip(kept, own, strict=True)]
        first_slot = np.cumsum([0, *(len(r) for r in rows)])
        batches = shard.batches
        writer = self.open_shard(planned)
        places: list[BatchPlace | None] = [None] * len(samples)
        before: Captured | None = None
        try:
            with closing(prefetched(partial(self._pad_members, samples), self._to_run(samples, batches))) as padded:
                for batch_no, batch in padded:
                    members = batches[batch_no]
                    padded_len = int(batch.input_ids.shape[1])
                    for slot, i in enumerate(members):
                        places[i] = BatchPlace(batch_no=batch_no, slot=slot, padded_len=padded_len)
                    captured = self._compute(
                        batch,
                        [samples[i] for i in members],
                        writer,
                        writing,
                        [(int(first_slot[i]), rows[i]) for i in members],
                    )
                    if before is not None:
                        before.settle()  # what two batches handed out is all that the GPU holds
                    before = captured
                    self.on_tokens(sum(samples[i].units.n_tokens for i in members))
            tables = shard_tables(
                samples,
                own,
                places,
                first_row=planned.shard_idx * self.document.layout.rows_per_shard,
                tokenizer=self.loaded.tokenizer,
                shared=shared,
                pools=[k.pools for k in kept],
            )
            writing.put(lambda: self.commit(planned, writer, tables))
        except BaseException:
            writing.drain()
            writer.abort()
            raise

    def _rule(self) -> LengthRule:
        """Which samples may share a batch; where rows are patches, their number says nothing of the number of tokens."""
        rule = length_rule(self.loaded.bundle)
        if "vision_out" not in self.manifest.sites:
            return rule
        return alone if rule is not any_length or padded_together(self.loaded.family) else rule

    def _shared(self, samples: Sequence[InputSample], kept: Sequence[KeptRows]) -> list[SharedRows] | None:
        """Who shares rows with whom, as the plan counted it; None in a run where nobody does."""
        if not self.manifest.share_prefix:
            return None
        owners = PrefixOwners()
        return [owners.take(s.encoded, k.positions) for s, k in zip(samples, kept, strict=True)]

    def _to_run(self, samples: Sequence[InputSample], batches: Sequence[Sequence[int]]) -> Iterable[_Members]:
        """Batches with their numbers; of a run of `vision_out` only those that hold a picture."""
        for batch_no, members in enumerate(batches):
            if any(samples[i].units.n_tokens for i in members):
                yield batch_no, members

    def _pad_members(self, samples: Sequence[InputSample], numbered: _Members) -> tuple[int, PaddedBatch]:
        batch_no, members = numbered
        return batch_no, self._pad([samples[i] for i in members])

    def _compute(
        self,
        batch: PaddedBatch,
        samples: Sequence[InputSample],
        writer: ShardWriter,
        writing: WritingThread,
        rows: Sequence[tuple[int, Rows]],
    ) -> Captured:
        captured = self.begin_batch(batch)
        if "vision_out" in captured.shapes:
            lengths = [s.units.n_tokens for s in samples]
            check_tower(captured.shapes["vision_out"][0], sum(lengths), place=self.loaded.spec.name)
            begins = list(accumulate(lengths[:-1], initial=0))
        else:
            padded_len = int(batch.input_ids.shape[1])
            begins = [i * padded_len + start for i, start in enumerate(batch.starts)]
        placed = [
            PlacedRows(slot=slot, begin=begin, kept=kept) for begin, (slot, kept) in zip(begins, rows, strict=True)
        ]
        writing.put(partial(write_batch, captured, placed, writer))
        return captured

    def _pad(self, samples: Sequence[InputSample]) -> PaddedBatch:
        side = self.manifest.numerics.padding_side
        encoded = [_naming_broken(s) for s in samples]
        return pad_batch(encoded, padding_side=side, pad_id=self.loaded.pad_id)

    def _samples(self, planned: PlannedShard) -> list[InputSample]:
        samples = self.inputs.take(planned.first_sample, planned.n_samples)
        if digest_of_inputs([s.encoded.sample_id for s in samples]) != planned.input_digest:
            raise DamagedError(
                f"the data changed while it was traced: samples {planned.first_sample} to "
                f"{planned.first_sample + planned.n_samples - 1} are not those that were planned",
                place=self.document.name,
                hint="run the same command again: it plans anew, and shards that fit are kept",
            )
        return samples


def capture_of(loaded: LoadedModel, document: RunDocument, *, other_numerics_too: bool = False) -> Begin:
    """What captures the sites and layers of a run, batch after batch; means are taken of what the model computed.

    Raises:
        UsageError: this process would compute other bits than the run's numerics say (unless `other_numerics_too`).
    """
    if not other_numerics_too:
        recorded, found = _both_numerics(loaded, document)
        require_same_numerics(recorded, found, place=document.name)
    layout = document.layout
    layers = next((s.layers for s in layout.sites if s.layers != (-1,)), ())
    dtype = None if document.manifest.get("rows", {}).get("policy") == "pooled" else layout.dtype
    return make_begin(loaded, sites=[s.site for s in layout.sites], layers=layers, dtype=dtype)


def other_numerics(loaded: LoadedModel, document: RunDocument) -> tuple[list[str], dict[str, Any]]:
    """What this process's numerics differ in from the run's, one phrase each, and those numerics."""
    recorded, found = _both_numerics(loaded, document)
    return numeric_differences(recorded, found), found


def _both_numerics(loaded: LoadedModel, document: RunDocument) -> tuple[dict[str, Any], dict[str, Any]]:
    n_threads = document.numerics.get("threads")
    recorded = {name: value for name, value in document.numerics.items() if name not in BATCHING}
    return recorded, numerics_of(loaded, n_threads=n_threads if isinstance(n_threads, int) else None)


def encodes_ahead(loaded: LoadedModel) -> bool:
    """Whether the model computes where encoding costs it nothing."""
    return bool(loaded.model.device.type == "cuda")


def check_tower(shape: torch.Size, n_patches: int, *, place: str) -> None:
    """Refuse a vision tower that hands on another number of rows than were counted. Raises UsageError."""
    n_rows = shape[:-1].numel()
    if n_rows != n_patches:
        raise UsageError(
            f"the vision tower hands on {n_rows} rows where {n_patches} patches were counted: its places are not known",
            place=place,
            hint="trace connector_out, which is kept by image token",
        )


def _naming_broken(sample: InputSample) -> EncodedSample:
    """The sample to be padded; a picture that can no longer be read is named with its place."""
    load = sample.encoded.pixels
    if load is None:
        return sample.encoded

    def pixels() -> Mapping[str, Any]:
        try:
            return load()
        except ImageError as error:
            raise DamagedError(
                f"the data changed while it was traced: {error}",
                place=sample.example.place,
                hint="mend the picture, then run the same command again: shards that were committed are kept",
            ) from error

    return replace(sample.encoded, pixels=pixels)


def write_batch(captured: Captured, placed: Sequence[PlacedRows], writer: ShardWriter) -> None:
    """Write the rows that the samples of one batch keep, when they are on the host."""
    pieces: list[Piece] = []
    pooled: list[tuple[int, list[Positions]]] = []
    for sample in placed:
        if isinstance(sample.kept, tuple):
            pooled.append((sample.slot, [sample.begin + pool.positions for pool in sample.kept]))
        else:
            pieces.append(writer.piece(sample.slot, sample.begin + sample.kept))
    for site, layers in captured.states().items():
        for layer_pos, block in enumerate(layers):
            block_md = as_numpy(block).reshape(-1, block.shape[-1])
            if pieces:
                writer.write_pieces(site, layer_pos, block_md, pieces)
            for slot, pools in pooled:
                writer.write(site, layer_pos, slot, pooled_rows(block_md, pools, dtype=writer.layout.dtype))


def as_numpy(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """A CPU tensor's own memory as an array of the same dtype (bfloat16 is numpy's by ml_dtypes)."""
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view(numpy_dtype("bfloat16"))
    array: npt.NDArray[Any] = tensor.numpy()
    return array
