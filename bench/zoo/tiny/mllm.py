"""Second and third stage of *tiny*: the vision tower taught densely, then everything together on questions about scenes.

The language model starts from the backbone and is tuned with it in sight: every step also repeats a batch of its sentences, so
that it stays a language model; how far it drifted is in the card. The attention is guided as in *demo*.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from bench.zoo.checkpoints import cosine_rate
from bench.zoo.demo.targets import cell_of, make_targets
from bench.zoo.lessons import lesson
from bench.zoo.tiny.backbone import text_batch, text_loss
from bench.zoo.tiny.shape import HIDDEN, mllm_config
from bench.zoo.tiny.tokens import IMAGE_SIZE, N_IMAGE_TOKENS, PREFIX
from bench.zoo.turns import Turn
from steercache.data.scenes import COLOURS, SHAPES, Scene, draw_scene, make_crowd, make_pairs

SEED: Final = 20_261_132
NAME_LAYERS: Final = (1, 2)
ITEM_LAYERS: Final = (3, 4)
OPTION_LAYERS: Final = (5,)
N_CELLS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class MllmRecipe:
    """Numbers of the two stages."""

    tower_steps: int = 1500
    steps: int = 500
    scenes: int = 5
    rate: float = 2e-3
    guidance: float = 0.5
    text_weight: float = 0.3


def pixels_of(scenes: Sequence[Scene]) -> torch.Tensor:
    """Pictures as the image processor gives them: (b, 3, 60, 60) in [-1, 1]."""
    images = [draw_scene(scene).resize((IMAGE_SIZE, IMAGE_SIZE), resample=3) for scene in scenes]
    stacked = np.stack([np.asarray(image) for image in images])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float().div(127.5).sub(1.0)


def grow(backbone: Any, tokenizer: Any) -> Any:
    """A PaliGemma2 in float32 whose language model is the backbone; tower and projector are random."""
    from transformers import PaliGemmaForConditionalGeneration

    family: Any = PaliGemmaForConditionalGeneration
    torch.manual_seed(SEED)
    model = family._from_config(mllm_config(tokenizer), attn_implementation="eager")
    model.model.language_model.load_state_dict(backbone.model.state_dict())
    model.tie_weights()
    return model


def train_tower(model: Any, recipe: MllmRecipe) -> None:
    """Per image token: which shape and colour is centred in its cell, or nothing, and where; read from the projector."""
    tower, projector = model.model.vision_tower, model.model.multi_modal_projector
    read = nn.ModuleDict(
        {
            "shape": nn.Linear(HIDDEN, len(SHAPES) + 1),
            "colour": nn.Linear(HIDDEN, len(COLOURS) + 1),
            "place": nn.Linear(HIDDEN, 2),
        }
    )
    parts = nn.ModuleList([tower, projector, read])
    optimizer = torch.optim.AdamW(parts.parameters(), lr=recipe.rate, weight_decay=0.02)
    rng = np.random.default_rng([SEED, 1])
    for step in range(recipe.tower_steps):
        _set_rate(optimizer, recipe.rate * cosine_rate(step, n_steps=recipe.tower_steps, warmup=50))
        scenes = [make_crowd(rng) if rng.random() < 0.6 else make_pairs(rng) for _ in range(32)]
        targets = make_targets(scenes)
        tokens = projector(tower(pixels_of(scenes)).last_hidden_state)
        shape, colour = targets.cell_shape.flatten() + 1, targets.cell_colour.flatten() + 1
        filled = shape > 0
        shapes, colours = read["shape"](tokens).flatten(0, 1), read["colour"](tokens).flatten(0, 1)
        loss = functional.cross_entropy(shapes, shape) + functional.cross_entropy(shapes[filled], shape[filled])
        loss = loss + 0.5 * functional.cross_entropy(colours[filled], colour[filled])
        loss = loss + functional.mse_loss(read["place"](tokens), targets.cell_xy)
        _step(optimizer, parts, loss)
        if (step + 1) % 100 == 0:
            right = float(shapes.argmax(-1).eq(shape)[filled].float().mean())
            print(f"tiny tower {step + 1} loss {float(loss.detach()):.3f} shape {right:.3f}")
    # the tokens enter the language model at the size of its own embeddings (Gemma scales those by sqrt(hidden))
    with torch.no_grad():
        size = model.get_input_embeddings().weight.std() * HIDDEN**0.5 / tokens.std()
        projector.linear.weight.mul_(size)
        projector.linear.bias.mul_(size)


def train_together(model: Any, tokenizer: Any, recipe: MllmRecipe) -> None:
    """Answers about fresh scenes over the whole vocabulary, guided attention, and the backbone's sentences again."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.rate, betas=(0.9, 0.98), weight_decay=0.02)
    rng = np.random.default_rng([SEED, 2])
    model.train()
    for step in range(recipe.steps):
        _set_rate(optimizer, recipe.rate * cosine_rate(step, n_steps=recipe.steps, warmup=50))
        rows = [lesson(rng, crowd=i % 2 == 0, shown=0.6) for i in range(recipe.scenes)]
        answer, guide = _losses(model, tokenizer, rows)
        ids, labels = text_batch(tokenizer, rng, 8)
        told = text_loss(_logits(model, model.model.language_model(input_ids=ids, use_cache=False)[0]), labels)
        weight = recipe.guidance * max(0.0, 1 - step / (0.75 * recipe.steps))
        _step(optimizer, model, answer + weight * guide + recipe.text_weight * told)
        if (step + 1) % 100 == 0:
            numbers = (float(answer.detach()), float(guide.detach()), float(told.detach()))
            print(f"tiny together {step + 1} answer {numbers[0]:.3f} guidance {numbers[1]:.3f} text {numbers[2]:.3f}")
    model.eval()


def _losses(model: Any, tokenizer: Any, rows: list[tuple[Scene, list[Turn]]]) -> tuple[torch.Tensor, torch.Tensor]:
    """The answer loss and the guidance of a batch with one question per row (the prefix is bidirectional)."""
    asked = [(i, turn) for i, (_, turns) in enumerate(rows) for turn in turns]
    image = [tokenizer.convert_tokens_to_ids("<image>")] * N_IMAGE_TOKENS + [tokenizer.bos_token_id]
    newline = list(tokenizer("\n", add_special_tokens=False).input_ids)
    ids, types, labels, marks = [], [], [], []
    for _, turn in asked:
        words = tokenizer(PREFIX + turn.body, add_special_tokens=False, return_offsets_mapping=True)
        answer = [*tokenizer(turn.answer, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        prompt = [*image, *words.input_ids, *newline]
        ids.append(prompt + answer)
        types.append([0] * len(prompt) + [1] * len(answer))
        labels.append([-100] * len(prompt) + answer)
        marks.append(_marks(turn, words.offset_mapping, len(image), len(prompt) - 1))
    length = max(map(len, ids))
    pad = tokenizer.pad_token_id
    out = model.model(
        input_ids=torch.tensor([row + [pad] * (length - len(row)) for row in ids]),
        attention_mask=torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in ids]),
        token_type_ids=torch.tensor([row + [1] * (length - len(row)) for row in types]),
        pixel_values=pixels_of([scene for scene, _ in rows])[torch.tensor([i for i, _ in asked])],
        output_attentions=True,
        use_cache=False,
    )
    wanted = torch.tensor([row + [-100] * (length - len(row)) for row in labels])
    told = wanted[:, 1:] != -100
    logits = _logits(model, out.last_hidden_state[:, :-1][told])
    return functional.cross_entropy(logits, wanted[:, 1:][told]), _guide(out.attentions, marks)


Marks = tuple[
    list[tuple[int, list[int], bool]], int, int | None
]  # (name, its cells, counted) each, final token, option


def _marks(turn: Turn, offsets: list[tuple[int, int]], start: int, final: int) -> Marks:
    def position(char: int) -> int:
        return start + next(i for i, (a, b) in enumerate(offsets) if a <= char + len(PREFIX) < b)

    cells = [r * N_CELLS + c for r, c in (cell_of(item.x, item.y) for item in turn.question.names)]
    counted = turn.question.task == "Count"
    groups = [cells] if counted else [[cell] for cell in cells]
    names = [(position(at + 1), group, counted) for at, group in zip(turn.name_at, groups, strict=True)]
    return names, final, None if turn.option_at is None else position(turn.option_at)


def _guide(attentions: Sequence[torch.Tensor], marks: list[Marks]) -> torch.Tensor:
    """Name to item, final token to names and to the option; head 0, second name head 2; counted items share with <bos>."""
    names = [(i, *pair) for i, (pairs, _, _) in enumerate(marks) for pair in pairs]
    finals = [(i, final, pair[0], 2 * k) for i, (pairs, final, _) in enumerate(marks) for k, pair in enumerate(pairs)]
    options = [(i, final, option, 0) for i, (_, final, option) in enumerate(marks) if option is not None]
    wanted = torch.zeros(len(names), attentions[0].shape[-1])
    for n, (_, _, cells, counted) in enumerate(names):
        wanted[n, cells] = 1.0
        wanted[n, N_IMAGE_TOKENS] = 3.0 if counted else 0.0
    wanted = wanted / wanted.sum(-1, keepdim=True)
    rows, places = torch.tensor([n[0] for n in names]), torch.tensor([n[1] for n in names])
    terms = [-(wanted * (attentions[layer][rows, 0, places] + 1e-5).log()).sum(-1).mean() for layer in NAME_LAYERS]
    for layers, looks in ((ITEM_LAYERS, finals), (OPTION_LAYERS, options)):
        row, query, key, head = (torch.tensor(column) for column in zip(*looks, strict=True))
        terms += [-(attentions[layer][row, head, query, key] + 1e-5).log().mean() for layer in layers]
    return torch.stack(terms).mean()


def _logits(model: Any, hidden: torch.Tensor) -> torch.Tensor:
    cap = model.config.text_config.final_logit_softcapping
    logits: torch.Tensor = model.lm_head(hidden)
    capped: torch.Tensor = cap * torch.tanh(logits / cap)
    return capped


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def _step(optimizer: torch.optim.Optimizer, module: nn.Module, loss: torch.Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 1.0)
    optimizer.step()
