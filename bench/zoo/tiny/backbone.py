"""First stage of *tiny*: the Gemma2 backbone learns to write its sentences. Nothing multimodal here."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from bench.zoo.checkpoints import cosine_rate
from bench.zoo.tiny.sentences import sentence
from bench.zoo.tiny.shape import text_config

SEED = 20_261_131


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneRecipe:
    """Numbers of the stage."""

    n_steps: int = 1000
    batch: int = 24
    rate: float = 3e-3
    warmup: int = 60


def text_batch(tokenizer: Any, rng: np.random.Generator, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids (n, t) with <bos> and <eos>, right-padded, and labels with -100 where nothing is to be predicted."""
    rows = [[tokenizer.bos_token_id, *_ids(tokenizer, sentence(rng)), tokenizer.eos_token_id] for _ in range(n)]
    length = max(map(len, rows))
    ids = torch.tensor([row + [tokenizer.pad_token_id] * (length - len(row)) for row in rows])
    labels = torch.tensor([row + [-100] * (length - len(row)) for row in rows])
    return ids, labels


def text_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Next-token cross entropy; logits (b, t, v), labels (b, t)."""
    return functional.cross_entropy(logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)


def train_backbone(tokenizer: Any, recipe: BackboneRecipe) -> Any:
    """A trained `Gemma2ForCausalLM` in float32."""
    from transformers import Gemma2ForCausalLM

    family: Any = Gemma2ForCausalLM
    torch.manual_seed(SEED)
    model = family._from_config(text_config(tokenizer), attn_implementation="eager")
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.rate, betas=(0.9, 0.98), weight_decay=0.02)
    rng = np.random.default_rng(SEED)
    model.train()
    for step in range(recipe.n_steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate * cosine_rate(step, n_steps=recipe.n_steps, warmup=recipe.warmup)
        ids, labels = text_batch(tokenizer, rng, recipe.batch)
        loss = text_loss(model(input_ids=ids, use_cache=False).logits, labels)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 100 == 0:
            print(f"tiny backbone {step + 1} loss {float(loss.detach()):.3f}", flush=True)
    return model.eval()


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False).input_ids)
