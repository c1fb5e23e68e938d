"""Hooks on blocks, and on what is inside them, that change hidden states while a model runs."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from steercache.core.errors import UsageError
from steercache.models.streams import hidden_of, with_hidden
from steercache.steering.clause_masks import layers_of
from steercache.steering.operations.apply import apply, as_applied, last_columns
from steercache.steering.operations.change import Change
from steercache.steering.parts import ModelParts
from steercache.steering.places import Place
from steercache.steering.targets import Vocabulary
from steercache.steering.token_rule import TokenRule
from steercache.steering.watch import ForwardWatch


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlacedChange:
    """What is done at one layer, and where."""

    place: Place
    what: Change


@contextmanager
def applied(
    parts: ModelParts, changes: Mapping[int, PlacedChange], rule: TokenRule, *, thread: int | None = None
) -> Iterator[None]:
    """Hooks that change the outputs of blocks, or what is inside them; the bare part of `steer`.

    With `thread`, an identifier, the passes of other threads through the same model are left alone.
    """
    with ExitStack() as stack:
        watch = ForwardWatch(thread)
        for module in dict.fromkeys((parts.model, parts.decoder)):
            _attach(stack, module.register_forward_pre_hook(watch.enter, with_kwargs=True))
            _attach(stack, module.register_forward_hook(watch.leave, always_call=True))
        for layer in layers_of(rule.target):
            _attach(stack, parts.blocks[layer].register_forward_hook(_keeping_hook(layer, watch, parts.stream)))
        for layer, change in changes.items():
            steered = _steering(change.what, watch, rule, parts.vocabulary, shares_keys=layer >= parts.sharing.n_own)
            module, stream = change.place.module, change.place.stream
            if change.place.is_input:
                _attach(stack, module.register_forward_pre_hook(_input_hook(steered, stream), with_kwargs=True))
            else:
                _attach(stack, module.register_forward_hook(_output_hook(steered, stream)))
        yield


@contextmanager
def changed_at(places: Iterable[tuple[Place, Callable[[torch.Tensor], torch.Tensor | None]]]) -> Iterator[None]:
    """Hooks that change the hidden states at places as functions say (None: not); several at one place in their order."""
    with ExitStack() as stack:
        for place, changed in places:
            if place.is_input:
                _attach(
                    stack, place.module.register_forward_pre_hook(_input_hook(changed, place.stream), with_kwargs=True)
                )
            else:
                _attach(stack, place.module.register_forward_hook(_output_hook(changed, place.stream)))
        yield


def _attach(stack: ExitStack, handle: Any) -> None:
    stack.callback(handle.remove)


def _keeping_hook(layer: int, watch: ForwardWatch, stream: int | None) -> Any:
    """A forward hook that keeps a block's output for as long as the pass runs; put in place before those that change it."""

    def hook(module: Any, args: Any, output: Any) -> None:
        if watch.here:
            watch.outputs[layer] = hidden_of(output, stream)

    return hook


def _steering(
    what: Change, watch: ForwardWatch, rule: TokenRule, vocabulary: Vocabulary, *, shares_keys: bool
) -> Callable[[torch.Tensor], torch.Tensor | None]:
    """A function from hidden states (b, t, d) to steered ones; None where nothing of this pass is steered."""
    change = as_applied([what])

    def steered(hidden_btd: torch.Tensor) -> torch.Tensor | None:
        nonlocal change
        if not watch.here:
            return None
        if not watch.parts:
            raise UsageError(
                "a block ran outside its model's forward pass, so its tokens are unknown",
                hint="call the model or its decoder, or add the vector with steercache.steering.add.add_vector",
            )
        if watch.mask_bt is None:
            watch.mask_bt = torch.cat([rule.mask(part, vocabulary) for part in watch.parts], dim=1)
        mask_bt = watch.mask_bt.to(hidden_btd.device)
        if shares_keys:
            mask_bt = last_columns(mask_bt, hidden_btd)
        if not bool(mask_bt.any()):
            return None
        change = change.to(hidden_btd.device)
        return apply(hidden_btd, change, mask_bt)

    return steered


def _output_hook(steered: Callable[[torch.Tensor], torch.Tensor | None], stream: int | None) -> Any:
    """A forward hook that steers a module's output, a tensor or a tuple that begins with it."""

    def hook(module: Any, args: Any, output: Any) -> Any:
        moved = steered(hidden_of(output, stream))
        return None if moved is None else with_hidden(output, moved, stream)

    return hook


def _input_hook(steered: Callable[[torch.Tensor], torch.Tensor | None], stream: int | None) -> Any:
    """A forward pre-hook that steers a module's first input, by position or as `hidden_states`."""

    def hook(module: Any, args: Any, kwargs: Any) -> Any:
        name = "hidden_states"
        if not args and name not in kwargs:  # a class of its own words
            name = list(inspect.signature(type(module).forward).parameters)[1]
        whole = args[0] if args else kwargs[name]
        moved = steered(hidden_of(whole, stream))
        if moved is None:
            return None
        changed = with_hidden(whole, moved, stream)
        return ((changed, *args[1:]), kwargs) if args else (args, kwargs | {name: changed})

    return hook
