"""An SAE of any run in a folder: its features are the coordinates of a row."""

from pathlib import Path

from tests.sae.conftest import sae_lens

LAYER = 2


def coordinates_sae(
    folder: Path, d: int, *, layer: int = LAYER, bias: float = 0.0, model: str = "tiny-backbone"
) -> Path:
    """An SAE whose features are the coordinates and their negatives: x = relu(x) - relu(-x), so it rebuilds every row."""
    import torch
    from sae_lens.saes.sae import SAEMetadata

    sae_class, config_class = sae_lens.registry.get_sae_class("standard")
    said = SAEMetadata(model_name=model, hook_name=f"blocks.{layer}.hook_resid_post", prepend_bos=True, context_size=64)
    module = sae_class(config_class(d_in=d, d_sae=2 * d, metadata=said))
    rows = torch.cat([torch.eye(d), -torch.eye(d)])
    module.W_dec.data, module.W_enc.data = rows.clone(), rows.T.clone().contiguous()
    module.b_enc.data, module.b_dec.data = torch.full((2 * d,), bias), torch.zeros(d)
    module.save_model(folder)
    return folder
