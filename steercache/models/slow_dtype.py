"""Dtypes for which a CPU has no units: the same forward pass takes several times as long, without a warning."""

import time
import warnings
from functools import cache
from typing import Any

import torch

from steercache.core.errors import SteercacheWarning

SMALL = 50_000_000  # parameters; of a smaller model nobody waits for a forward pass
SLOW = 2.0  # times float32's


class SlowDtypeWarning(SteercacheWarning):
    """A model computes in a dtype that this machine emulates."""


def warn_if_slow(model: Any) -> None:
    """Warn of a large model on a CPU that multiplies matrices of its dtype far more slowly than those of float32."""
    if model.device.type != "cpu" or sum(p.numel() for p in model.parameters()) < SMALL:
        return
    name = str(model.dtype).removeprefix("torch.")
    if (times := times_float32(model.dtype)) >= SLOW:
        warnings.warn(
            f"this CPU multiplies {name} matrices {times:.0f} x more slowly than float32: dtype float32 "
            f'(dtype="float32") is quicker; what it computes differs from {name} by rounding, and is cached apart',
            SlowDtypeWarning,
            stacklevel=3,
        )


@cache
def times_float32(dtype: torch.dtype) -> float:
    """How many times as long a product takes as in float32: the best of three, some milliseconds."""

    def seconds(of: torch.dtype) -> float:
        x, w = (torch.ones(n, 512, dtype=of, device="cpu") for n in (256, 512))
        best = float("inf")
        for _ in range(4):  # the first one warms up
            started = time.perf_counter()
            torch.nn.functional.linear(x, w)
            best = min(best, time.perf_counter() - started)
        return best

    return 1.0 if dtype == torch.float32 else seconds(dtype) / seconds(torch.float32)
