"""What a decoder adds to its hidden states between two blocks: features of the pictures (DeepStack, arXiv 2406.04334).

Qwen3-VL adds them to the output of each of its first blocks, outside the blocks. The output of such a block, here and in
transformers' `hidden_states`, is what the block itself gives, before that sum: steering changes it, runs keep it, and the next
block reads it with the features added.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch

from steercache.models.sharing import feeds_pictures_to_blocks
from steercache.models.spec import LoadedModel

_WHERE: Final = "visual_pos_masks"  # arguments of Qwen3-VL's decoder
_FEATURES: Final = "deepstack_visual_embeds"


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedFeatures:
    """Features `rows_nd` of a batch's pictures, of the tokens at `where_bt`, in their order."""

    where_bt: torch.Tensor = field(repr=False)
    rows_nd: torch.Tensor = field(repr=False)

    def added_to(self, hidden: torch.Tensor, *, start: int, n_copies: int) -> torch.Tensor:
        """`hidden` (n b, t - start, d) and the features, one sum in its dtype as the decoder makes it."""
        where, rows = self.where_bt.to(hidden.device), self.rows_nd.to(hidden.device, hidden.dtype)
        if start:
            rows = rows[where.nonzero()[:, 1] >= start]
            where = where[:, start:]
        if not len(rows):
            return hidden
        if n_copies > 1:
            where, rows = where.repeat(n_copies, 1), rows.repeat(n_copies, 1)
        added = hidden.clone()
        added[where] = hidden[where] + rows
        return added


def features_before(arguments: Mapping[str, Any]) -> dict[int, AddedFeatures]:
    """From the arguments of a decoder's call, the features by the block that reads them first."""
    where, features = arguments.get(_WHERE), arguments.get(_FEATURES)
    if where is None or features is None:
        return {}
    return {layer + 1: AddedFeatures(where_bt=where, rows_nd=rows) for layer, rows in enumerate(features)}


def n_with_features(loaded: LoadedModel) -> int:
    """Above how many of its first blocks this decoder adds features of pictures, or hands something made of them to blocks."""
    if feeds_pictures_to_blocks(loaded.config):
        return loaded.spec.n_layers
    if loaded.family.deepstack is None:
        return 0
    return len(getattr(loaded.config.vision_config, loaded.family.deepstack))
