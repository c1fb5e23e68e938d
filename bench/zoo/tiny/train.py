"""The whole training of *tiny*, from nothing to the two folders that ship: minutes on two cores."""

from pathlib import Path

import torch

from bench.zoo.tiny.backbone import BackboneRecipe, train_backbone
from bench.zoo.tiny.mllm import MllmRecipe, grow, train_together, train_tower
from bench.zoo.tiny.tokens import make_processor, train_tokenizer


def train_tiny(out: Path) -> None:
    """Writes `out/backbone` (Gemma2 and tokenizer) and `out/mllm` (PaliGemma2 and processor), both in bfloat16."""
    tokenizer = train_tokenizer()
    processor = make_processor(tokenizer)  # adds PaliGemma's extra tokens, which the backbone has rows for too
    backbone = train_backbone(tokenizer, BackboneRecipe())
    model = grow(backbone, tokenizer)
    recipe = MllmRecipe()
    train_tower(model, recipe)
    train_together(model, tokenizer, recipe)
    plain = train_tokenizer()
    plain.add_tokens(
        [token for token, idx in sorted(tokenizer.get_vocab().items(), key=lambda kv: kv[1]) if idx >= len(plain)]
    )
    for name, saved, words in (("backbone", backbone, plain), ("mllm", model, processor)):
        saved.to(torch.bfloat16).save_pretrained(out / name)
        words.save_pretrained(out / name)
