"""`LoadedSae`: an SAE in memory, encoding and decoding through sae-lens' own module."""

import hashlib
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from steercache.core.errors import UsageError
from steercache.core.saes import SaeSpec

if TYPE_CHECKING:
    import torch

PER_ROW = frozenset({"layer_norm", "constant_norm_rescale"})  # sae-lens normalises each row by its own statistics


class LoadedSae:
    """An SAE in memory. `module` is sae-lens' own object; `spec` says what it is."""

    def __init__(self, module: Any, spec: SaeSpec) -> None:
        self.module = module
        self.spec = spec

    def __repr__(self) -> str:
        spec = self.spec
        return (
            f"<LoadedSae {spec.name!r}: {spec.architecture}, {spec.d_in} -> {spec.d_sae:,}, {spec.site} {spec.layer}>"
        )

    def encode(self, x: "torch.Tensor") -> "torch.Tensor":
        """Feature activations, float32 (n, d_sae), of activations (n, d_in), through sae-lens' own `encode`."""
        import torch

        with torch.no_grad():
            features: torch.Tensor = self.module.encode(x.to(self.module.device))
        return features.to(torch.float32)

    def decode(self, features: "torch.Tensor") -> "torch.Tensor":
        """Activations, float32 (n, d_in), rebuilt from feature activations (n, d_sae).

        Raises:
            UsageError: the SAE normalises each row by itself, so that features alone do not say the row; use `reconstruct`.
        """
        import torch

        if self.module.cfg.normalize_activations in PER_ROW:
            raise UsageError(
                "this SAE normalises every row by its own statistics, which its features do not hold",
                place=self.spec.name,
                hint="reconstruct(x) encodes and decodes the rows",
            )
        with torch.no_grad():
            rows: torch.Tensor = self.module.decode(features.to(self.module.device, self.module.dtype))
        return rows.to(torch.float32)

    def reconstruct(self, x: "torch.Tensor") -> "torch.Tensor":
        """Activations, float32 (n, d_in), encoded and decoded again."""
        import torch

        with torch.no_grad():
            rows: torch.Tensor = self.module.decode(self.module.encode(x.to(self.module.device)))
        return rows.to(torch.float32)

    @cached_property
    def decoder(self) -> npt.NDArray[np.float32]:
        """What one unit of each feature adds to an activation, (d_sae, d_in): in the space of raw activations.

        A scaling of activations that was folded into the weights is in it. For an SAE that normalises each row by itself,
        the rows are in units of the normalised activations: their directions hold, their lengths do not.
        """
        import torch

        with torch.no_grad():
            rows = self.module.W_dec.detach().to(torch.float32)
            if getattr(self.module.cfg, "rescale_acts_by_decoder_norm", False):
                rows = rows / rows.norm(dim=-1, keepdim=True)
        values: npt.NDArray[np.float32] = rows.cpu().contiguous().numpy()
        return values


def weights_id(module: Any) -> str:
    """SHA-256 over the weights as they are in memory (on the CPU) and the settings that decide encode and decode."""
    import torch

    cfg = module.cfg
    hashed = hashlib.sha256()
    settings = {
        name: value
        for name, value in sorted(cfg.to_dict().items())
        if name not in ("metadata", "device", "dtype") and isinstance(value, str | int | float | bool | None)
    }
    hashed.update(repr(settings).encode())
    for name, tensor in sorted(module.state_dict().items()):
        hashed.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        hashed.update(memoryview(flat.view(torch.uint8).numpy()))
    return hashed.hexdigest()
