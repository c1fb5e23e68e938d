"""How long a first build may take, before this model was ever timed here: its arithmetic, at the speed of matrix products."""

import time
from collections.abc import Mapping
from typing import Any, Final

import torch

from steercache.cache.documents import RunModel

_ROWS: Final = 256
_REPEATS: Final = 8  # the quickest counts
_PER_HIDDEN_SQUARED: Final = 12  # weights of a decoder block, in squares of its width
OVERHEAD: Final = 3.0  # a build beside its matrix products: attention, norms, capture, writing


def guess_key(model: RunModel) -> str:
    """Under which name finished builds correct the guess for models of this dtype."""
    return f"guess/{model.dtype}"


def guessed_s(model: RunModel, numerics: Mapping[str, Any], *, n_tokens: int) -> float | None:
    """Seconds of tracing so many tokens, uncorrected; None for a device other than the CPU, which is not started for a plan."""
    if numerics.get("device") != "cpu" or n_tokens == 0:
        return None if n_tokens else 0.0
    n_products = n_tokens * model.n_layers * _PER_HIDDEN_SQUARED * model.hidden_size**2
    return OVERHEAD * n_products * product_s(model.hidden_size, model.dtype)


def product_s(width: int, dtype: str) -> float:
    """Seconds of one multiplication and addition within a matrix product of this width and dtype, on this CPU now."""
    a = torch.ones(_ROWS, width, dtype=getattr(torch, dtype), device="cpu")
    b = torch.ones(width, 4 * width, dtype=a.dtype, device="cpu")
    taken = []
    for _ in range(1 + _REPEATS):  # the first is slower, and not the quickest
        started = time.perf_counter()
        a @ b
        taken.append(time.perf_counter() - started)
    return min(taken) / (_ROWS * width * 4 * width)
