"""SAE folders as sae-lens writes them, with random weights of a tiny width."""

from pathlib import Path
from typing import Any

import numpy as np
import sae_lens
import torch

D_IN, D_SAE = 12, 40
HOOK = "blocks.1.hook_resid_post"


def metadata(**changes: Any) -> Any:
    from sae_lens.saes.sae import SAEMetadata

    said = {"model_name": "tiny", "hook_name": HOOK, "prepend_bos": False, "context_size": 64, **changes}
    return SAEMetadata(**said)


def randomised(module: torch.nn.Module, *, seed: int = 0) -> Any:
    """Every weight random, thresholds positive: nothing is left at a value that hides an error."""
    draw = torch.Generator().manual_seed(seed)
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        values = torch.randn(tensor.shape, generator=draw, dtype=torch.float32)
        tensor.data = (values.abs() * 0.5 if "threshold" in name else values * 0.4).to(tensor.dtype)
    return module


def saved(module: Any, folder: Path) -> Path:
    module.save_model(folder)
    return folder


def weights_of(module: Any) -> dict[str, np.ndarray]:
    return {name: tensor.detach().double().numpy() for name, tensor in module.state_dict().items()}


def rows(n: int = 50, *, seed: int = 1, d: int = D_IN) -> torch.Tensor:
    return torch.randn((n, d), generator=torch.Generator().manual_seed(seed))


def inference(architecture: str, **changes: Any) -> Any:
    """A random SAE of one architecture, in memory."""
    sae_class, config_class = sae_lens.registry.get_sae_class(architecture)
    said = {key: changes.pop(key) for key in ("hook_name", "model_name", "prepend_bos") if key in changes}
    config = config_class(d_in=D_IN, d_sae=D_SAE, metadata=metadata(**said), **changes)
    return randomised(sae_class(config))
