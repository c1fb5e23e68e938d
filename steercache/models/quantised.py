"""How a model's weights are quantised, by its checkpoint or when it is loaded: what of it is identity, what it rules out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from steercache.core.errors import ManifestError
from steercache.core.ids import digest
from steercache.manifests.model import ModelManifest
from steercache.manifests.quantization import Quantization
from steercache.models.checkpoint_folder import Checkpoint

# Packages of a method whose release can move values. A method that is not here is transformers' own.
PACKAGES: Final[Mapping[str, tuple[str, ...]]] = {
    "aqlm": ("aqlm",),
    "awq": ("gptqmodel",),
    "bitsandbytes": ("bitsandbytes",),
    "compressed-tensors": ("compressed-tensors",),
    "eetq": ("eetq",),
    "gptq": ("gptqmodel", "optimum"),
    "hqq": ("hqq",),
    "quanto": ("optimum-quanto",),
    "torchao": ("torchao",),
}
EXTRAS: Final[Mapping[str, str]] = {  # of ours, by method
    "bitsandbytes": "quantised",
    "compressed-tensors": "quantised",
    "torchao": "quantised",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantised:
    """A method and its settings. `at_load`: the checkpoint's weights are dense, and are quantised while they are loaded."""

    method: str
    settings: Mapping[str, Any] = field(repr=False)
    at_load: bool

    @property
    def packages(self) -> dict[str, str | None]:
        """The libraries that compute with such weights, with the releases installed; None: not installed."""
        return {name: _installed(name) for name in PACKAGES.get(self.method, ())}

    @property
    def mixes_rows(self) -> str | None:
        """Why a row's values depend on the other rows of its batch by more than rounding; None where they do not."""
        if self.method == "bitsandbytes":
            keeps = self.settings.get("llm_int8_threshold", self.settings.get("outliers", 6.0))
            if (self.settings.get("load_in_8bit") or self.settings.get("bits") == 8) and keeps:
                return "LLM.int8 picks outlier columns over the whole batch (`outliers: 0` in the model manifest picks none)"
        if self.method == "compressed-tensors":
            groups = self.settings.get("config_groups") or {}
            given = [g.get("input_activations") or {} for g in groups.values() if isinstance(g, Mapping)]
            if any(g.get("dynamic") is True and g.get("strategy") == "tensor" for g in given):
                return "its activations are rounded with one scale for the whole batch"
        return None


def quantised_of(manifest: ModelManifest, checkpoint: Checkpoint) -> Quantised | None:
    """How the weights of a manifest are quantised once they are in memory; None: they are not.

    Raises:
        ManifestError: the manifest asks for it and the checkpoint's weights are quantised already.
    """
    stored = stored_settings(checkpoint.config)
    asked = manifest.quantization
    if stored is None:
        if asked is None:
            return None
        return Quantised(method=asked.method, settings=asked.scheme(), at_load=True)
    method = str(stored.get("quant_method", "method not named"))
    if asked is not None:
        raise ManifestError(
            f"`quantization` asks for {asked.method} and the checkpoint's weights are quantised already ({method})",
            place=manifest.name,
            hint="leave `quantization` out, or name the unquantised checkpoint",
        )
    return Quantised(method=method, settings=stored, at_load=False)


def stored_settings(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The `quantization_config` of a checkpoint's configuration, or of its text model; None: its weights are not quantised."""
    text = config.get("text_config")
    holders = (config, text if isinstance(text, Mapping) else {})
    said = next((c["quantization_config"] for c in holders if c.get("quantization_config") is not None), None)
    if said is None:
        return None
    return said if isinstance(said, Mapping) else {}


def fingerprint_at_load(fingerprint: str, quantization: Quantization | None) -> str:
    """The fingerprint of weights as they are in memory: of a checkpoint's, quantised while they are loaded."""
    return fingerprint if quantization is None else digest({"weights": fingerprint, "quantised": quantization.scheme()})


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
