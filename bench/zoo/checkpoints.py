"""Long trainings that survive being killed: state written beside and renamed into place, and the learning rate by step."""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Writes tensors and plain numbers; a reader sees the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save(dict(state), part)
    os.replace(part, path)


def load_state(path: Path) -> dict[str, Any] | None:
    """What `save_state` wrote (tensors and plain containers only, no code), or None if nothing was."""
    if not path.is_file():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def cosine_rate(step: int, *, n_steps: int, warmup: int, floor: float = 0.02) -> float:
    """The learning rate as a fraction of its peak: linear warm-up, then half a cosine down to `floor`."""
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, n_steps - warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
