"""Greedy decoding from the keys and values of steered prompts. Generated tokens are not steered."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from steercache.models.rope import forget_lengths
from steercache.models.spec import LoadedModel
from steercache.steering.cells import finite_rows

KeysValues = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeStart:
    """Where decoding begins, for r sequences: a cache that holds their prompts, which columns of it are real (r, t), the first
    generated token and its position id (r,)."""

    cache: Any = field(repr=False)
    real_rt: torch.Tensor
    first_r: torch.Tensor
    next_r: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedTokens:
    """What followed the first token: `tokens_rn` is -1 after a sequence ended, `gap_r` the smallest distance between the best
    and the second-best logit over the steps, `scale_r` the largest |logit| seen, `finite_r` whether all logits were finite."""

    tokens_rn: torch.Tensor
    gap_r: torch.Tensor
    scale_r: torch.Tensor
    finite_r: torch.Tensor


class RoomyLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Keys and values with space for the next tokens, so that a step copies one token and not the whole prompt."""

    def __init__(self, room: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._room, self._n_past = room, 0
        self._whole: list[torch.Tensor] = []

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> KeysValues:
        """Append; both have shape (r, h, new, d_head)."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._begin((key_states, value_states))
        else:
            self._append((key_states, value_states))
        keys, values = (whole[:, :, : self._n_past] for whole in self._whole)
        self.keys, self.values = keys, values
        return keys, values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep some sequences."""
        self._begin([whole[indices, :, : self._n_past] for whole in self._whole])
        self.keys, self.values = (whole[:, :, : self._n_past] for whole in self._whole)

    def _begin(self, pair: Sequence[torch.Tensor]) -> None:
        self._n_past = pair[0].shape[2]
        self._whole = [
            torch.cat(
                [x, x.new_empty(*x.shape[:2], self._room, x.shape[3])], dim=2
            )  # room is never read before written
            for x in pair
        ]

    def _append(self, pair: KeysValues) -> None:
        n_all = self._n_past + pair[0].shape[2]
        if n_all > self._whole[0].shape[2]:
            self._begin([whole[:, :, : self._n_past] for whole in self._whole])
        for whole, x in zip(self._whole, pair, strict=True):
            whole[:, :, self._n_past : n_all] = x
        self._n_past = n_all


@torch.inference_mode()
def decode_greedily(
    loaded: LoadedModel, start: DecodeStart, *, n_more: int, ends: frozenset[int], same_batch: bool = False
) -> DecodedTokens:
    """At most `n_more` tokens after the first. With `same_batch`, shapes stay those of `generate` on this batch.

    Otherwise sequences that ended leave the batch. The cache is used up.
    """
    n_rows, device = len(start.real_rt), start.real_rt.device
    state = _State(loaded, start)
    tokens_rn = torch.full((n_rows, n_more), -1, dtype=torch.int64, device=device)
    gap_r = torch.full((n_rows,), torch.inf, device=device)
    scale_r = torch.zeros(n_rows, device=device)
    finite_r = torch.ones(n_rows, dtype=torch.bool, device=device)
    end_ids_ = torch.tensor(sorted(ends), dtype=torch.int64, device=device)
    rows = torch.arange(n_rows, device=device)  # which sequence each row of the batch is
    open_r = ~torch.isin(start.first_r, end_ids_)
    for step in range(n_more):
        if not bool(open_r.any()):
            break
        if not same_batch and int(open_r[rows].sum()) <= 0.75 * len(rows):
            kept = open_r[rows].nonzero()[:, 0]
            rows = rows[kept]
            state.keep(kept)
        logits = state.step()
        state.tokens = logits.argmax(-1)  # as `generate`: of equal logits the first, which topk does not promise
        top = logits.topk(2, dim=-1).values
        live = open_r[rows]
        told = rows[live]
        tokens_rn[told, step] = state.tokens[live]
        gap_r[told] = torch.minimum(gap_r[told], (top[:, 0] - top[:, 1])[live])
        scale_r[told] = torch.maximum(scale_r[told], logits.abs().amax(-1)[live])
        finite_r[told] &= finite_rows(logits)[live]
        open_r[told] = ~torch.isin(state.tokens[live], end_ids_)
    return DecodedTokens(tokens_rn=tokens_rn, gap_r=gap_r, scale_r=scale_r, finite_r=finite_r)


class _State:
    """The batch that is being decoded."""

    def __init__(self, loaded: LoadedModel, start: DecodeStart) -> None:
        forget_lengths(loaded)  # another batch may have been longer
        self.tokens = start.first_r
        self._model, self._cache = loaded.model, start.cache
        self._mask, self._positions = start.real_rt.long(), start.next_r

    def step(self) -> torch.Tensor:
        """Feed the last tokens; the next logits (r, vocabulary) in float32."""
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._mask), 1)], dim=1)
        out = self._model(
            input_ids=self.tokens[:, None],
            attention_mask=self._mask,
            position_ids=self._positions[:, None],
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._positions = self._positions + 1
        logits: torch.Tensor = out.logits[:, -1].float()
        return logits

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with some rows only."""
        self.tokens, self._mask, self._positions = self.tokens[rows], self._mask[rows], self._positions[rows]
        self._cache.batch_select_indices(rows)


def filled_cache(loaded: LoadedModel, keys_values: Sequence[KeysValues], *, room: int | None) -> Any:
    """A cache as `generate` makes it (sliding layers keep their window), holding prompts: a pair (r, h, t, d_head) per block.

    With `room`, full-attention layers have place for so many tokens more.
    """
    cache: Any = DynamicCache(config=loaded.model.config)
    for i, (keys, values) in enumerate(keys_values):
        if room is not None and type(cache.layers[i]) is DynamicLayer:
            cache.layers[i] = RoomyLayer(room)
        cache.layers[i].update(keys, values)
    return cache
