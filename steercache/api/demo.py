"""What the demo asks of this machine and of a cache, and the page that it ends with."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import torch

from steercache.cache.calibration import record_costs, recorded_costs
from steercache.cache.paths import RootPaths
from steercache.models.slow_dtype import SLOW, times_float32
from steercache.report.demo_page import PageStep as PageStep
from steercache.report.demo_page import save_demo_page as save_demo_page
from steercache.runs.first_guess import product_s

REFERENCE_PRODUCT_S: Final = 3.0e-11  # one multiplication and addition on one core of the reference machine


def finished_steps(root: Path, keys: Sequence[str]) -> set[str]:
    """The steps that ran in this cache before, on this machine."""
    paths = RootPaths(root)
    return {key for key in keys if recorded_costs(paths, _name(key), frozenset({"seconds"})) is not None}


def record_step(root: Path, key: str, seconds: float) -> None:
    """Remember that a step ran, and how long it took."""
    record_costs(RootPaths(root), _name(key), {"seconds": seconds})


def machine_scale() -> float:
    """Seconds here for a second of one core of the reference machine."""
    return min(max(product_s(576, "float32") / REFERENCE_PRODUCT_S, 0.1), 20.0)


def on_gpu() -> bool:
    """Whether models run on an accelerator here."""
    return torch.cuda.is_available() or torch.backends.mps.is_available()


def has_sae_lens() -> bool:
    """Whether SAEs can be loaded here."""
    return find_spec("sae_lens") is not None


def bfloat16_is_slow() -> bool:
    """Whether models run on a CPU that emulates bfloat16."""
    return not on_gpu() and times_float32(torch.bfloat16) >= SLOW


def _name(key: str) -> str:
    return f"demo/{key}"
