"""A `sae` manifest: where a sparse autoencoder's weights are, for one layer or for several."""

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from steercache.manifests.fields import Document, FileName, Name, Revision, Version, fault, refuse_outside

ReleaseName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?$")]
SaeId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._/+=-]{0,255}$")]


RepositoryFormat = Literal[
    "sae_lens",
    "gemma_2",
    "gemma_3",
    "llama_scope",
    "llama_scope_r1_distill",
    "sparsify",
    "dictionary_learning_1",
    "deepseek_r1",
    "qwen_scope",
    "goodfire",
]


class ReleaseSae(Document):
    """A release that sae-lens lists, or another repository, read from the Hugging Face hub's cache on this machine."""

    type: Literal["release"]
    release: ReleaseName
    """sae-lens' name of the release, or a repository `owner/name` that it does not list."""
    sae: SaeId | None = None
    """The id of the one SAE as sae-lens lists it, or its folder in a repository that is not listed; left out where `saes` lists
    several."""
    revision: Revision = "main"
    format: RepositoryFormat | None = None
    """sae-lens' name of the layout of a repository that it does not list; left out, sae-lens' own. Of a release it is known."""


class FolderSae(Document):
    """A local folder as sae-lens writes it (`cfg.json`, `sae_weights.safetensors`), or as sparsify does."""

    type: Literal["folder"]
    folder: FileName
    """Relative to the manifest's own folder, or absolute. Where `saes` lists several, the folder that theirs lie in."""
    format: Literal["sae_lens", "sparsify"] = "sae_lens"


class ShippedSae(Document):
    """An SAE that ships with steercache (`steercache zoo list`)."""

    type: Literal["zoo"]
    name: Name


SaeSource = Annotated[ReleaseSae | FolderSae | ShippedSae, Field(discriminator="type")]


class LayerSae(Document):
    """One SAE of several."""

    layer: Annotated[int, Field(ge=0, le=100_000)]
    """The zero-based block whose output the SAE was trained on; checked when it is loaded."""
    sae: SaeId
    """Its id in the release, or its folder inside `folder`."""


class SaeManifest(Document):
    """One SAE, or the SAEs of several layers of one model: that of layer 12 is called NAME-l12."""

    kind: Literal["sae"]
    version: Version
    name: Name
    source: SaeSource
    model: Name | None = None
    """Name of the manifest of the model whose activations the SAE was trained on; left out, the SAE's own configuration names
    it."""
    saes: Annotated[tuple[LayerSae, ...], Field(max_length=4096)] = Field(default=(), validate_default=True)
    """One SAE per layer."""

    @field_validator("saes")
    @classmethod
    def _one_or_several(cls, value: tuple[LayerSae, ...], info: ValidationInfo) -> tuple[LayerSae, ...]:
        source = info.data.get("source")
        if isinstance(source, ReleaseSae) and (source.sae is None) == (not value):
            raise fault("conflict", "name one SAE in `source.sae`, or one per layer in `saes`")
        if isinstance(source, ShippedSae) and value:
            raise fault("conflict", "an SAE that ships is one SAE: leave `saes` out")
        if isinstance(source, FolderSae):
            for one in value:
                refuse_outside(one.sae, "the folder of `source`")
        layers = [one.layer for one in value]
        again = sorted({layer for layer in layers if layers.count(layer) > 1})
        if again:
            raise fault("duplicate", f"listed more than once: layer {', '.join(map(str, again))}")
        return value

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that are listed, ascending; () for a manifest of one SAE."""
        return tuple(sorted(one.layer for one in self.saes))
