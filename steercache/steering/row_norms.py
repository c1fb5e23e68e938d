"""How long the rows are that a vector is added to: what strengths in the unit "target_norm" count in."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from steercache.core.errors import UsageError
from steercache.core.vector_use import PlaceName
from steercache.models.spec import LoadedModel
from steercache.queries.token_clause import TokenClause
from steercache.steering.gradient import median_norms
from steercache.steering.live_hooks import changed_at
from steercache.steering.parts import ModelParts, parts_of
from steercache.steering.places import Place, find_place
from steercache.steering.prefill import BlockTape, read_prompts
from steercache.steering.targets import TARGETS, target_mask
from steercache.trace.batches import PaddedBatch


@torch.inference_mode()
def row_norms(
    loaded: LoadedModel,
    batch: PaddedBatch,
    *,
    targets: Sequence[str | TokenClause],
    place: PlaceName = "resid_post",
) -> npt.NDArray[np.float32]:
    """Median norm of each target's rows at a place of every block of an unsteered prefill, (layer, sample, target).

    The first position is left out: it is an attention sink. NaN where a target has no other row, and where a block has no such
    place.
    """
    parts = parts_of(loaded)
    prompts = read_prompts(loaded, batch)
    n_layers = len(parts.blocks)
    inside: dict[int, torch.Tensor] = {}
    with BlockTape(parts, keep={*range(n_layers)}) as tape, changed_at(_kept(parts, place, inside)):
        parts.model(**prompts.inputs, use_cache=False, logits_to_keep=prompts.columns)
    outputs = [tape.outputs[layer] for layer in range(n_layers)]
    tokens = replace(prompts.tokens, outputs=lambda layer: outputs[layer])
    masks = [
        TARGETS[target](tokens, parts.vocabulary)
        if isinstance(target, str)
        else target_mask(target, tokens, vocabulary=parts.vocabulary) != 0
        for target in targets
    ]
    at_place = outputs
    if place != "resid_post":
        real_bt = prompts.tokens.real_bt
        nothing = torch.full((*real_bt.shape, 1), torch.nan, device=real_bt.device)
        at_place = [inside.get(layer, nothing) for layer in range(n_layers)]
    return median_norms(at_place, torch.stack(masks, dim=1) & ~prompts.tokens.first_bt[:, None])


def _kept(
    parts: ModelParts, place: PlaceName, found: dict[int, torch.Tensor]
) -> Iterator[tuple[Place, Callable[[torch.Tensor], None]]]:
    """What keeps the hidden states at a place of each block that has it; nothing for outputs of blocks."""
    for layer, block in enumerate(parts.blocks if place != "resid_post" else ()):
        with suppress(UsageError):
            at = find_place(parts.model, parts.family, block, place=place, layer=layer)
            yield at, partial(found.__setitem__, layer)
