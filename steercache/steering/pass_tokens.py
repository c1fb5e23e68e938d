"""The tokens of one forward pass, as far as it is known what they are."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from steercache.core.errors import UsageError
from steercache.core.examples import TOKEN_KINDS, EncodedSample
from steercache.models.video_settings import within


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardTokens:
    """The new tokens of one forward pass; masks have shape (b, t).

    `ids_bt` is None when the model was given embeddings only. `first_bt` marks the first token of a sequence, where there is
    one among these. `prompt` is False for the steps after the prefill, which `step` counts from 0. Without `padding_known`
    nobody said which tokens are padding, and all are taken for real. `samples` say more of every sequence than its ids,
    `before_b` is how many real tokens precede these, `outputs` gives unsteered outputs (b, t, d) of a block.
    """

    ids_bt: torch.Tensor | None
    real_bt: torch.Tensor
    first_bt: torch.Tensor
    prompt: bool
    padding_known: bool = True
    step: int | None = None
    samples: tuple[EncodedSample, ...] | None = field(default=None, repr=False)
    before_b: torch.Tensor | None = field(default=None, repr=False)
    outputs: Callable[[int], torch.Tensor] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """Ids that the targets need: special tokens, and the placeholders of pictures, videos and sounds; and the tokenizer, where
    known."""

    special_ids: frozenset[int]
    image_id: int | None = None
    video_id: int | None = None
    audio_id: int | None = None
    video_marks: tuple[int, int] | None = None  # around videos whose frames are made of image tokens (GLM-4V)
    tokenizer: Any = field(default=None, repr=False, compare=False)

    def placeholders(self) -> dict[str, int]:
        """The ids that stand for pictures, videos and sounds, by kind, as far as the model has them."""
        ids = {"image": self.image_id, "video": self.video_id, "audio": self.audio_id}
        return {kind: token for kind, token in ids.items() if token is not None}


def ids_of(tokens: ForwardTokens) -> torch.Tensor:
    """The ids (b, t). Raises UsageError where the pass was given embeddings only."""
    if tokens.ids_bt is None:
        raise UsageError(
            "the model was called with embeddings and no input_ids, so token kinds are unknown",
            hint="choose the target all or last, or give a mask",
        )
    return tokens.ids_bt


def kinds_of(ids: npt.NDArray[np.int32], vocabulary: Vocabulary) -> npt.NDArray[np.int8]:
    """Kinds (t,) of tokens as far as ids tell: what a chat template wrote is text here."""
    kind = np.full(len(ids), TOKEN_KINDS.index("text"), dtype=np.int8)
    kind[np.isin(ids, sorted(vocabulary.special_ids))] = TOKEN_KINDS.index("special")
    for name, token in vocabulary.placeholders().items():
        kind[ids == token] = TOKEN_KINDS.index(name)
    if vocabulary.video_marks is not None:
        kind[(ids == vocabulary.image_id) & within(ids, vocabulary.video_marks)] = TOKEN_KINDS.index("video")
    return kind
