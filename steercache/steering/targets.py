"""Which tokens of a forward pass are steered. Padding never is."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from steercache.core.errors import UsageError
from steercache.core.trials import Target
from steercache.queries.token_clause import TokenClause
from steercache.steering.clause_masks import PlannedTarget, clause_mask, clause_of
from steercache.steering.pass_tokens import ForwardTokens as ForwardTokens
from steercache.steering.pass_tokens import Vocabulary as Vocabulary
from steercache.steering.pass_tokens import ids_of

Chooser = Callable[[torch.Tensor], torch.Tensor]
TargetLike = (
    Target | str | TokenClause | PlannedTarget | Chooser | torch.Tensor | np.ndarray[Any, Any] | list[list[bool]]
)


def _all(tokens: ForwardTokens, vocabulary: Vocabulary) -> torch.Tensor:
    return tokens.real_bt


def _last(tokens: ForwardTokens, vocabulary: Vocabulary) -> torch.Tensor:
    """The last real token of every sequence, wherever the padding is."""
    after = tokens.real_bt.flip(1).cumsum(1).flip(1)
    return tokens.real_bt & (after == 1)


def _shown(kind: str | None, tokens: ForwardTokens, vocabulary: Vocabulary) -> torch.Tensor:
    """Tokens that stand for pictures, videos or sounds: of one kind, or of all that the model has."""
    wanted = [token for name, token in vocabulary.placeholders().items() if kind in (name, None)]
    if not wanted:
        raise UsageError(f"this model has no {kind or 'image'} tokens", hint="choose the target all, text or last")
    ids = ids_of(tokens)
    if vocabulary.video_marks is not None and kind in ("image", "video"):
        start, end = ((ids == mark).cumsum(1) for mark in vocabulary.video_marks)
        in_video = start > end
        return tokens.real_bt & (ids == vocabulary.image_id) & (in_video if kind == "video" else ~in_video)
    return tokens.real_bt & torch.isin(ids, torch.tensor(wanted, device=ids.device, dtype=ids.dtype))


def _text(tokens: ForwardTokens, vocabulary: Vocabulary) -> torch.Tensor:
    """Neither image, video or audio nor special, and not the last token of the prompt (arXiv 2505.14071)."""
    ids = ids_of(tokens)
    others = sorted({*vocabulary.special_ids, *vocabulary.placeholders().values()})
    left_out = torch.isin(ids, torch.tensor(others, device=ids.device, dtype=ids.dtype))
    if tokens.prompt:
        left_out |= _last(tokens, vocabulary)
    return tokens.real_bt & ~left_out


def _both(tokens: ForwardTokens, vocabulary: Vocabulary) -> torch.Tensor:
    return _shown(None, tokens, vocabulary) | _text(tokens, vocabulary)


TARGETS: dict[str, Callable[[ForwardTokens, Vocabulary], torch.Tensor]] = {
    "all": _all,
    "last": _last,
    "text": _text,
    "image": partial(_shown, "image"),
    "both": _both,
    "video": partial(_shown, "video"),
    "audio": partial(_shown, "audio"),
}


def target_mask(
    target: TargetLike, tokens: ForwardTokens, *, vocabulary: Vocabulary, skip_first: bool = False
) -> torch.Tensor:
    """The rows to steer, bool of shape (b, t); `skip_first` leaves the first token of every sequence out.

    A callable gets the token ids (b, t) and returns the mask. A mask as an array names tokens of the prompt. A target written
    as SQL that returns weights gives float32 weights, 0 where nothing is steered.

    Raises:
        UsageError: an unknown name, a mask of another shape, or prompts in which nothing is hit: any of the batch for a
            target by name, all of them for a mask or a callable, which may leave some alone. SQL may select nothing.
        QueryError: SQL that is wrong or not allowed.
    """
    clause = clause_of(target)
    if clause is not None:
        mask_bt = clause_mask(target, clause, tokens, vocabulary)
    elif isinstance(target, str):
        if target not in TARGETS:
            raise UsageError(f"no target named {target!r}", hint=f"choose one of: {', '.join(TARGETS)}, or SQL")
        mask_bt = TARGETS[target](tokens, vocabulary)
    elif callable(target):
        mask_bt = _as_mask(target(ids_of(tokens)), tokens)
    elif tokens.prompt:
        mask_bt = _as_mask(target, tokens)
    else:
        mask_bt = torch.zeros_like(tokens.real_bt)
    if skip_first:
        mask_bt = mask_bt.masked_fill(tokens.first_bt, False)
    if tokens.prompt and clause is None:
        refuse_missed(target, mask_bt)
    return mask_bt


def refuse_missed(target: TargetLike, mask_bt: torch.Tensor) -> None:
    """Raises UsageError where nothing of a prompt is hit: of any prompt for a target by name, of all of them for others."""
    missed = (~(mask_bt != 0).any(dim=1)).nonzero().flatten().tolist()
    by_name = isinstance(target, str) and target in TARGETS
    if not missed or (len(missed) < len(mask_bt) and not by_name):
        return
    what = repr(str(target)) if isinstance(target, str | TokenClause) else "given"
    which = (
        "the prompt" if len(mask_bt) == 1 else f"prompt {', '.join(str(i + 1) for i in missed[:8])} of {len(mask_bt)}"
    )
    raise UsageError(f"the target {what} selects no token of {which}, so nothing would be steered there")


def _as_mask(value: Any, tokens: ForwardTokens) -> torch.Tensor:
    mask = torch.as_tensor(value, device=tokens.real_bt.device)
    is_weight = mask.dtype.is_floating_point
    if mask.shape != tokens.real_bt.shape or not (is_weight or mask.dtype == torch.bool):
        raise UsageError(
            f"a mask must be bool, or weights, of shape {tuple(tokens.real_bt.shape)} (sequence, token), "
            f"not {str(mask.dtype).removeprefix('torch.')} of shape {tuple(mask.shape)}"
        )
    if not is_weight:
        return mask & tokens.real_bt
    if not bool(mask.isfinite().all()):
        raise UsageError("the weights of a mask must be finite")
    return mask.to(torch.float32).masked_fill(~tokens.real_bt, 0.0)
