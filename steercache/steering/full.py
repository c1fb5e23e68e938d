"""The full steered forward of one cell: every block over the whole batch, steered by a hook. The way out for models
whose blocks cannot be run alone, and what branch and replay are measured against."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from transformers import DynamicCache

from steercache.core.errors import UsageError
from steercache.core.trials import Mode
from steercache.models.streams import hidden_of, merged
from steercache.steering.add import adds_finitely
from steercache.steering.cells import BranchCell, CellAnswers, Precision, make_answers, read_firsts, rest_adds_finitely
from steercache.steering.decode import DecodeStart, decode_greedily
from steercache.steering.live_hooks import changed_at
from steercache.steering.operations.apply import apply_each, as_applied
from steercache.steering.places import find_place
from steercache.steering.prefill import Prefill, decider


@torch.inference_mode()
def run_full(
    prefill: Prefill,
    cell: BranchCell,
    masks: Sequence[torch.Tensor],
    *,
    max_new_tokens: int,
    ends: frozenset[int],
    tie_nats: float | None = None,
) -> CellAnswers:
    """Answers of one cell, by running the model as a whole on the batch of `prefill`, in the shapes of `generate`.

    `masks` (b, t) are those of the cell's parts.

    Raises:
        UsageError: free-form answers of a batch that is padded on the right.
    """
    parts, prompts = prefill.parts, prefill.prompts
    keep = prompts.logits_to_keep(as_generate=True)
    if max_new_tokens > 1 and not prompts.end_together:
        raise UsageError(
            f"free-form answers of prompts padded on the right cannot be computed in full ({prefill.obstacle or 'asked for'})",
            hint="pad on the left",
        )
    delta = torch.from_numpy(cell.delta_d.copy())

    last: list[torch.Tensor] = []

    def keep_last(module: Any, args: Any, out: Any) -> None:
        last.append(merged(parts.decoder, hidden_of(out, None), parts.stream))

    changes = [
        (
            find_place(parts.model, parts.family, parts.blocks[part.layer], place=part.place, layer=part.layer),
            partial(apply_each, [(as_applied([part.what]), mask_bt)]),
        )
        for part, mask_bt in zip(cell.parts, masks, strict=True)
    ]
    with changed_at(changes):
        handle = parts.blocks[-1].register_forward_hook(keep_last)
        try:
            cache = DynamicCache(config=parts.model.config)
            out = parts.model(**prompts.inputs, past_key_values=cache, use_cache=True, logits_to_keep=keep)
        finally:
            handle.remove()
    rows = None if prefill.obstacle is not None else prompts.last_rows(last[0])
    firsts, more = read_firsts(prompts.at_last(out.logits), *decider(prefill, rows)), None
    finite = adds_finitely(delta) & rest_adds_finitely(cell)
    firsts = replace(firsts, finite_r=firsts.finite_r & finite.to(firsts.finite_r.device))
    if max_new_tokens > 1:
        start = DecodeStart(cache=cache, real_rt=prompts.tokens.real_bt, first_r=firsts.token_r, next_r=prefill.next_b)
        more = decode_greedily(prefill.loaded, start, n_more=max_new_tokens - 1, ends=ends, same_batch=True)
    precision = Precision(dtype=out.logits.dtype, tie_nats=tie_nats)
    how: tuple[Mode, str | None] = ("full", prefill.obstacle or "asked for")
    return make_answers(cell.key, firsts, more, ends=ends, precision=precision, how=how)
