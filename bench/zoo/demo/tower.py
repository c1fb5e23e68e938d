"""First stage of *demo*: the vision tower and the connector, taught densely on scenes, without the language model.

Losses: per patch which shape, which colour (foreground only, plus ground or not) and where its item's centre is; per image
token the distance to its target vector and, where an item is centred, which colour and shape word it is nearest to.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from bench.zoo.checkpoints import cosine_rate, load_state, save_state
from bench.zoo.demo.targets import Dictionary, Targets, make_targets, token_targets
from steercache.data.scenes import COLOURS, SHAPES, Scene, draw_scene, make_crowd, make_pairs
from steercache.zoo.demo.shape import to_pixels

TRAIN_SEED = 20_261_123
CHECK_SEED = 20_261_124


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerRecipe:
    """Numbers of the first stage."""

    n_steps: int = 800
    batch: int = 64
    rate: float = 1e-3
    warmup: int = 100
    save_every: int = 100
    crowd_share: float = 0.5


class DenseHeads(nn.Module):
    """Linear read-outs of the patches, used in training only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.shape = nn.Linear(width, len(SHAPES))
        self.colour = nn.Linear(width, len(COLOURS))
        self.filled = nn.Linear(width, 1)
        self.offset = nn.Linear(width, 2)


def draw_batch(seed: int, step: int, recipe: TowerRecipe) -> tuple[list[Scene], torch.Tensor]:
    """Fresh scenes and their pixels (b, 3, h, w)."""
    rng = np.random.default_rng([seed, 1, step, 77])
    scenes = [make_crowd(rng) if rng.random() < recipe.crowd_share else make_pairs(rng) for _ in range(recipe.batch)]
    return scenes, to_pixels([draw_scene(scene) for scene in scenes])


def train_tower(vision: Any, connector: Any, words: Dictionary, out: Path, recipe: TowerRecipe) -> None:
    """Trains both in place (float32 weights, bfloat16 arithmetic), resuming from `out/tower.pt` if it is there."""
    torch.manual_seed(TRAIN_SEED)
    heads = DenseHeads(vision.config.hidden_size)
    parts = nn.ModuleDict({"vision": vision, "connector": connector, "heads": heads})
    optimizer = torch.optim.AdamW(parts.parameters(), lr=recipe.rate, betas=(0.9, 0.98), weight_decay=0.02)
    done = load_state(out / "tower.pt")
    first = 0
    if done is not None:
        parts.load_state_dict(done["parts"])
        optimizer.load_state_dict(done["optimizer"])
        first = int(done["step"])
    parts.train()
    clock = time.monotonic()
    for step in range(first, recipe.n_steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate * cosine_rate(step, n_steps=recipe.n_steps, warmup=recipe.warmup)
        scenes, pixels = draw_batch(TRAIN_SEED, step, recipe)
        loss = tower_loss(parts, words, make_targets(scenes), pixels)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % recipe.save_every == 0 or step + 1 == recipe.n_steps:
            numbers = check_tower(parts, words, recipe)
            pace = (time.monotonic() - clock) / recipe.save_every
            clock = time.monotonic()
            print(f"tower {step + 1} loss {float(loss):.3f} {numbers} {pace:.2f} s/step", flush=True)
            state = {"parts": parts.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            save_state(out / "tower.pt", state)


def look(parts: nn.ModuleDict, words: Dictionary, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches (b, p, width) and image tokens (b, c, d) in units of the dictionary."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        patches = parts["vision"](pixel_values=pixels).last_hidden_state
        tokens = parts["connector"](patches)
    return patches.float(), tokens.float() / words.scale


def tower_loss(parts: nn.ModuleDict, words: Dictionary, targets: Targets, pixels: torch.Tensor) -> torch.Tensor:
    """The sum of the dense losses."""
    patches, tokens = look(parts, words, pixels)
    heads: Any = parts["heads"]
    filled = targets.patch_shape >= 0
    on = patches[filled]
    loss = functional.cross_entropy(heads.shape(on), targets.patch_shape[filled])
    loss = loss + 0.5 * functional.cross_entropy(heads.colour(on), targets.patch_colour[filled])
    loss = loss + functional.binary_cross_entropy_with_logits(heads.filled(patches)[..., 0], filled.float())
    loss = loss + 0.5 * functional.smooth_l1_loss(heads.offset(on), targets.patch_offset[filled])
    centred = targets.cell_shape >= 0
    error = (tokens - token_targets(targets, words)).square().sum(-1)
    loss = loss + error[centred].mean() + 0.5 * error[~centred].mean()
    at = tokens[centred]
    loss = loss + 0.5 * functional.cross_entropy(8 * at @ words.shape_kd.T, targets.cell_shape[centred])
    return loss + 0.5 * functional.cross_entropy(8 * at @ words.colour_kd.T, targets.cell_colour[centred])


@torch.no_grad()
def check_tower(parts: nn.ModuleDict, words: Dictionary, recipe: TowerRecipe) -> dict[str, float]:
    """Held-out: shape and colour of centred cells, centred or not, and R2 of the place, all read from the image tokens."""
    parts.eval()
    scenes, pixels = draw_batch(CHECK_SEED, 0, TowerRecipe(batch=256, crowd_share=recipe.crowd_share))
    targets = make_targets(scenes)
    _, tokens = look(parts, words, pixels)
    parts.train()
    centred = targets.cell_shape >= 0
    at = tokens[centred]
    ground = tokens @ words.ground_d > 0.5
    place = at @ torch.stack([words.x_d, words.y_d]).T
    truth = targets.cell_xy[centred]
    slope = (place * truth).sum(0) / place.square().sum(0)
    r2 = 1 - (truth - slope * place).square().sum() / (truth - truth.mean(0)).square().sum()
    numbers = {
        "shape": (at @ words.shape_kd.T).argmax(-1).eq(targets.cell_shape[centred]).float().mean(),
        "colour": (at @ words.colour_kd.T).argmax(-1).eq(targets.cell_colour[centred]).float().mean(),
        "centred": ground.ne(centred).float().mean(),
        "place_r2": r2,
    }
    return {name: round(float(value), 3) for name, value in numbers.items()}
