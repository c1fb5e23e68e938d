"""The usual ways through a grid, in plain transformers: `generate` with a hook, one question a time or in batches.

Encodings are made beforehand, and the hook adds as our own code does (in float32, rounded once), so that answers can be
compared word for word. `generate` stops when every sequence of its batch has ended.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from steercache.benchmarks.task import PLAIN
from steercache.cells.arms import ArmCell
from steercache.cells.options import EvalOptions
from steercache.models.family import find_module
from steercache.models.spec import LoadedModel
from steercache.trace.prompt import decode_image


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a loop answered, cell by cell in the order of the questions, and how many tokens it generated in each."""

    words: list[list[str]]
    n_new: list[int]


def encode(loaded: LoadedModel, examples: Sequence[Any]) -> dict[str, torch.Tensor]:
    """Questions in the words that the model was trained on, through its ordinary processor, padded on the left."""
    texts, pictures = [], []
    for example in examples:
        put = PLAIN.put(example, loaded.bundle)
        text = f"<image>{put.text}"
        if put.chat:
            content = [{"type": "image"}, {"type": "text", "text": put.text}]
            turn = [{"role": "user", "content": content}]
            text = loaded.processor.apply_chat_template(turn, add_generation_prompt=True)  # type: ignore[union-attr]
        ref = example.images[0]
        texts.append(text)
        pictures.append([decode_image(ref.load(), ref)])
    made: Any = loaded.processor
    inputs = made(images=pictures, text=texts, padding=True, padding_side="left", return_tensors="pt")
    inputs.pop("labels", None)
    return dict(inputs.to(loaded.model.device, dtype=loaded.model.dtype))


def mask_of(loaded: LoadedModel, inputs: dict[str, torch.Tensor], target: str) -> torch.Tensor:
    """Image tokens, or the prompt's words: neither image nor special, without the last token (arXiv 2505.14071)."""
    ids = inputs["input_ids"]
    image = ids == loaded.config.image_token_id
    if target == "image":
        return image
    special = torch.tensor(sorted(loaded.bundle.special_ids), device=ids.device)
    words = ~image & ~torch.isin(ids, special) & inputs["attention_mask"].bool()
    words[:, -1] = False
    return words


@contextmanager
def hooked(loaded: LoadedModel, setting: ArmCell | None, mask_bt: torch.Tensor) -> Iterator[None]:
    """While the model reads the prompt, the cell's vector is added at its block."""
    if setting is None or setting.cell.layer is None:
        yield
        return
    delta = torch.from_numpy(setting.delta(loaded.spec.hidden_size)).to(mask_bt.device)

    def add(module: Any, args: Any, out: torch.Tensor) -> torch.Tensor | None:
        if out.shape[1] != mask_bt.shape[1]:
            return None
        return torch.where(mask_bt[..., None], (out.float() + delta).to(out.dtype), out)

    block = find_module(loaded.model, loaded.family.blocks)[setting.cell.layer]
    handle = block.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


@torch.inference_mode()
def generate_all(
    loaded: LoadedModel,
    settings: Sequence[ArmCell | None],
    encodings: Sequence[dict[str, torch.Tensor]],
    *,
    target: str,
    options: EvalOptions,
    kind: str,
) -> Said:
    """`generate` for every cell and every encoding: with encodings of one question the published loop, else a batched one."""
    masks = [mask_of(loaded, inputs, target) for inputs in encodings]
    words: list[list[str]] = []
    n_new: list[int] = []
    for setting in settings:
        said: list[str] = []
        for inputs, mask_bt in zip(encodings, masks, strict=True):
            with hooked(loaded, setting, mask_bt):
                out = loaded.model.generate(**inputs, max_new_tokens=options.decoding.limit_of(kind), do_sample=False)
            new = out[:, inputs["input_ids"].shape[1] :]
            n_new.append(new.shape[1])
            said += [text.strip() for text in loaded.tokenizer.batch_decode(new, skip_special_tokens=True)]
        words.append(said)
    return Said(words=words, n_new=n_new)
