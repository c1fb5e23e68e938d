"""First-token answers from rows on disk: the cached output of block l plus alpha * v, and only the blocks above l run.

Neither the vision tower nor any block below runs: the model's own forward makes masks and positions with its blocks idle
(`prefill.BlockTape`), and hidden states come from a replayable run. In the composition in which the run recorded its batches
(samples, order, padded length, side) logits are bit-identical to the full steered forward; rows of padding are not stored and
are zeros here, which no real token attends to. (A mixture of experts computes them beside the real ones: padded batches of one
agree within rounding.) Where the decoder adds features of the pictures to the outputs of its first
blocks (`deepstack`), the rows of such a layer lack what is added above them: the vision tower then runs, and wants the pixels;
so does that of Gemma 4's small models, where every block gets an input that is made of the pictures.
Refused: runs whose rows were dropped or made lossy, that belong to other
weights, another tokenizer, another compute dtype, other prompts or other pictures, or that other kernels computed (attention,
device, what `trace.numerics` measures).
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import torch

from steercache.cache.again import build_command
from steercache.core.errors import UsageError
from steercache.core.numerics import BATCHING, READING, numeric_differences, settings_of
from steercache.core.selection import RowIndex, RowSource
from steercache.models.load import TORCH_DTYPES
from steercache.models.sharing import feeds_pictures_to_blocks
from steercache.models.spec import LoadedModel
from steercache.steering.branch import BranchOptions, branch, branch_from
from steercache.steering.cells import BranchCell, CellAnswers
from steercache.steering.decode import KeysValues
from steercache.steering.deepstack import n_with_features
from steercache.steering.forward import BranchCache, Stacking, call_obstacle, head_logits, run_blocks
from steercache.steering.live import parts_of
from steercache.steering.prefill import (
    BlockTape,
    Prefill,
    check_layers,
    fresh_cache,
    keep_of,
    next_positions,
    quantised_obstacle,
    read_prompts,
)
from steercache.trace.batches import PaddedBatch
from steercache.trace.numerics import numerics_of

FIRST_TOKEN = BranchOptions(max_new_tokens=1)
_FOR_TOWERS: Final = ("pixel_", "input_features")  # how inputs of vision towers, and of those that hear, begin


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What must match before a run's rows can replace a forward pass: `dtype` is what the model computed in, `stored_dtype`
    what its rows are kept in, `numerics` those of `run.json`."""

    name: str
    fingerprint: str
    tokenizer_digest: str
    dtype: str
    stored_dtype: str
    replayable: bool
    lossy: bool
    numerics: Mapping[str, Any]


class StoredBatch(Protocol):
    """Block outputs of samples, slot by slot: of one batch as it was recorded (`as_recorded`), or of samples from several."""

    @property
    def facts(self) -> RunFacts: ...

    @property
    def padded_len(self) -> int: ...

    @property
    def as_recorded(self) -> bool: ...

    @property
    def token_ids(self) -> Sequence[npt.NDArray[np.int32]]:
        """What the run read, per sample (t,)."""
        ...

    @property
    def sample_ids(self) -> Sequence[str]:
        """Hashes of all that the run read: token ids, token types, pictures."""
        ...

    def block_outputs(self, layer: int) -> Sequence[npt.NDArray[Any]]:
        """Per sample (t, d), in the stored dtype. Raises NotFoundError for a layer that was not kept."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GatheredBatch:
    """A batch over the rows of a run: `rows` and `token_ids` have one array (t,) per sample, in slot order."""

    facts: RunFacts
    padded_len: int
    as_recorded: bool
    sample_ids: Sequence[str] = field(repr=False)
    token_ids: Sequence[npt.NDArray[np.int32]] = field(repr=False)
    rows: Sequence[RowIndex] = field(repr=False)
    source: RowSource = field(repr=False)

    def block_outputs(self, layer: int) -> Sequence[npt.NDArray[Any]]:
        """Rows of one layer, sample by sample."""
        lengths = [len(rows) for rows in self.rows]
        gathered = self.source.gather("resid_post", layer, np.concatenate(self.rows))
        return np.split(gathered, np.cumsum(lengths)[:-1])


def replay(
    loaded: LoadedModel,
    batch: PaddedBatch,
    cells: Sequence[BranchCell],
    *,
    stored: StoredBatch,
    options: BranchOptions = FIRST_TOKEN,
) -> Iterator[CellAnswers]:
    """First-token answers of every cell over a recorded batch, layer by layer. Pixels of `batch` are looked at only for cells
    at the first layers of a decoder with `deepstack`, and where blocks receive something made of them.

    A model whose blocks cannot be run alone is branched instead, which runs it in full and says why.

    Raises:
        UsageError: the run does not fit this model or batch, the answers have more than one token, or pixels are wanted and
            the batch has none.
        BudgetError: one cell over this batch does not fit into the memory budget.
    """
    check_fit(loaded, batch, stored, options)
    idle = idle_prefill(loaded, batch, features=_wants_features(loaded, batch, cells, stored))
    check_layers(idle.parts, [cell.layer for cell in cells])
    if idle.obstacle is not None:
        yield from branch(loaded, batch, cells, options)
        return
    for layer, members in groupby(sorted(cells, key=lambda cell: cell.layer), key=lambda cell: cell.layer):
        at_layer = list(members)
        yield from branch_from(_from_disk(idle, stored, layer, at_layer, options), at_layer, options)


def check_fit(loaded: LoadedModel, batch: PaddedBatch, stored: StoredBatch, options: BranchOptions) -> None:
    """Raises UsageError when the stored rows are not what this model would compute on this batch."""
    facts, spec = stored.facts, loaded.spec
    again = f"trace the data with this model again: `{build_command(facts.name)}`"
    if options.max_new_tokens != 1:
        raise UsageError(
            "a replay gives first tokens only: keys and values of the blocks below are not stored", hint="branch"
        )
    if not facts.replayable:
        raise UsageError(
            f"the run {facts.name!r} did not keep every row",
            hint="trace with `rows: {policy: all}`, without `share_prefix`",
        )
    if facts.lossy or facts.stored_dtype != facts.dtype:
        raise UsageError(f"the rows of the run {facts.name!r} are not bit for bit what the model computed", hint=again)
    stale = [
        what
        for what, theirs, ours in (
            ("weights", facts.fingerprint, spec.fingerprint),
            ("tokenizer", facts.tokenizer_digest, spec.tokenizer_digest),
            ("compute dtype", facts.dtype, spec.dtype),
        )
        if theirs != ours
    ]
    if stale:
        raise UsageError(f"the run {facts.name!r} is stale: it has other {' and '.join(stale)}", hint=again)
    different = misfit_of_numerics(facts.numerics, loaded, as_recorded=stored.as_recorded)
    if different:
        raise UsageError(f"the run {facts.name!r} {different}", hint=f"branch; or {again}")
    _check_batch(loaded, batch, stored, again)


def misfit_of_numerics(recorded: Mapping[str, Any], loaded: LoadedModel, *, as_recorded: bool = False) -> str | None:
    """Why rows computed under `recorded` are not bit for bit what this model would compute here; None: they are.

    Rows that are put into other batches than those of their run agree within rounding anyway: then the number of threads and
    the composition of batches do not count, and the kernels are compared on as many threads as the run had.
    """
    regrouped = BATCHING if as_recorded else BATCHING | {"threads"}
    for numerics in settings_of(recorded):
        threads = None if as_recorded else numerics.get("threads")
        usable = min(threads, os.cpu_count() or 1) if isinstance(threads, int) else None
        now = numerics_of(loaded, n_threads=usable)
        different = numeric_differences(numerics, now, ignore=READING | regrouped)
        if different:
            return f"was computed under other numerics: {'; '.join(different)}"
    return None


def _wants_features(loaded: LoadedModel, batch: PaddedBatch, cells: Sequence[BranchCell], stored: StoredBatch) -> bool:
    """Whether the decoder adds features of pictures above some cell's rows, or hands something made of them to blocks there.

    Raises:
        UsageError: they cannot be computed.
    """
    n_first = n_with_features(loaded)
    layer = min((cell.layer for cell in cells), default=n_first)
    if layer >= n_first or not _shows_pictures(loaded, batch):
        return False
    if not any(name.startswith("pixel_") for name in batch.pixels):
        what = f"adds features of them to the outputs of its first {n_first} blocks"
        hint = f"choose layers from {n_first} on, "
        if feeds_pictures_to_blocks(loaded.config):
            what, hint = "hands an input that is made of them to every block", ""
        raise UsageError(
            f"a replay from layer {layer} needs the pixels of the pictures: this decoder {what}, which the run does not"
            " hold",
            place=stored.facts.name,
            hint=f"make the batch with its pixels, {hint}or branch",
        )
    return True


def _shows_pictures(loaded: LoadedModel, batch: PaddedBatch) -> bool:
    """Whether a prompt has pictures or videos."""
    ids = batch.input_ids
    return bool(torch.isin(ids, torch.tensor(loaded.shown_ids, dtype=ids.dtype, device=ids.device)).any())


def _check_batch(loaded: LoadedModel, batch: PaddedBatch, stored: StoredBatch, again: str) -> None:
    """Raises UsageError when the batch holds other samples than the stored ones, or holds them otherwise."""
    facts = stored.facts
    if len(stored.token_ids) != len(batch.lengths) or stored.padded_len != batch.input_ids.shape[1]:
        raise UsageError(
            f"the run {facts.name!r} recorded {len(stored.token_ids)} samples padded to {stored.padded_len}, "
            f"the batch has {len(batch.lengths)} padded to {batch.input_ids.shape[1]}",
            hint="batch the samples as the run's samples table says (batch_no, slot, padded_len)",
        )
    side = facts.numerics.get("padding_side")
    if stored.as_recorded and None not in (side, batch.padding_side) and side != batch.padding_side:
        raise UsageError(
            f"the run {facts.name!r} was padded on the {side}, the batch on the {batch.padding_side}",
            hint=f"padding_side={side!r} when the batch is made",
        )
    for slot, ids in enumerate(stored.token_ids):
        start = batch.starts[slot]
        if not np.array_equal(ids, batch.input_ids[slot, start : start + batch.lengths[slot]].cpu().numpy()):
            raise UsageError(
                f"the run {facts.name!r} is stale: sample {slot} of the batch is another prompt", hint=again
            )
    if batch.image_digests is None and _shows_pictures(loaded, batch):
        raise UsageError(
            "the pictures of the batch are unknown: it has no `image_digests`",
            place=facts.name,
            hint="make the batch with `pad_batch` from encoded samples",
        )
    for slot, (theirs, ours) in enumerate(zip(stored.sample_ids, batch.sample_ids(), strict=True)):
        if theirs != ours:
            raise UsageError(
                f"the run {facts.name!r} is stale: sample {slot} of the batch has other pictures or token types",
                hint=again,
            )


@torch.inference_mode()
def idle_prefill(loaded: LoadedModel, batch: PaddedBatch, *, features: bool = False) -> Prefill:
    """Everything a forward pass over the batch would hand to its blocks, without running vision tower or blocks.

    With `features` the tower runs, for what the decoder adds between its blocks or hands to them.
    """
    parts, prompts = parts_of(loaded), read_prompts(loaded, batch)
    inputs = {name: value for name, value in prompts.inputs.items() if features or not name.startswith(_FOR_TOWERS)}
    keep = keep_of(parts, prompts)
    cache, other_state = fresh_cache(parts)
    with BlockTape(parts, keep={len(parts.blocks) - 1}, skip=True) as tape:
        out = parts.model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=keep)
    calls = tape.block_calls()
    obstacle = quantised_obstacle(loaded) or other_state or call_obstacle(calls)
    if obstacle is None and not torch.equal(
        head_logits(loaded, tape.outputs[len(parts.blocks) - 1], keep=keep), out.logits
    ):
        obstacle = "this model does more between its last block and its logits than a norm and a head"
    return Prefill(
        loaded=loaded,
        parts=parts,
        prompts=prompts,
        next_b=next_positions(tape.position_ids, prompts.tokens.real_bt),
        calls=calls,
        outputs={},
        keys_values={},
        logits_bv=None,
        obstacle=obstacle,
        mode="replay",
    )


@torch.inference_mode()
def _from_disk(
    idle: Prefill, stored: StoredBatch, layer: int, cells: Sequence[BranchCell], options: BranchOptions
) -> Prefill:
    """The prefill of one layer: its outputs from disk, and, where several cells share them, the keys and values above.

    Keys and values that blocks share are made again from the rows below the block that makes them. Blocks of which the model
    computes the last column only are run on that column, from the last rows on disk that have the model's own bits.
    """
    sharing, shared = idle.parts.sharing, {}
    for source in {source for source in sharing.sources.values() if source <= layer}:
        if source == 0:
            raise UsageError(
                "keys and values that blocks share are made by block 0, whose input no run keeps", hint="branch"
            )
        shared[source] = _keys_of(idle, _stored(idle, stored, source - 1), source)
    looked_at = set().union(*(cell.looks_at for cell in cells)) - {layer}
    outputs = {one: _stored(idle, stored, one) for one in sorted(looked_at)}
    if layer < sharing.n_own or idle.calls[-1].n_tokens == idle.prompts.n_tokens:
        found = replace(idle, outputs=outputs | {layer: _stored(idle, stored, layer)})
        above = _unsteered_above(found, found.outputs[layer], layer, cells, options)
        return replace(found, keys_values=shared | above)
    below, prompts = _stored(idle, stored, sharing.n_own - 1), idle.prompts
    stacking = Stacking(n_seq=prompts.n_seq, n_tokens=prompts.n_tokens)
    cache = BranchCache(shared, stacking, keep=False)
    blocks, first = idle.parts.blocks, sharing.n_own
    hidden = run_blocks(blocks, idle.calls, below, first=first, stop=layer + 1, stacking=stacking, cache=cache)
    return replace(idle, outputs=outputs | {layer: hidden}, keys_values=shared)


def _keys_of(idle: Prefill, below: torch.Tensor, layer: int) -> KeysValues:
    """Keys and values of one block, from the output of the block below."""
    stacking = Stacking(n_seq=idle.prompts.n_seq, n_tokens=idle.prompts.n_tokens)
    cache = BranchCache({}, stacking, keep=True)
    run_blocks(idle.parts.blocks, idle.calls, below, first=layer, stop=layer + 1, stacking=stacking, cache=cache)
    return cache.kept[layer]


def _stored(idle: Prefill, stored: StoredBatch, layer: int) -> torch.Tensor:
    """The output of a block from disk, (b, t, d), zeros at padding."""
    batch = idle.prompts.batch
    dtype, device = TORCH_DTYPES[idle.loaded.spec.dtype], idle.prompts.last_b.device
    hidden = torch.zeros((*batch.input_ids.shape, idle.parts.hidden_size), dtype=dtype, device=device)
    for slot, rows in enumerate(stored.block_outputs(layer)):
        start = batch.starts[slot]
        hidden[slot, start : start + batch.lengths[slot]] = _tensor(rows, dtype).to(device)
    return hidden


def _unsteered_above(
    idle: Prefill, hidden: torch.Tensor, layer: int, cells: Sequence[BranchCell], options: BranchOptions
) -> dict[int, KeysValues]:
    """Keys and values of the blocks above `layer`, where one pass for them saves the cells more than it costs."""
    if options.same_batch or layer + 1 >= idle.parts.sharing.n_own:
        return {}
    prompts = idle.prompts
    spared = sum(idle.start_of(idle.mask_of(cell.target)) for cell in cells)
    if spared <= prompts.n_tokens:
        return {}
    stacking = Stacking(n_seq=prompts.n_seq, n_tokens=prompts.n_tokens)
    cache = BranchCache({}, stacking, keep=True)
    blocks, n_own = idle.parts.blocks, idle.parts.sharing.n_own
    run_blocks(blocks, idle.calls, hidden, first=layer + 1, stop=n_own, stacking=stacking, cache=cache)
    return cache.kept


def _tensor(rows: npt.NDArray[Any], dtype: torch.dtype) -> torch.Tensor:
    """Stored rows as a tensor of the same bits; numpy's bfloat16 is not known to torch."""
    rows = np.ascontiguousarray(rows)
    return torch.from_numpy(rows.view(np.int16).copy()).view(dtype) if dtype.itemsize == 2 else torch.from_numpy(rows)
