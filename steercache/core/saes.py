"""What is known of a sparse autoencoder (SAE) without its weights: identity, width, and the activations it was trained on."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class SaeSpec:
    """One loaded SAE: `d_sae` features over activations of width `d_in`.

    `sae_id` is the SHA-256 over the weights as loaded (names, dtypes, shapes, bytes) and over what else decides encode and
    decode. `site` and `layer` are ours: `layer` is the zero-based block, and the input of block l + 1 is `resid_post` of
    block l. A hook that no run keeps stands in `site` as the SAE names it, with `layer` None. `model_name`, `prepend_bos`,
    `context_size` and `neuronpedia_id` are what the SAE's own configuration says, None where it does not.
    """

    sae_id: str
    name: str
    source: Mapping[str, Any]
    architecture: str
    d_in: int
    d_sae: int
    model_name: str | None
    site: str
    layer: int | None
    prepend_bos: bool | None
    context_size: int | None = None
    neuronpedia_id: str | None = None

    def record(self) -> dict[str, Any]:
        """The fields as plain values, for JSON; `SaeSpec(**record)` is the same spec."""
        return {**asdict(self), "source": dict(self.source)}
