"""A `model` manifest: where the weights are and how they are loaded."""

import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from steercache.manifests.fields import Document, FileName, HubId, Name, Revision, Version, refuse_outside
from steercache.manifests.quantization import Quantization

ComputeDType = Literal["auto", "float32", "bfloat16", "float16"]


class HubModel(Document):
    """A repository of the Hugging Face hub."""

    type: Literal["hub"]
    id: HubId
    revision: Revision = "main"


class PathModel(Document):
    """A local folder as `save_pretrained` writes it."""

    type: Literal["path"]
    folder: FileName
    """Relative to the manifest's own folder, or absolute."""


class GgufModel(Document):
    """One GGUF file, on disk or inside an installed package; converted once, into the cache."""

    type: Literal["gguf"]
    package: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$")] | None = None
    """The importable name of the installed package that holds the file; without one the file is on disk."""
    file: FileName
    """Relative to the package's folder, or without a package to the manifest's own."""

    @field_validator("file")
    @classmethod
    def _inside_the_package(cls, value: str, info: Any) -> str:
        return refuse_outside(value, "the package") if info.data.get("package") else value


class ShippedModel(Document):
    """A model that ships with steercache; its checkpoint folder is put together once, in the cache."""

    type: Literal["zoo"]
    name: Literal["tiny", "tiny-backbone", "demo", "demo-backbone"]


ModelSource = Annotated[HubModel | PathModel | GgufModel | ShippedModel, Field(discriminator="type")]


class ModelManifest(Document):
    """One model: where its weights are, how to load them, and which text model it grew from."""

    kind: Literal["model"]
    version: Version
    name: Name
    source: ModelSource
    family: Name | None = None
    """A row of the table of families; left out, the checkpoint's own `model_type` decides."""
    backbone: Name | None = None
    """Name of the manifest of the text model that this one was grown from."""
    dtype: ComputeDType = "auto"
    """Dtype to compute in; `auto` is the checkpoint's own."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    """Attention implementation: numerics, not identity."""
    quantization: Quantization | None = None
    """Quantise the weights when they are loaded; left out, they are loaded as they are stored. Part of the fingerprint."""
    chat_template: FileName | None = None
    """A Jinja file that replaces the tokenizer's own chat template; relative to the manifest's folder."""
    template_date: datetime.date | None = None
    """The date (YYYY-MM-DD) that a chat template sees when it asks for the time (at midnight); left out, the day of the plan.
    Part of a run's identity where the template does ask."""

    def identity(self) -> dict[str, Any]:
        """What of this document decides the values: not where the weights lie (their fingerprint says what they are)."""
        quantised = {} if self.quantization is None else {"quantization": self.quantization.scheme()}
        return {"dtype": self.dtype, **quantised}

    def numerics(self) -> dict[str, Any]:
        """What may move the last bits of the values."""
        return {"attention": self.attention}
