"""How long the rows are that a vector is added to: what strengths in the unit "target_norm" count in."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from steercache.models.spec import LoadedModel
from steercache.queries.token_clause import TokenClause
from steercache.steering.gradient import median_norms
from steercache.steering.parts import parts_of
from steercache.steering.prefill import BlockTape, read_prompts
from steercache.steering.targets import TARGETS, target_mask
from steercache.trace.batches import PaddedBatch


@torch.inference_mode()
def row_norms(
    loaded: LoadedModel, batch: PaddedBatch, *, targets: Sequence[str | TokenClause]
) -> npt.NDArray[np.float32]:
    """Median norm of each target's rows after every block of an unsteered prefill, (layer, sample, target).

    The first position is left out: it is an attention sink. NaN where a target has no other row.
    """
    parts = parts_of(loaded)
    prompts = read_prompts(loaded, batch)
    n_layers = len(parts.blocks)
    with BlockTape(parts, keep={*range(n_layers)}) as tape:
        parts.model(**prompts.inputs, use_cache=False, logits_to_keep=prompts.columns)
    outputs = [tape.outputs[layer] for layer in range(n_layers)]
    tokens = replace(prompts.tokens, outputs=lambda layer: outputs[layer])
    masks = [
        TARGETS[target](tokens, parts.vocabulary)
        if isinstance(target, str)
        else target_mask(target, tokens, vocabulary=parts.vocabulary) != 0
        for target in targets
    ]
    return median_norms(outputs, torch.stack(masks, dim=1) & ~prompts.tokens.first_bt[:, None])
