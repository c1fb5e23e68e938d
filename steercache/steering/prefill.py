"""One unsteered forward pass over a batch, and what later cells branch from: block outputs, keys, values, block calls."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DummyLayer, DynamicLayer, DynamicSlidingWindowLayer

from steercache.core.errors import UsageError
from steercache.core.trials import Mode
from steercache.models.spec import LoadedModel
from steercache.models.streams import hidden_of, merged
from steercache.steering.deepstack import AddedFeatures, features_before
from steercache.steering.forward import BlockCall, call_obstacle, exact_logits, first_touched, head_logits, record_call
from steercache.steering.parts import ModelParts, parts_of
from steercache.steering.repeat_check import found_once, middle_of, repeat_obstacle
from steercache.steering.targets import ForwardTokens, TargetLike, target_mask
from steercache.trace.batches import PaddedBatch
from steercache.trace.capture import model_inputs

KeysValues = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prompts:
    """A batch as the model sees it. `last_b` is the column of every sample's last prompt token; with `all_logits` the model's
    forward knows no `logits_to_keep` and computes those of every column (Qwen2-Audio)."""

    batch: PaddedBatch = field(repr=False)
    inputs: dict[str, Any] = field(repr=False)
    tokens: ForwardTokens = field(repr=False)
    last_b: torch.Tensor
    all_logits: bool = False

    @property
    def n_seq(self) -> int:
        """Samples of the batch."""
        return int(self.tokens.real_bt.shape[0])

    @property
    def n_tokens(self) -> int:
        """Columns of the batch, padding included."""
        return int(self.tokens.real_bt.shape[1])

    @property
    def columns(self) -> torch.Tensor:
        """The columns of which logits are computed, ascending: those at which some sample's prompt ends, one where padding is
        on the left or there is none; all of them where the model leaves no choice."""
        if self.all_logits:
            return torch.arange(self.n_tokens, device=self.last_b.device)
        return torch.tensor(sorted(set(self.last_b.tolist())), device=self.last_b.device)

    @property
    def end_together(self) -> bool:
        """Whether all prompts end in the last column."""
        return bool((self.last_b == self.n_tokens - 1).all())

    def logits_to_keep(self, *, as_generate: bool) -> int | torch.Tensor:
        """Which logits the model's forward pass computes.

        `generate` asks for a slice of one column where all prompts end in the last; its product copies the whole head once
        per sample (torch sees a batch of matrices), 20 times slower than with a list of columns, and rounds differently.
        """
        return 1 if as_generate and self.columns.tolist() == [self.n_tokens - 1] else self.columns

    def last_rows(self, hidden_btd: torch.Tensor) -> torch.Tensor:
        """Of hidden states of the batch, or of its last columns, those of every sample's last token: (b, d)."""
        last_b = self.last_b.to(hidden_btd.device) - (self.n_tokens - hidden_btd.shape[1])
        return hidden_btd[torch.arange(len(last_b), device=hidden_btd.device), last_b]

    def at_last(self, logits_bkv: torch.Tensor) -> torch.Tensor:
        """Of logits at `columns`, those of every sample's own last token: (b, vocabulary), in float32 or better."""
        which = torch.searchsorted(self.columns, self.last_b)
        rows: torch.Tensor = logits_bkv[torch.arange(len(which), device=which.device), which]
        return rows.to(torch.promote_types(rows.dtype, torch.float32))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prefill:
    """An unsteered forward pass. `next_b` is the position id of the token after each prompt, `outputs[l]` is the output of
    block l (b, t, d), `outputs[-1]` the input of block 0; `keys_values[l]` are (b, h, t, d_head). Of blocks that make no keys
    of their own and of which the model computes the last column only, `outputs` has that column (b, 1, d). `last` is what the
    final norm gets (b, t, d); `streams[l]` are all streams (k, b, t, d) where blocks hand on several.

    `obstacle` says why this model's blocks cannot be run alone; then cells run in full. In mode "replay" `outputs` come from
    disk, and there are keys, values and logits only as far as they were computed from them.
    """

    loaded: LoadedModel = field(repr=False)
    parts: ModelParts = field(repr=False)
    prompts: Prompts
    next_b: torch.Tensor
    calls: tuple[BlockCall, ...] = field(repr=False)
    outputs: dict[int, torch.Tensor] = field(repr=False)
    streams: Mapping[int, torch.Tensor] = field(repr=False, default_factory=dict)
    last: torch.Tensor | None = field(repr=False, default=None)
    keys_values: Mapping[int, KeysValues] = field(repr=False)
    logits_bv: torch.Tensor | None = field(repr=False)
    obstacle: str | None = None
    mode: Mode = "branch"

    @property
    def n_layers(self) -> int:
        """Blocks of the model."""
        return len(self.parts.blocks)

    def start_of(self, mask_bt: torch.Tensor) -> int:
        """The first column that steering these tokens can change; 0 where there are none. Never behind the last token of a
        sample, of which nothing may be steered."""
        if not bool(mask_bt.any()):
            return 0
        first = min(int(mask_bt.any(0).nonzero()[0, 0]), int(self.prompts.last_b.min()))
        return first_touched(self.calls, first)

    def first_start(self, masks: Sequence[torch.Tensor]) -> int:
        """The first column that steering the tokens of any of these masks can change; 0 where there are none."""
        return min((self.start_of(mask_bt) for mask_bt in masks if bool(mask_bt.any())), default=0)

    def mask_of(self, target: TargetLike, *, skip_first: bool = False) -> torch.Tensor:
        """The rows that a target steers, as `targets.target_mask` gives them; SQL may look at the outputs that were kept."""
        tokens = replace(self.prompts.tokens, outputs=self._kept)
        return target_mask(target, tokens, vocabulary=self.parts.vocabulary, skip_first=skip_first)

    def _kept(self, layer: int) -> torch.Tensor:
        if layer not in self.outputs:
            raise UsageError(
                f"layer {layer}, which a target looks at, was not kept of this forward pass",
                hint="name it in run_prefill's layers",
            )
        return self.outputs[layer]

    @property
    def dtype(self) -> torch.dtype:
        """What the blocks compute in."""
        return next(iter(self.outputs.values())).dtype


def read_prompts(loaded: LoadedModel, batch: PaddedBatch) -> Prompts:
    """The batch on the model's device, with its real tokens. Raises UsageError for an empty sample."""
    inputs = {name: value for name, value in model_inputs(loaded, batch).items() if name != "use_cache"}
    real_bt = inputs["attention_mask"].bool()
    if not bool(real_bt.any(1).all()):
        raise UsageError("a sample of the batch has no tokens")
    columns = torch.arange(real_bt.shape[1], device=real_bt.device)
    started = real_bt.cumsum(1)
    return Prompts(
        batch=batch,
        inputs=inputs,
        tokens=ForwardTokens(
            ids_bt=inputs["input_ids"],
            real_bt=real_bt,
            first_bt=real_bt & (started == 1),
            prompt=True,
            samples=batch.samples,
        ),
        last_b=torch.where(real_bt, columns, -1).amax(1),
        all_logits="logits_to_keep" not in inspect.signature(type(loaded.model).forward).parameters,
    )


@torch.inference_mode()
def run_prefill(loaded: LoadedModel, batch: PaddedBatch, *, layers: Sequence[int]) -> Prefill:
    """Run the batch once, unsteered, keeping the outputs of `layers`, every block's keys and values, and its call. Layer -1 is
    the input of block 0.

    Raises:
        UsageError: a layer that the model does not have.
    """
    parts = parts_of(loaded)
    check_layers(parts, [layer for layer in layers if layer != -1])
    prompts = read_prompts(loaded, batch)
    last, keep = len(parts.blocks) - 1, keep_of(parts, prompts)
    proof = {middle_of(len(parts.blocks))} if loaded.family.derived else set()
    with BlockTape(parts, keep={*layers, last, *proof}) as tape:
        cache, other_state = fresh_cache(parts)
        out = parts.model(**prompts.inputs, past_key_values=cache, use_cache=True, logits_to_keep=keep)
    calls = tape.block_calls()
    obstacle = quantised_obstacle(loaded) or other_state or call_obstacle(calls) or _cache_obstacle(parts, cache)
    if obstacle is None and not torch.equal(head_logits(loaded, tape.last, keep=keep), out.logits):
        obstacle = "this model does more between its last block and its logits than a norm and a head"
    keys_values = {} if obstacle else {i: (layer.keys, layer.values) for i, layer in enumerate(cache.layers)}
    if obstacle is None and loaded.family.derived:
        repeat = partial(
            repeat_obstacle,
            parts.blocks,
            real_bt=prompts.tokens.real_bt,
            calls=calls,
            outputs=tape.outputs,
            keys_values=keys_values,
        )
        obstacle = found_once(loaded, repeat)
    return Prefill(
        loaded=loaded,
        parts=parts,
        prompts=prompts,
        next_b=next_positions(tape.position_ids, prompts.tokens.real_bt),
        calls=calls,
        outputs=tape.outputs,
        streams=tape.streams,
        last=tape.last,
        keys_values=keys_values,
        logits_bv=prompts.at_last(out.logits),
        obstacle=obstacle,
    )


def keep_of(parts: ModelParts, prompts: Prompts) -> int | torch.Tensor:
    """Which logits an unsteered pass computes. Where blocks share keys that is what `generate` asks for: Gemma 4 then computes
    the last column only in blocks without keys of their own, and products of other shapes round differently."""
    return prompts.logits_to_keep(as_generate=bool(parts.sharing.sources))


def check_layers(parts: ModelParts, layers: Sequence[int]) -> None:
    """Raises UsageError for a layer that the model does not have."""
    n_layers = len(parts.blocks)
    for layer in layers:
        if not 0 <= layer < n_layers:
            raise UsageError(f"the model has no layer {layer}", hint=f"its blocks are 0 to {n_layers - 1}")


class BlockTape:
    """Hooks that keep every block's call, the outputs of some blocks, and the decoder's position ids; gone on leaving.

    With `skip`, blocks compute nothing and hand their input on: the calls are had for the price of the embeddings.
    """

    def __init__(self, parts: ModelParts, *, keep: set[int], skip: bool = False) -> None:
        self.outputs: dict[int, torch.Tensor] = {}
        self.streams: dict[int, torch.Tensor] = {}
        self.position_ids: torch.Tensor | None = None
        self._parts, self._keep, self._skip = parts, keep, skip
        self._calls: dict[int, BlockCall] = {}
        self._added: dict[int, AddedFeatures] = {}
        self._stack = ExitStack()

    def __enter__(self) -> "BlockTape":
        def at_decoder(module: Any, args: Any, kwargs: Any) -> None:
            self.position_ids = kwargs.get("position_ids")
            self._added = features_before(kwargs)

        self._on(self._parts.decoder.register_forward_pre_hook(at_decoder, with_kwargs=True))
        for layer, block in enumerate(self._parts.blocks):
            if self._skip:
                self._replace(layer, block)
            else:
                self._watch(layer, block)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def last(self) -> torch.Tensor:
        """What the final norm gets, where the last block's output was kept."""
        layer = len(self._parts.blocks) - 1
        whole = self.streams.get(layer, self.outputs[layer])
        return merged(self._parts.decoder, whole, self._parts.stream)

    def block_calls(self) -> tuple[BlockCall, ...]:
        """The calls of all blocks, in order."""
        layers = range(len(self._parts.blocks))
        return tuple(replace(self._calls[layer], added=self._added.get(layer)) for layer in layers)

    def _watch(self, layer: int, block: Any) -> None:
        def before(module: Any, args: Any, kwargs: Any) -> None:
            self._calls[layer], hidden = record_call(block, args, kwargs, self._parts.sharing.sources)
            if layer == 0:
                self._note(-1, hidden)

        def after(module: Any, args: Any, out: Any) -> None:
            self._note(layer, out)

        self._on(block.register_forward_pre_hook(before, with_kwargs=True))
        self._on(block.register_forward_hook(after))

    def _replace(self, layer: int, block: Any) -> None:
        forward, own = block.forward, "forward" in vars(block)

        def hand_on(*args: Any, **kwargs: Any) -> Any:
            self._calls[layer], hidden = record_call(block, args, kwargs, self._parts.sharing.sources)
            self._note(layer, hidden)
            return (hidden,) if self._parts.tuples else hidden

        def put_back() -> None:
            if own:
                block.forward = forward
            else:
                del block.forward

        self._stack.callback(put_back)
        block.forward = hand_on

    def _note(self, layer: int, out: Any) -> None:
        if layer in self._keep:
            self.outputs[layer] = hidden_of(out, self._parts.stream)
            if self._parts.stream is not None:
                self.streams[layer] = hidden_of(out, None)

    def _on(self, handle: Any) -> None:
        self._stack.callback(handle.remove)


def next_positions(position_ids: torch.Tensor | None, real_bt: torch.Tensor) -> torch.Tensor:
    """The position id that follows each prompt (b,): one more than the largest of its tokens, on any axis of the picture."""
    if position_ids is None:
        position_ids = torch.arange(real_bt.shape[1], device=real_bt.device)[None]
    of_tokens = torch.where(real_bt, position_ids, -1)
    return of_tokens.flatten(0, -3).amax((0, -1)) + 1 if of_tokens.ndim == 3 else of_tokens.amax(-1) + 1


def fresh_cache(parts: ModelParts) -> tuple[Any, str | None]:
    """An empty cache for one pass, and why what it will hold are not keys and values alone.

    Without the model's configuration sliding layers keep all their keys, as branches need them; other state needs it.
    """
    other_state = cache_obstacle(parts)
    return DynamicCache() if other_state is None else DynamicCache(config=parts.model.config), other_state


def quantised_obstacle(loaded: LoadedModel) -> str | None:
    """Why rows of this model's quantised weights cannot be computed in another batch than they came from."""
    return None if loaded.spec.quantised is None else loaded.spec.quantised.mixes_rows


def cache_obstacle(parts: ModelParts) -> str | None:
    """Why what this model keeps of its past are not keys and values alone; known without running it."""
    kinds = {type(layer).__name__ for layer in DynamicCache(config=parts.model.config).layers}
    if not kinds <= {one.__name__ for one in (DynamicLayer, DynamicSlidingWindowLayer, DummyLayer)}:
        return f"its blocks keep other state than keys and values ({', '.join(sorted(kinds))})"
    return None


def _cache_obstacle(parts: ModelParts, cache: Any) -> str | None:
    """Why keys and values of this model are not one pair for each block that makes them."""
    if len(cache.layers) != parts.sharing.n_own or any(not layer.is_initialized for layer in cache.layers):
        return "its blocks do not keep one pair of keys and values each"
    return None


def decider(
    prefill: Prefill, rows_rd: torch.Tensor | None
) -> tuple[torch.Tensor | None, Callable[[torch.Tensor], torch.Tensor] | None]:
    """What `cells.read_firsts` decides first tokens by, beside logits: the last block's output (r, d), and in half precision
    float32 logits made from it. Nothing where the model does more than a norm and a head."""
    if rows_rd is None or rows_rd.dtype.itemsize >= 4:
        return rows_rd, None
    return rows_rd, lambda ids_rk: exact_logits(prefill.loaded, rows_rd, ids_rk)
