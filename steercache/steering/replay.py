"""First-token answers from rows on disk: the cached output of block l plus alpha * v, and only the blocks above l run.

Neither the vision tower nor any block below runs: the model's own forward makes masks and positions with its blocks idle
(`prefill.BlockTape`), and hidden states come from a replayable run. In the composition in which the run recorded its batches
(samples, order, padded length, side) logits are bit-identical to the full steered forward; rows of padding are not stored and
are zeros here, which no real token attends to. (A mixture of experts computes them beside the real ones: padded batches of one
agree within rounding.)

A cell of several vectors starts at the lowest of their layers; the others are applied while the blocks above run.

Where the decoder adds features of the pictures to the outputs of its first blocks (`deepstack`), the rows of such a layer lack
what is added above them: the vision tower then runs, and wants the pixels; so does that of Gemma 4's small models, where every
block gets an input that is made of the pictures. What a run must match is in `replay_fit`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from steercache.core.errors import UsageError
from steercache.models.load import TORCH_DTYPES
from steercache.models.spec import LoadedModel
from steercache.models.streams import rows_obstacle
from steercache.steering.branch import BranchOptions, branch, branch_from
from steercache.steering.cells import BranchCell, CellAnswers
from steercache.steering.decode import KeysValues
from steercache.steering.forward import BranchCache, Stacking, call_obstacle, head_logits, run_blocks
from steercache.steering.parts import parts_of
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
from steercache.steering.replay_fit import FOR_TOWERS, check_fit, wants_features
from steercache.steering.stored_rows import StoredBatch
from steercache.trace.batches import PaddedBatch

FIRST_TOKEN = BranchOptions(max_new_tokens=1)


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

    A model whose blocks cannot be run alone is branched instead, which runs it in full and says why; so is one whose blocks
    hand on more than a run keeps (`models.streams`), which then branches.

    Raises:
        UsageError: the run does not fit this model or batch, the answers have more than one token, or pixels are wanted and
            the batch has none.
        BudgetError: one cell over this batch does not fit into the memory budget.
    """
    check_fit(loaded, batch, stored, options)
    idle = idle_prefill(loaded, batch, features=wants_features(loaded, batch, cells, stored))
    check_layers(idle.parts, [layer for cell in cells for layer in (cell.layer, *(one.layer for one in cell.rest))])
    if idle.obstacle is not None or rows_obstacle(loaded.family, loaded.config) is not None:
        yield from branch(loaded, batch, cells, options)
        return
    for below, members in groupby(sorted(cells, key=lambda cell: cell.below), key=lambda cell: cell.below):
        at_layer = list(members)
        if below < 0:
            raise UsageError(
                f"a replay starts from the output of a block, and {at_layer[0].place} of block 0 lies below the first",
                hint="layers from 1 on, or branch",
            )
        yield from branch_from(_from_disk(idle, stored, below, at_layer, options), at_layer, options)


@torch.inference_mode()
def idle_prefill(loaded: LoadedModel, batch: PaddedBatch, *, features: bool = False) -> Prefill:
    """Everything a forward pass over the batch would hand to its blocks, without running vision tower or blocks.

    With `features` the tower runs, for what the decoder adds between its blocks or hands to them.
    """
    parts, prompts = parts_of(loaded), read_prompts(loaded, batch)
    inputs = {name: value for name, value in prompts.inputs.items() if features or not name.startswith(FOR_TOWERS)}
    keep = keep_of(parts, prompts)
    cache, other_state = fresh_cache(parts)
    with BlockTape(parts, keep={len(parts.blocks) - 1}, skip=True) as tape:
        out = parts.model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=keep)
    calls = tape.block_calls()
    obstacle = quantised_obstacle(loaded) or other_state or call_obstacle(calls)
    if obstacle is None and not torch.equal(head_logits(loaded, tape.last, keep=keep), out.logits):
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
    spared = sum(idle.first_start([idle.mask_of(one.target) for one in cell.parts]) for cell in cells)
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
