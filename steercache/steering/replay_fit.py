"""Whether the rows of a run are what a model would compute on a batch.

Refused: runs whose rows were dropped or made lossy, that belong to other weights, another tokenizer, another compute dtype,
other prompts or other pictures, or that other kernels computed (attention, device, what `trace.numerics` measures).
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch

from steercache.cache.again import build_command
from steercache.core.errors import UsageError
from steercache.core.numerics import BATCHING, READING, numeric_differences, settings_of
from steercache.models.sharing import feeds_pictures_to_blocks
from steercache.models.spec import LoadedModel
from steercache.steering.branch import BranchOptions
from steercache.steering.cells import BranchCell
from steercache.steering.deepstack import n_with_features
from steercache.steering.stored_rows import StoredBatch
from steercache.trace.batches import PaddedBatch
from steercache.trace.numerics import numerics_of

FOR_TOWERS: Final = ("pixel_", "input_features")  # how inputs of vision towers, and of those that hear, begin


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


def wants_features(loaded: LoadedModel, batch: PaddedBatch, cells: Sequence[BranchCell], stored: StoredBatch) -> bool:
    """Whether the decoder adds features of pictures above some cell's rows, or hands something made of them to blocks there.

    Raises:
        UsageError: they cannot be computed.
    """
    n_first = n_with_features(loaded)
    layer = min((cell.below for cell in cells), default=n_first)
    if layer >= n_first or not _shows_pictures(loaded, batch):
        return False
    if not any(name.startswith(FOR_TOWERS) for name in batch.pixels):
        what = f"adds features of them to the outputs of its first {n_first} blocks"
        hint = f"choose layers from {n_first} on, "
        if feeds_pictures_to_blocks(loaded.config):
            what, hint = "hands an input that is made of them to every block", ""
        raise UsageError(
            f"a replay from layer {layer} needs the pixels of the pictures (and the sounds): this decoder {what}, which the"
            " run does not hold",
            place=stored.facts.name,
            hint=f"make the batch with its pixels, {hint}or branch",
        )
    return True


def _shows_pictures(loaded: LoadedModel, batch: PaddedBatch) -> bool:
    """Whether a prompt has pictures, videos or sounds."""
    ids = batch.input_ids
    return bool(torch.isin(ids, torch.tensor(loaded.fed_ids, dtype=ids.dtype, device=ids.device)).any())


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
