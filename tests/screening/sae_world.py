"""An SAE of tiny's width over the world's run: random decoder rows and a rule that fires on some rows, made by sae-lens."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

N_FEATURES = 60


def write_sae(
    folder: Path, d: int, *, layer: int, rows: Any = None, model: str = "tiny-backbone", seed: int = 0
) -> Path:
    """A standard SAE in sae-lens' own folder layout; `rows` replaces the first decoder rows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import sae_lens
        from sae_lens.saes.sae import SAEMetadata
    sae_class, config_class = sae_lens.registry.get_sae_class("standard")
    said = SAEMetadata(model_name=model, hook_name=f"blocks.{layer}.hook_resid_post", prepend_bos=True, context_size=64)
    module = sae_class(config_class(d_in=d, d_sae=N_FEATURES, metadata=said))
    drawn = np.random.default_rng([seed, layer]).standard_normal((N_FEATURES, d)).astype(np.float32)
    if rows is not None:
        drawn[: len(rows)] = rows
    weights = torch.from_numpy(drawn)
    module.W_dec.data = weights.clone()
    module.W_enc.data = (weights / weights.norm(dim=1, keepdim=True).clamp(min=1e-6)).T.clone().contiguous()
    module.b_enc.data, module.b_dec.data = torch.full((N_FEATURES,), -0.5), torch.zeros(d)
    module.save_model(folder)
    return folder
