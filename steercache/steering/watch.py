"""Following a model's forward passes: which tokens each one carries, and whether they are the prompt's."""

import inspect
import threading
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from steercache.core.errors import UsageError
from steercache.steering.targets import ForwardTokens


class ForwardWatch(threading.local):
    """What the forward pass that is running was given: `parts` lie side by side along the token axis, () between passes.

    Every thread has a state of its own; with `thread`, an identifier, the passes of all others are left alone.

    A pass is the prompt's when the key/value cache is empty or when it brings more than one new token (the next turn of a
    chat). Three cases need care. Of a prompt in chunks every chunk has a last token, and a chunk of one token looks generated:
    follow it with the target all. Assisted decoding checks several drafted tokens at once, which looks like
    a prompt: use plain decoding. Generation with use_cache=False runs the whole sequence again at each step: a pass that
    appends one token to the pass before it is taken for such a step, its prompt being that of the first pass.
    """

    def __init__(self, thread: int | None = None) -> None:
        self.here = thread is None or thread == threading.get_ident()
        self.parts: tuple[ForwardTokens, ...] = ()
        self.outputs: dict[
            int, torch.Tensor
        ] = {}  # of blocks, before anything is changed; who wants them puts them here
        self.mask_bt: torch.Tensor | None = None  # of the pass, for whoever made it once
        self._owner: Any = None
        self._prompt_len = 0
        self._n_steps = 0
        self._last_ids: torch.Tensor | None = None

    def enter(self, module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> None:
        """Forward pre-hook of the model and of its decoder; the outermost that is called decides.

        torch leaves `kwargs` out for a pass that begins in another thread while the hook is put in place or taken away.
        """
        if self._owner is not None or not self.here or kwargs is None:
            return
        given = inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments
        given |= given.pop("kwargs", {})
        self.parts = self._read(given)
        self.outputs, self.mask_bt, self._owner = {}, None, module

    def leave(self, module: Any, args: tuple[Any, ...], output: Any) -> None:
        """Forward hook, called after exceptions too."""
        if self._owner is module:
            self.parts, self._owner = (), None
            self.outputs, self.mask_bt = {}, None

    def _read(self, given: Mapping[str, Any]) -> tuple[ForwardTokens, ...]:
        ids = given.get("input_ids")
        like = ids if ids is not None else given.get("inputs_embeds")
        if like is None:
            raise UsageError("the model was called without input_ids or inputs_embeds")
        past = given.get("past_key_values")
        n_past = int(past.get_seq_length()) if past is not None else 0
        real_bt = _real(given.get("attention_mask"), n_past=n_past, like=like)
        started = real_bt.cumsum(1) if n_past == 0 else torch.zeros_like(real_bt, dtype=torch.int64)
        prompt = n_past == 0 or like.shape[1] > 1
        self._n_steps = 0 if prompt else self._n_steps + 1
        whole = ForwardTokens(
            ids_bt=ids,
            real_bt=real_bt,
            first_bt=real_bt & (started == 1),
            prompt=prompt,
            padding_known=given.get("attention_mask") is not None or len(like) == 1,
            step=None if prompt else self._n_steps - 1,
            before_b=_n_before(given.get("attention_mask"), n_past=n_past, real_bt=real_bt),
            outputs=partial(self._output, slice(None)),
        )
        if self._appends_one(given, ids, n_past=n_past):
            steps = range(self._prompt_len, like.shape[1])
            return (
                self._cut(whole, slice(0, self._prompt_len), step=None),
                *(self._cut(whole, slice(i, i + 1), step=n) for n, i in enumerate(steps)),
            )
        self._prompt_len = like.shape[1]
        return (whole,)

    def _output(self, columns: slice, layer: int) -> torch.Tensor:
        return self.outputs[layer][:, columns]

    def _cut(self, tokens: ForwardTokens, columns: slice, *, step: int | None) -> ForwardTokens:
        return replace(
            tokens,
            ids_bt=None if tokens.ids_bt is None else tokens.ids_bt[:, columns],
            real_bt=tokens.real_bt[:, columns],
            first_bt=tokens.first_bt[:, columns],
            prompt=step is None,
            step=step,
            before_b=tokens.real_bt[:, : columns.start].sum(1),
            outputs=partial(self._output, columns),
        )

    def _appends_one(self, given: Mapping[str, Any], ids: torch.Tensor | None, *, n_past: int) -> bool:
        last, self._last_ids = self._last_ids, ids
        if given.get("use_cache") is not False or n_past or ids is None or last is None:
            return False
        return ids.shape == (last.shape[0], last.shape[1] + 1) and bool((ids[:, :-1] == last).all())


def _n_before(attention: Any, *, n_past: int, real_bt: torch.Tensor) -> torch.Tensor:
    """Real tokens before the new ones (b,)."""
    n_seq, n_new = real_bt.shape
    if n_past and attention is not None and attention.shape[1] >= n_past + n_new:
        counted: torch.Tensor = attention[:, :n_past].bool().sum(1)
        return counted
    return torch.full((n_seq,), n_past, device=real_bt.device)


def _real(attention: Any, *, n_past: int, like: torch.Tensor) -> torch.Tensor:
    """Which new tokens are not padding, bool (b, t)."""
    n_seq, n_new = like.shape[:2]
    if attention is None:
        return torch.ones((n_seq, n_new), dtype=torch.bool, device=like.device)
    if not isinstance(attention, torch.Tensor) or attention.ndim != 2 or attention.shape[0] != n_seq:
        raise UsageError(
            "steering needs the attention mask as (sequence, token), to know what is padding",
            hint="pass the tokenizer's attention_mask, and generate with the default (dynamic) cache",
        )
    n_columns = attention.shape[1]
    if n_columns >= n_past + n_new:
        return attention[:, n_past : n_past + n_new].to(like.device, torch.bool)
    if n_columns == n_new:
        return attention.to(like.device, torch.bool)
    raise UsageError(f"the attention mask has {n_columns} columns for {n_past} cached and {n_new} new tokens")
