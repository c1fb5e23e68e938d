"""How far the language model inside a multimodal model has moved from its text backbone: the same sentences through both."""

from pathlib import Path
from typing import Any, Final

import torch
from torch.nn import functional

SENTENCES: Final = (
    "The cat is on the table.",
    "The dog is to the left of the house.",
    "The red star is above the blue moon.",
    "There are three birds in the tree.",
    "I see a white ball near the green box.",
    "The car is not bigger than the house.",
    "The bird flies above the tree today.",
    "The cup is inside the box under the table.",
)


def drift(backbone: Path, mllm: Path, sentences: tuple[str, ...] = SENTENCES) -> dict[str, Any]:
    """Mean cosine of the block outputs at every token but the first, per layer, and the next-token loss of both."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(backbone)
    before: Any = AutoModelForCausalLM.from_pretrained(backbone)
    after: Any = AutoModelForImageTextToText.from_pretrained(mllm)
    inner = after.model
    text = inner.text_model if hasattr(inner, "text_model") else inner.language_model
    n_layers = len(before.model.layers)
    cosines = torch.zeros(n_layers)
    losses = torch.zeros(2)
    for sentence in sentences:
        ids = tokenizer(sentence, return_tensors="pt").input_ids
        states = [_block_outputs(model, ids) for model in (before.model, text)]
        for layer, (a, b) in enumerate(zip(*states, strict=True)):
            cosines[layer] += functional.cosine_similarity(a[0, 1:].float(), b[0, 1:].float(), dim=-1).mean()
        for i, (model, head) in enumerate(((before.model, before.lm_head), (text, after.lm_head))):
            with torch.no_grad():
                logits = head(model(input_ids=ids, use_cache=False)[0])[0, :-1].float()
            losses[i] += functional.cross_entropy(logits, ids[0, 1:])
    return {
        "cosine_by_layer": [round(float(c), 4) for c in cosines / len(sentences)],
        "loss_backbone": round(float(losses[0]) / len(sentences), 3),
        "loss_in_mllm": round(float(losses[1]) / len(sentences), 3),
    }


def _block_outputs(model: Any, ids: torch.Tensor) -> list[torch.Tensor]:
    """The output of every block (before any final norm), (1, t, d) each."""
    found: list[torch.Tensor] = []
    hooks = [layer.register_forward_hook(lambda *args: found.append(_tensor(args[2]))) for layer in model.layers]
    try:
        with torch.no_grad():
            model(input_ids=ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _tensor(output: Any) -> torch.Tensor:
    state: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return state
