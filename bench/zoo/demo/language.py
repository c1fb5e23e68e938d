"""Second stage of *demo*: SmolLM2 learns to use the image tokens, through a low-rank update; tower and connector frozen.

The loss is the cross entropy of the answer's tokens over the whole vocabulary, plus the guidance, whose weight falls to 0.
"""

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from bench.zoo.checkpoints import cosine_rate, load_state, save_state
from bench.zoo.demo.blocks import run_blocks
from bench.zoo.demo.guidance import (
    FINAL_LAYER,
    ITEM_LAYERS,
    NAME_LAYERS,
    OPTION_LAYERS,
    READ_LAYER,
    ReadOut,
    guidance_losses,
    read_losses,
    watched_tokens,
)
from bench.zoo.demo.packing import Batch, PackedQuestion, Tokenize, pack
from bench.zoo.lessons import lesson
from bench.zoo.turns import Turn
from steercache.data.scenes import Scene, draw_scene
from steercache.zoo.demo.lora import LowRankLinear, add_low_rank
from steercache.zoo.demo.shape import N_IMAGE_TOKENS, to_pixels

TRAIN_SEED = 20_261_125
CHECK_SEED = 20_261_126


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageRecipe:
    """Numbers of the second stage."""

    n_steps: int = 900
    shown_first: float = 0.3  # share of the questions with choices, up to and from `shown_from` of the steps
    shown_later: float = 0.65
    shown_from: float = 0.35
    pairs: int = 5  # scenes in a step about pairs (three steps of five), so that rows are equally long
    crowds: int = 8  # scenes in a step about crowds
    counting_from: int = 550  # the step from which three steps of five are about crowds, and two of these only count
    counted: int = 14  # scenes in a step that only counts
    rate: float = 8e-4
    warmup: int = 40
    guidance: float = 0.5
    guidance_until: float = 1.0  # share of the steps after which only the answers count
    end_weight: float = 0.1  # of the token that ends the turn
    save_every: int = 50
    check_steps: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Pupil:
    """What a step needs: the Idefics3 model, its text model in float32 with low-rank maps beside, and read-outs."""

    model: Any
    taught: Any
    read: ReadOut
    low_rank: Mapping[str, LowRankLinear]
    tokenize: Tokenize


def make_pupil(model: Any, tokenize: Tokenize) -> Pupil:
    """Freezes the model and puts a second text model, in float32 and with low-rank maps, beside it."""
    model.requires_grad_(False)
    model.model.vision_model.config._attn_implementation = "eager"
    taught = copy.deepcopy(model.model.text_model).float()
    low_rank = add_low_rank(taught, seed=TRAIN_SEED)
    return Pupil(
        model=model, taught=taught, read=ReadOut(taught.config.hidden_size), low_rank=low_rank, tokenize=tokenize
    )


def train_language(pupil: Pupil, out: Path, recipe: LanguageRecipe) -> None:
    """Trains in place, resuming from `out/language.pt` if it is there."""
    parts = nn.ModuleDict({"read": pupil.read})
    low_rank = [p for module in pupil.low_rank.values() for n, p in module.named_parameters() if n in ("a", "b")]
    groups = [
        {"params": low_rank, "share": 1.0, "weight_decay": 0.01},
        {"params": list(parts.parameters()), "share": 2.0, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.98))
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    first = _resume(pupil, optimizer, out)
    clock, recent = time.monotonic(), []
    for step in range(first, recipe.n_steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate * group["share"] * cosine_rate(step, n_steps=recipe.n_steps, warmup=recipe.warmup)
        rows = draw_lessons(TRAIN_SEED, step, recipe)
        losses = step_losses(pupil, rows, end_weight=recipe.end_weight)
        weight = recipe.guidance * max(0.0, 1 - step / (recipe.guidance_until * recipe.n_steps))
        loss = losses["answer"] + weight * sum(value for name, value in losses.items() if name != "answer")
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        recent.append({name: float(value.detach()) for name, value in losses.items()})
        if (step + 1) % 10 == 0:
            seen = sorted({name for losses in recent for name in losses})
            means = {name: round(float(np.mean([r[name] for r in recent if name in r])), 3) for name in seen}
            print(f"language {step + 1} {means} {(time.monotonic() - clock) / len(recent):.2f} s/step", flush=True)
            clock, recent = time.monotonic(), []
        if (step + 1) % recipe.save_every == 0 or step + 1 == recipe.n_steps:
            _save(pupil, optimizer, out, step + 1)
            print(f"language {step + 1} held-out {check_language(pupil, recipe)}", flush=True)
            clock = time.monotonic()


def draw_lessons(seed: int, step: int, recipe: LanguageRecipe) -> list[tuple[Scene, list[Turn]]]:
    """Fresh scenes of one kind with their questions."""
    rng = np.random.default_rng([seed, 2, step, 77])
    late = step >= recipe.counting_from
    crowd = step % 5 in ((1, 3, 4) if late else (1, 3))
    only_counts = late and step % 5 in (3, 4)
    n = recipe.counted if only_counts else recipe.crowds if crowd else recipe.pairs
    shown = recipe.shown_first if step < recipe.shown_from * recipe.n_steps else recipe.shown_later
    return [lesson(rng, crowd=crowd, shown=shown, only_counts=only_counts) for _ in range(n)]


def embed(pupil: Pupil, rows: list[tuple[Scene, list[Turn]]]) -> tuple[Batch, torch.Tensor]:
    """The packed batch and its embeddings (b, t, d), image tokens in place."""
    model = pupil.model.model
    batch = pack(rows, pupil.tokenize, dtype=torch.float32)
    with torch.no_grad():
        pixels = to_pixels([draw_scene(scene) for scene, _ in rows]).to(model.dtype)
        embeds = pupil.taught.embed_tokens(batch.input_ids)
        tokens = model.connector(model.vision_model(pixel_values=pixels).last_hidden_state)
        embeds[:, batch.image_start : batch.image_start + N_IMAGE_TOKENS] = tokens.float()
    return batch, embeds


def step_losses(pupil: Pupil, rows: list[tuple[Scene, list[Turn]]], *, end_weight: float) -> dict[str, torch.Tensor]:
    """Every loss of one batch, unweighted."""
    batch, embeds = embed(pupil, rows)
    out = run_blocks(
        pupil.taught,
        embeds=embeds,
        mask=batch.mask,
        position_ids=batch.position_ids,
        read=(READ_LAYER, FINAL_LAYER),
        watch=(*NAME_LAYERS, *ITEM_LAYERS, *OPTION_LAYERS),
    )
    where = [(one.row, pos) for one in batch.asked for pos in one.answer_pos]
    ids = torch.tensor([token for one in batch.asked for token in one.answer_ids])
    ends = torch.tensor([pos == one.answer_pos[-1] for one in batch.asked for pos in one.answer_pos])
    each = functional.cross_entropy(_logits(pupil, out.last, where), ids, reduction="none")
    weight = torch.where(ends, end_weight, 1.0)
    losses = {"answer": (each * weight).sum() / weight.sum()}
    watched = watched_tokens(batch.asked)
    losses |= guidance_losses(out.looks, batch.asked, watched)
    return losses | read_losses(pupil.read, out.states, batch.asked, watched)


@torch.no_grad()
def check_language(pupil: Pupil, recipe: LanguageRecipe) -> dict[str, float]:
    """Held-out accuracy of the answer's first token over the whole vocabulary, by task and form."""
    right: dict[str, list[bool]] = {}
    for step in range(recipe.check_steps):
        rows = draw_lessons(CHECK_SEED, step, recipe)
        batch, embeds = embed(pupil, rows)
        out = run_blocks(pupil.taught, embeds=embeds, mask=batch.mask, position_ids=batch.position_ids)
        logits = _logits(pupil, out.last, [(one.row, one.answer_pos[0]) for one in batch.asked])
        for one, token in zip(batch.asked, logits.argmax(-1).tolist(), strict=True):
            right.setdefault(_cell(one), []).append(token == one.answer_ids[0])
    return {cell: round(float(np.mean(hits)), 3) for cell, hits in sorted(right.items())}


def _cell(one: PackedQuestion) -> str:
    return f"{one.turn.question.task}/{one.turn.form}"


def _logits(pupil: Pupil, last_btd: torch.Tensor, where: list[tuple[int, int]]) -> torch.Tensor:
    rows, positions = (torch.tensor(column) for column in zip(*where, strict=True))
    return functional.linear(last_btd[rows, positions], pupil.taught.embed_tokens.weight)


def weights_of(pupil: Pupil) -> dict[str, torch.Tensor]:
    """The trained weights: `<linear>.a` and `<linear>.b`."""
    weights = {
        f"{name}.{part}": getattr(module, part) for name, module in pupil.low_rank.items() for part in ("a", "b")
    }
    return {name: value.detach() for name, value in weights.items()}


def load_weights(pupil: Pupil, weights: Mapping[str, torch.Tensor]) -> None:
    """Puts what `weights_of` gave back in place."""
    for name, value in weights_of(pupil).items():
        value.copy_(weights[name])


def _save(pupil: Pupil, optimizer: torch.optim.Optimizer, out: Path, step: int) -> None:
    state = {"weights": weights_of(pupil), "read": pupil.read.state_dict(), "optimizer": optimizer.state_dict()}
    save_state(out / "language.pt", {**state, "step": step})


def _resume(pupil: Pupil, optimizer: torch.optim.Optimizer, out: Path) -> int:
    state = load_state(out / "language.pt")
    if state is None:
        return 0
    load_weights(pupil, state["weights"])
    pupil.read.load_state_dict(state["read"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])
