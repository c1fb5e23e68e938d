"""Running the blocks above a layer from given hidden states, exactly as the model's own forward runs them.

Masks, rotary angles and position ids are not made here: the model makes them in an unsteered forward, every block's call is
kept (`BlockCall`), and the same call is repeated with other hidden states, for several copies of the batch at once
(`Stacking`). What such a call may hold is listed in `_AXES`; a model whose blocks receive anything else has an obstacle, and
is run in full instead.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final

import torch
from transformers import Cache
from transformers.cache_utils import KVSharingDict

from steercache.models.family import find_module
from steercache.models.spec import LoadedModel
from steercache.steering.deepstack import AddedFeatures

# (argument of a block, dimensions) -> (axis of the samples, axis of the tokens that are computed)
_AXES: dict[tuple[str, int], tuple[int | None, int]] = {
    ("attention_mask", 4): (0, 2),
    ("position_ids", 2): (0, 1),
    ("position_ids", 3): (1, 2),
    ("position_embeddings", 3): (0, 1),
    ("position_embeddings", 4): (1, 2),  # Qwen2.5-VL: one angle for each of time, height and width
    ("cache_position", 1): (None, 0),
    ("per_layer_input", 3): (0, 1),  # Gemma 4: of every token, for each block
}
After = Mapping[int, Callable[[torch.Tensor], torch.Tensor]]  # by block, what is done to its output
_NOTHING: Final[After] = MappingProxyType({})
_FOR_THE_HEAD = "logits_to_keep"  # LLaVA-OneVision hands it on to its blocks, which do not look at it


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockCall:
    """What one block was called with, by parameter name, beside hidden states and cache. `added` is what the decoder added to
    the output of the block before.

    `n_tokens` is how many columns it was given: blocks without keys of their own may get the last one only. `sources` are the
    blocks whose keys and values such blocks read, by kind of attention; they are handed on as `shared_name`.
    """

    hidden_name: str
    cache_name: str | None
    n_tokens: int
    shared_name: str | None = None
    sources: Mapping[str, int] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(repr=False)
    added: AddedFeatures | None = None

    @property
    def mask(self) -> torch.Tensor | None:
        """The attention mask (b or 1, 1, t, t), bool or additive; None where causal attention needs none."""
        return self.arguments.get("attention_mask")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stacking:
    """`n_copies` of a batch of `n_seq` samples, copy after copy, computed from column `start` of `n_tokens` on."""

    n_seq: int
    n_tokens: int
    n_copies: int = 1
    start: int = 0


class BranchCache:
    """Keys and values of one branch, as the blocks' attention asks for them: what precedes `start`, then their own.

    `before` holds the unsteered keys and values (b, h, t, d_head) per layer. With `keep` the joined ones stay in `kept`.
    """

    def __init__(
        self,
        before: Mapping[int, tuple[torch.Tensor, torch.Tensor]],
        stacking: Stacking,
        *,
        keep: bool,
    ) -> None:
        self._before, self._stacking, self._keep = before, stacking, keep
        self.kept: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The keys and values that the new tokens attend to, (n b, h, t, d_head)."""
        joined = self._join(keys, layer_idx, 0), self._join(values, layer_idx, 1)
        if self._keep:
            self.kept[layer_idx] = joined
        return joined

    def shared_below(self, sources: Mapping[str, int]) -> KVSharingDict:
        """Unsteered keys and values that blocks share, (n b, h, t, d_head) by kind of attention, as far as they are had. Blocks
        of the branch that make such keys and values put their own there."""
        n = self._stacking.n_copies
        had = {kind: self._before[layer] for kind, layer in sources.items() if layer in self._before}
        return KVSharingDict({kind: tuple(x.repeat(n, 1, 1, 1) for x in pair) for kind, pair in had.items()})

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens before the new ones (Llama 4 scales queries by where they stand)."""
        return self._stacking.start

    def _join(self, new: torch.Tensor, layer: int, which: int) -> torch.Tensor:
        if self._stacking.start == 0:
            return new.contiguous()  # as a cache of transformers lays them out
        old = self._before[layer][which][:, :, : self._stacking.start]
        return torch.cat([old.repeat(self._stacking.n_copies, 1, 1, 1), new], dim=2)


def record_call(
    block: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], sources: Mapping[str, int]
) -> tuple[BlockCall, torch.Tensor]:
    """A block's call without hidden states, cache and what is meant for the head; and those hidden states (its input)."""
    signature = inspect.signature(
        type(block).forward
    )  # nnsight and accelerate put a `forward` of their own on the instance
    bound = dict(signature.bind(block, *args, **kwargs).arguments)
    del bound[next(iter(bound))]
    bound |= {name: value for name, value in bound.pop("kwargs", {}).items() if name != _FOR_THE_HEAD}
    hidden_name = next(iter(bound))
    hidden = bound.pop(hidden_name)
    caches = [name for name, value in bound.items() if isinstance(value, Cache)]
    shared = [name for name, value in bound.items() if isinstance(value, KVSharingDict)]
    for name in (*caches, *shared):
        del bound[name]
    call = BlockCall(
        hidden_name=hidden_name,
        cache_name=caches[0] if caches else None,
        n_tokens=int(hidden.shape[-2]),
        shared_name=shared[0] if shared else None,
        sources=sources,
        arguments=bound,
    )
    return call, hidden


def call_obstacle(calls: Sequence[BlockCall]) -> str | None:
    """Why these calls cannot be repeated for part of the tokens or several copies; None when they can."""
    for layer, call in enumerate(calls):
        for name, value in call.arguments.items():
            for leaf in value if isinstance(value, tuple | list) else (value,):
                if isinstance(leaf, torch.Tensor) and (name, leaf.ndim) not in _AXES:
                    return f"block {layer} receives {name!r}, whose axes are not known here"
                if not isinstance(leaf, torch.Tensor | str | bool | int | float | None):
                    return f"block {layer} receives {name!r}, a {type(leaf).__name__}"
    return None


def first_touched(calls: Sequence[BlockCall], column: int) -> int:
    """The first column whose hidden state can change when something changes from `column` on.

    That is `column` itself under causal attention; less where tokens attend to later ones (PaliGemma's prefix, Gemma 3's
    pictures), directly or through others.
    """
    whole = {id(call.mask): call.mask for call in calls if call.n_tokens == calls[0].n_tokens}
    masks = [mask for mask in whole.values() if mask is not None]
    while True:
        reached = min((_first_looking_past(_allowed(mask), column) for mask in masks), default=column)
        if reached == column:
            return column
        column = reached


def _first_looking_past(allowed: torch.Tensor, column: int) -> int:
    """The first row before `column` that attends to it or beyond; `column` when there is none."""
    looking = allowed[..., :column, column:].flatten(0, -3).any(-1).any(0)
    return int(looking.nonzero()[0, 0]) if bool(looking.any()) else column


def run_blocks(
    blocks: Any,
    calls: Sequence[BlockCall],
    hidden: torch.Tensor,
    *,
    first: int,
    stacking: Stacking,
    cache: BranchCache | None,
    stop: int | None = None,
    after: After = _NOTHING,
) -> torch.Tensor:
    """The output of the last block (n b, t - start, d), given that of the block before `first` in the same shape (all streams,
    (k, n b, t - start, d), where blocks hand on several); of the last column alone where the model itself computes no other.
    `after` changes the outputs of some blocks on the way."""
    memo: dict[tuple[int, str], Any] = {}
    shared: KVSharingDict | None = None
    for layer in range(first, stop or len(blocks)):
        call = calls[layer]
        if call.n_tokens < hidden.shape[-2]:
            hidden = hidden[..., -call.n_tokens :, :]
            stacking, memo = replace(stacking, start=stacking.n_tokens - call.n_tokens), {}
        if call.added is not None:
            hidden = call.added.added_to(hidden, start=stacking.start, n_copies=stacking.n_copies)
        arguments = {
            name: _stacked(name, value, stacking, memo, hidden.device) for name, value in call.arguments.items()
        }
        if call.cache_name is not None:
            arguments[call.cache_name] = cache
        if call.shared_name is not None:
            if shared is None:
                shared = cache.shared_below(call.sources) if cache is not None else KVSharingDict()
            arguments[call.shared_name] = shared
        arguments[call.hidden_name] = hidden
        out = blocks[layer](**arguments)
        hidden = out[0] if isinstance(out, tuple) else out
        if layer in after:
            hidden = after[layer](hidden)
    return hidden


def head_logits(loaded: LoadedModel, hidden: torch.Tensor, *, keep: int | torch.Tensor = 0) -> torch.Tensor:
    """Logits in the model's dtype from the last block's output (b, t, d), of the columns that `keep` names.

    `keep` means what transformers' `logits_to_keep` means, and picks in the same way: a slice and a list of one index are
    laid out differently, and float32 products of them differ in their last bits.
    """
    normed = find_module(loaded.model, loaded.family.final_norm)(hidden)
    normed = normed[:, slice(-keep, None) if isinstance(keep, int) else keep, :]
    logits: torch.Tensor = find_module(loaded.model, loaded.family.lm_head)(normed)
    return _finished(loaded, logits)


def exact_logits(loaded: LoadedModel, hidden_bd: torch.Tensor, ids_bk: torch.Tensor) -> torch.Tensor:
    """Logits (b, k) of some tokens from the last block's output: final norm, head and soft-capping in float32 or better.

    Half precision rounds logits to steps of up to 1/8, so that two options tie in it which do not. Each row is computed by
    itself: which others are in the batch changes nothing.
    """
    exact = torch.promote_types(hidden_bd.dtype, torch.float32)
    norm, head = (find_module(loaded.model, path) for path in (loaded.family.final_norm, loaded.family.lm_head))
    widened = {name: x.to(exact) for name, x in norm.named_parameters()}
    normed_bd = torch.func.functional_call(norm, widened, (hidden_bd.to(exact),))
    logits: torch.Tensor = (head.weight[ids_bk].to(exact) * normed_bd[:, None]).sum(-1)
    if getattr(head, "bias", None) is not None:
        logits = logits + head.bias[ids_bk].to(exact)
    return _finished(loaded, logits)


def _finished(loaded: LoadedModel, logits: torch.Tensor) -> torch.Tensor:
    """What some models do to logits behind the head: Granite divides them, Cohere multiplies, Gemma 2 caps. Most that read
    pictures leave it to the text model, whose own head is not in them: Aya Vision's logits are not Cohere's."""
    if not loaded.family.text_logits:
        return logits
    config = loaded.model.config.get_text_config()
    if (divisor := getattr(config, "logits_scaling", None)) is not None:
        logits = logits / divisor
    if (factor := getattr(config, "logit_scale", None)) is not None:
        logits = logits * factor
    cap = getattr(config, "final_logit_softcapping", None)
    return logits if cap is None else torch.tanh(logits / cap) * cap


def _stacked(name: str, value: Any, stacking: Stacking, memo: dict[tuple[int, str], Any], device: torch.device) -> Any:
    """One argument for several copies and part of the tokens; blocks share most tensors, so each is made once.

    What has to be made is made on `device`, that of the hidden states.
    """
    key = (id(value), name)
    if key not in memo:
        if name == "attention_mask":
            memo[key] = _stacked_mask(value, stacking, device)
        elif isinstance(value, tuple | list):
            memo[key] = type(value)(_cut(name, leaf, stacking) for leaf in value)
        else:
            memo[key] = _cut(name, value, stacking)
    return memo[key]


def _stacked_mask(mask: torch.Tensor | None, stacking: Stacking, device: torch.device) -> torch.Tensor | None:
    if mask is None:
        n_run = stacking.n_tokens - stacking.start
        if stacking.start == 0 or n_run == 1:
            return None
        whole = torch.ones(stacking.n_tokens, stacking.n_tokens, dtype=torch.bool, device=device).tril()
        return whole[None, None, stacking.start :]
    return _cut("attention_mask", mask, stacking)  # type: ignore[no-any-return]


def _cut(name: str, value: Any, stacking: Stacking) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    seq_axis, token_axis = _AXES[name, value.ndim]
    if stacking.start and value.shape[token_axis] == stacking.n_tokens:  # else the model itself has cut it
        value = value.narrow(token_axis, stacking.start, stacking.n_tokens - stacking.start)
    if stacking.n_copies > 1 and seq_axis is not None and value.shape[seq_axis] > 1:
        copies = [1] * value.ndim
        copies[seq_axis] = stacking.n_copies
        value = value.repeat(*copies)
    return value


def _allowed(mask: torch.Tensor) -> torch.Tensor:
    """Which pairs attend, as bool; an additive mask forbids by a huge negative number."""
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
