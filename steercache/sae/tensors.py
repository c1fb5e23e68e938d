"""Stored rows as tensors."""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch


def as_float32(rows_nd: npt.NDArray[Any]) -> "torch.Tensor":
    """Stored rows (n, d) of any dtype as a float32 tensor with its own memory; every stored value is exact in float32."""
    import torch

    part = np.array(rows_nd)
    if part.dtype.name == "bfloat16":  # numpy has no such type: torch reads the same bits
        return torch.from_numpy(part.view(np.int16)).view(torch.bfloat16).to(torch.float32)
    return torch.from_numpy(part).to(torch.float32)
