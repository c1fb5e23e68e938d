"""How long the rows are that a vector is added to: what strengths in the unit "target_norm" count in."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from steercache.models.spec import LoadedModel
from steercache.steering.gradient import median_norms
from steercache.steering.live import parts_of
from steercache.steering.prefill import BlockTape, read_prompts
from steercache.steering.targets import TARGETS
from steercache.trace.batches import PaddedBatch


@torch.inference_mode()
def row_norms(loaded: LoadedModel, batch: PaddedBatch, *, targets: Sequence[str]) -> npt.NDArray[np.float32]:
    """Median norm of each target's rows after every block of an unsteered prefill, (layer, sample, target).

    The first position is left out: it is an attention sink. NaN where a target has no other row.
    """
    parts = parts_of(loaded)
    prompts = read_prompts(loaded, batch)
    masks = [TARGETS[target](prompts.tokens, parts.vocabulary) for target in targets]
    n_layers = len(parts.blocks)
    with BlockTape(parts, keep={*range(n_layers)}) as tape:
        parts.model(**prompts.inputs, use_cache=False, logits_to_keep=prompts.columns)
    outputs = [tape.outputs[layer] for layer in range(n_layers)]
    return median_norms(outputs, torch.stack(masks, dim=1) & ~prompts.tokens.first_bt[:, None])
