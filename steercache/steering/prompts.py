"""Prompts as a batch, padded on the left so that every sequence ends at the same place."""

from collections.abc import Sequence

import torch

from steercache.core.errors import UsageError
from steercache.core.examples import EncodedSample, Example
from steercache.models.spec import LoadedModel, TokenizerBundle
from steercache.trace.batches import PaddedBatch, pad_batch
from steercache.trace.encode import EncodingProblem, encode_example


def encode_texts(bundle: TokenizerBundle, prompts: Sequence[str], *, chat: bool = False) -> tuple[EncodedSample, ...]:
    """Prompts without pictures, encoded as a trace encodes them; with `chat`, each is a user's turn.

    Raises:
        UsageError: no prompts, a prompt that cannot be encoded (it has no tokens, or the chat template fails), or `chat` for
            a tokenizer without a template.
    """
    if not prompts:
        raise UsageError("no prompt was given")
    return tuple(_encode(bundle, prompt, i, chat=chat) for i, prompt in enumerate(prompts, start=1))


def pad_prompts(loaded: LoadedModel, samples: Sequence[EncodedSample]) -> PaddedBatch:
    """Encoded prompts as one batch, padded on the left."""
    return pad_batch(samples, padding_side="left", pad_id=loaded.pad_id)


def encode_prompts(loaded: LoadedModel, prompts: Sequence[str], *, chat: bool = False) -> dict[str, torch.Tensor]:
    """Inputs of `generate`, each of shape (b, t) on the model's device: `input_ids`, `attention_mask`, and what else the family
    reads per token (`token_type_ids`).

    Raises:
        as `encode_texts`.
    """
    batch = pad_prompts(loaded, encode_texts(loaded.bundle, prompts, chat=chat))
    device = next(loaded.model.parameters()).device
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, **batch.extra}
    return {name: tensor.to(device) for name, tensor in inputs.items()}


def _encode(bundle: TokenizerBundle, prompt: str, number: int, *, chat: bool) -> EncodedSample:
    place = f"prompt {number}"
    try:
        return encode_example(Example(dataset="prompts", place=place, text=prompt, chat=chat), bundle)
    except EncodingProblem as problem:
        raise UsageError(problem.message, place=place, hint=problem.hint) from problem
