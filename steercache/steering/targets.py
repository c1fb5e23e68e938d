"""Which tokens of a forward pass are steered. Padding never is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from steercache.core.errors import UsageError
from steercache.core.trials import Target

Chooser = Callable[[torch.Tensor], torch.Tensor]
TargetLike = Target | Chooser | torch.Tensor | np.ndarray[Any, Any] | list[list[bool]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardTokens:
    """The new tokens of one forward pass; masks have shape (b, t).

    `ids_bt` is None when the model was given embeddings only. `first_bt` marks the first token of a sequence, where there is
    one among these. `prompt` is False for the steps after the prefill. Without `padding_known` nobody said which tokens are
    padding, and all are taken for real.
    """

    ids_bt: torch.Tensor | None
    real_bt: torch.Tensor
    first_bt: torch.Tensor
    prompt: bool
    padding_known: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """Ids that the targets need: special tokens, and the placeholder of an image patch."""

    special_ids: frozenset[int]
    image_id: int | None = None


def _all(tokens: ForwardTokens, vocabulary: Vocabulary) -> torch.Tensor:
    return tokens.real_bt


def _last(tokens: ForwardTokens, vocabulary: Vocabulary) -> torch.Tensor:
    """The last real token of every sequence, wherever the padding is."""
    after = tokens.real_bt.flip(1).cumsum(1).flip(1)
    return tokens.real_bt & (after == 1)


def _image(tokens: ForwardTokens, vocabulary: Vocabulary) -> torch.Tensor:
    if vocabulary.image_id is None:
        raise UsageError("this model has no image tokens", hint="choose the target all, text or last")
    return tokens.real_bt & (_ids(tokens) == vocabulary.image_id)


def _text(tokens: ForwardTokens, vocabulary: Vocabulary) -> torch.Tensor:
    """Neither image nor special, and not the last token of the prompt (arXiv 2505.14071)."""
    ids = _ids(tokens)
    left_out = torch.isin(ids, torch.tensor(sorted(vocabulary.special_ids), device=ids.device, dtype=ids.dtype))
    if vocabulary.image_id is not None:
        left_out |= ids == vocabulary.image_id
    if tokens.prompt:
        left_out |= _last(tokens, vocabulary)
    return tokens.real_bt & ~left_out


def _both(tokens: ForwardTokens, vocabulary: Vocabulary) -> torch.Tensor:
    return _image(tokens, vocabulary) | _text(tokens, vocabulary)


TARGETS: dict[str, Callable[[ForwardTokens, Vocabulary], torch.Tensor]] = {
    "all": _all,
    "last": _last,
    "text": _text,
    "image": _image,
    "both": _both,
}


def target_mask(
    target: TargetLike, tokens: ForwardTokens, *, vocabulary: Vocabulary, skip_first: bool = False
) -> torch.Tensor:
    """The rows to steer, bool of shape (b, t); `skip_first` leaves the first token of every sequence out.

    A callable gets the token ids (b, t) and returns the mask. A mask as an array names tokens of the prompt.

    Raises:
        UsageError: an unknown name, a mask of another shape, or prompts in which nothing is hit: any of the batch for a
            target by name, all of them for a mask or a callable, which may leave some alone.
    """
    if isinstance(target, str):
        if target not in TARGETS:
            raise UsageError(f"no target named {target!r}", hint=f"choose one of: {', '.join(TARGETS)}")
        mask_bt = TARGETS[target](tokens, vocabulary)
    elif callable(target):
        mask_bt = _as_mask(target(_ids(tokens)), tokens)
    elif tokens.prompt:
        mask_bt = _as_mask(target, tokens)
    else:
        mask_bt = torch.zeros_like(tokens.real_bt)
    if skip_first:
        mask_bt = mask_bt & ~tokens.first_bt
    if tokens.prompt:
        _refuse_missed(target, mask_bt)
    return mask_bt


def _refuse_missed(target: TargetLike, mask_bt: torch.Tensor) -> None:
    missed = (~mask_bt.any(dim=1)).nonzero().flatten().tolist()
    if not missed or (len(missed) < len(mask_bt) and not isinstance(target, str)):
        return
    what = repr(target) if isinstance(target, str) else "given"
    which = (
        "the prompt" if len(mask_bt) == 1 else f"prompt {', '.join(str(i + 1) for i in missed[:8])} of {len(mask_bt)}"
    )
    raise UsageError(f"the target {what} selects no token of {which}, so nothing would be steered there")


def _ids(tokens: ForwardTokens) -> torch.Tensor:
    if tokens.ids_bt is None:
        raise UsageError(
            "the model was called with embeddings and no input_ids, so token kinds are unknown",
            hint="choose the target all or last, or give a mask",
        )
    return tokens.ids_bt


def _as_mask(value: Any, tokens: ForwardTokens) -> torch.Tensor:
    mask = torch.as_tensor(value, device=tokens.real_bt.device)
    if mask.shape != tokens.real_bt.shape or mask.dtype != torch.bool:
        raise UsageError(
            f"a mask must be bool of shape {tuple(tokens.real_bt.shape)} (sequence, token), "
            f"not {str(mask.dtype).removeprefix('torch.')} of shape {tuple(mask.shape)}"
        )
    return mask & tokens.real_bt
