"""What is known of a sparse autoencoder (SAE) without its weights: identity, width, and the activations it was trained on."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class SaeSpec:
    """One loaded SAE: `d_sae` features over activations of width `d_in`.

    `sae_id` is the SHA-256 over the weights as loaded (names, dtypes, shapes, bytes) and over what else decides encode and
    decode. `site` and `layer` are ours: `layer` is the zero-based block, and the input of block l + 1 is `resid_post` of
    block l. For a hook that no run keeps, `site` is the SAE's own name of it and `layer` is None. `model_name`, `prepend_bos`,
    `context_size` and `neuronpedia_id` are what the SAE's own configuration says, None where it does not; `source["model"]` is
    the model manifest that the SAE's manifest names. `trained_as` is the architecture that it was trained as, where
    `architecture`, which is what encodes, is another (BatchTopK SAEs encode with a threshold, as JumpReLU). `weight_processing`
    names changes to the model's weights (TransformerLens' `center_writing_weights`, ...) under which it was trained.
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
    trained_as: str | None = None
    weight_processing: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """The fields as plain values, for JSON."""
        return {**asdict(self), "source": dict(self.source), "weight_processing": list(self.weight_processing)}

    def identity(self) -> dict[str, Any]:
        """What the SAE is whatever it is called and wherever it lies, for JSON."""
        names = ("sae_id", "architecture", "d_in", "d_sae", "site", "layer")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> "SaeSpec":
        """The spec that `record` was made of."""
        return cls(**{**record, "weight_processing": tuple(record.get("weight_processing", ()))})
