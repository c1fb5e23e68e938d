"""Prompts as a batch, padded on the left so that every sequence ends at the same place."""

from collections.abc import Sequence
from typing import Any

import torch

from steercache.core.errors import UsageError
from steercache.models.spec import LoadedModel


def encode_prompts(loaded: LoadedModel, prompts: Sequence[str], *, chat: bool = False) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask` of shape (b, t) on the model's device.

    Raises:
        UsageError: no prompts, a prompt without tokens, or `chat` for a tokenizer without a template.
    """
    ids = [_encode(loaded.tokenizer, prompt, chat=chat) for prompt in prompts]
    empty = [i for i, tokens in enumerate(ids) if not tokens]
    if not ids or empty:
        raise UsageError(f"prompt {empty[0] + 1} is empty" if empty else "no prompt was given")
    width = max(map(len, ids))
    device = next(loaded.model.parameters()).device
    padded = [[0] * (width - len(tokens)) + tokens for tokens in ids]
    mask = [[0] * (width - len(tokens)) + [1] * len(tokens) for tokens in ids]
    return {
        "input_ids": torch.tensor(padded, device=device),
        "attention_mask": torch.tensor(mask, device=device),
    }


def _encode(tokenizer: Any, prompt: str, *, chat: bool) -> list[int]:
    if not chat:
        return [int(i) for i in tokenizer(prompt)["input_ids"]]
    if tokenizer.chat_template is None:
        raise UsageError("this model's tokenizer has no chat template", hint="leave --chat out")
    turn = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
    return [int(i) for i in tokenizer(text, add_special_tokens=False)["input_ids"]]
