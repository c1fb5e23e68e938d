"""What is asked of a batch and what comes back: one vector at one layer on some tokens, and the answers under it."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from steercache.core.trials import Mode
from steercache.steering.targets import TargetLike

# Stated, not derived: logits of a cell computed in a batch of another shape differ by less than this times the row's largest
# |logit| (128 rounding steps in float32, 16 otherwise; the tests' small models stay far below). A smaller gap: near-tie.
ROUNDING: dict[torch.dtype, float] = {
    dtype: 16 * torch.finfo(dtype).eps for dtype in (torch.float64, torch.bfloat16, torch.float16)
} | {torch.float32: 128 * torch.finfo(torch.float32).eps}


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchCell:
    """`delta_d` (float32, from steer.add.delta_of or scale_direction) added at the output of block `layer` on `target`.

    `key` is the caller's own: a cell id.
    """

    key: str
    layer: int
    delta_d: npt.NDArray[np.float32] = field(repr=False)
    target: TargetLike = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class CellAnswers:
    """What the b samples of a batch answered in one cell.

    `logits_bv` are those of the first token, float32. `tokens` are the generated ids without the one that ended the answer;
    `ended` is False where `max_new_tokens` cut it off. `gap_b` is the smallest distance between best and second-best logit
    over the answer; below the stated tolerance another batching may answer otherwise: `near_tie_b`. `mode` says how it was
    computed, and `reason` why in full.
    """

    key: str
    mode: Mode
    logits_bv: torch.Tensor = field(repr=False)
    tokens: tuple[tuple[int, ...], ...]
    ended: tuple[bool, ...]
    gap_b: torch.Tensor
    near_tie_b: torch.Tensor
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Firsts:
    """The first tokens of r sequences, and how clear they were."""

    logits_rv: torch.Tensor = field(repr=False)
    token_r: torch.Tensor
    gap_r: torch.Tensor
    scale_r: torch.Tensor


def read_firsts(logits_rv: torch.Tensor) -> Firsts:
    """Greedy choice from logits (r, vocabulary), float32."""
    top = logits_rv.topk(2, dim=-1).values
    return Firsts(
        logits_rv=logits_rv,
        token_r=logits_rv.argmax(-1),
        gap_r=top[:, 0] - top[:, 1],
        scale_r=logits_rv.abs().amax(-1),
    )


def make_answers(
    key: str,
    firsts: Firsts,
    more: Any | None,
    *,
    ends: frozenset[int],
    dtype: torch.dtype,
    how: tuple[Mode, str | None] = ("branch", None),
) -> CellAnswers:
    """Join first tokens and what followed (`decode.Decoded` of the same rows, or None)."""
    rows = [[token] for token in firsts.token_r.tolist()]
    gap, scale = firsts.gap_r, firsts.scale_r
    if more is not None:
        for row, rest in zip(rows, more.tokens_rn.tolist(), strict=True):
            row.extend(token for token in rest if token >= 0)
        gap, scale = torch.minimum(gap, more.gap_r), torch.maximum(scale, more.scale_r)
    mode, reason = how
    return CellAnswers(
        key=key,
        mode=mode,
        reason=reason,
        logits_bv=firsts.logits_rv,
        tokens=tuple(tuple(token for token in row if token not in ends) for row in rows),
        ended=tuple(row[-1] in ends for row in rows),
        gap_b=gap,
        near_tie_b=gap <= ROUNDING[dtype] * scale,
    )
