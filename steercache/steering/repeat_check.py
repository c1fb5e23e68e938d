"""Whether the upper blocks of a derived model, run again from stored rows as branches run them, give what its own pass gave."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from steercache.models.spec import LoadedModel
from steercache.steering.cells import ROUNDING
from steercache.steering.forward import BlockCall, BranchCache, Stacking, run_blocks

_MEMO = "blocks repeat"


def found_once(loaded: LoadedModel, find: Callable[[], str | None]) -> str | None:
    """What `find` says of a loaded model, asked once for as long as it is in memory."""
    if _MEMO not in loaded.envoys:
        loaded.envoys[_MEMO] = find()
    found: str | None = loaded.envoys[_MEMO]
    return found


def middle_of(n_layers: int) -> int:
    """The block from whose output on the upper blocks are run again."""
    return (n_layers - 1) // 2


@torch.inference_mode()
def repeat_obstacle(
    blocks: Any,
    *,
    real_bt: torch.Tensor,
    calls: Sequence[BlockCall],
    outputs: Mapping[int, torch.Tensor],
    keys_values: Mapping[int, tuple[torch.Tensor, torch.Tensor]],
) -> str | None:
    """Why branches of this model cannot be trusted; None when they can.

    Two copies of the batch run from the second half of its columns on, and once the whole batch: the first within rounding of
    the model's own last block, the second bit for bit.
    """
    n_seq, n_tokens = real_bt.shape
    middle, last = middle_of(len(blocks)), outputs[len(blocks) - 1]
    for n_copies, start in ((1, 0), (2, n_tokens // 2)):
        stacking = Stacking(n_seq=n_seq, n_tokens=n_tokens, n_copies=n_copies, start=start)
        hidden = outputs[middle][:, start:].repeat(n_copies, 1, 1)
        try:
            again = run_blocks(
                blocks,
                calls,
                hidden,
                first=middle + 1,
                stacking=stacking,
                cache=BranchCache(keys_values, stacking, keep=False),
            )
        except (RuntimeError, AttributeError, TypeError, ValueError, IndexError, KeyError) as error:
            return f"its blocks do not run alone ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
        wanted = last[:, start:].repeat(n_copies, 1, 1)
        real = real_bt[:, start:].repeat(n_copies, 1)[..., None]
        moved = float(torch.where(real, again - wanted, 0).abs().max())
        allowed = 0.0 if (n_copies, start) == (1, 0) else ROUNDING[last.dtype] * float(wanted.abs().max())
        if not moved <= allowed:
            return f"its upper blocks, run again from stored rows, give other values (by {moved:.2g})"
    return None
