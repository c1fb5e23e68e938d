"""A `recipe` manifest: how a paper makes a vector and uses it, as values that are carried out on your own runs."""

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from steercache.core.errors import UsageError
from steercache.core.operations import operation_text, read_operation
from steercache.core.trials import AlphaUnit, Target
from steercache.core.vector_use import Phase, PlaceName
from steercache.manifests.fields import Document, Name, Positive, Text, Version, fault
from steercache.manifests.trace import TraceSite

RecipeMethod = Literal[
    "mean_shift",
    "linear_probe",
    "pca_diff",
    "pca_center",
    "lat",
    "lda",
    "mass_mean",
    "head_probes",
    "unit_shift",
    "sae",
]
ArxivId = Annotated[str, Field(pattern=r"^[0-9]{4}\.[0-9]{4,5}$")]
Parameter = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]


class RecipePaper(Document):
    """Where a recipe comes from."""

    title: Text
    arxiv: ArxivId | None = None
    code: Text | None = None
    """The authors' repository or package, where there is one."""


class RecipeFit(Document):
    """How the vector is fitted."""

    method: RecipeMethod
    way: Literal["default", "paper"] = "default"
    """Of the methods that have two ways of fitting: which one."""
    query: Text | None = None
    """The selection of rows: a named query or SQL; left out, chosen by the labels of the run."""
    parameters: dict[Parameter, Text | int | float | bool] = Field(default_factory=dict)
    """Values of the query's parameters."""
    site: TraceSite = "resid_post"
    reads: Literal["text", "pictures"] = "text"
    """The kind of model whose run is taken: text or multimodal."""
    top: Positive | None = None
    """With the method `head_probes`: how many heads."""
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    layers: Literal["own", "best"] = "own"
    """`own`: every layer has its own direction. `best`: the direction of the layer with the highest held-out AUC, or of one
    that is named when the recipe is carried out, stands at every layer."""

    @field_validator("layers")
    @classmethod
    def _same_space(cls, value: str, info: ValidationInfo) -> str:
        if value == "best" and info.data.get("method") in ("linear_probe", "head_probes", "sae"):
            raise fault("layers", f"the method {info.data['method']} has a direction of its own at every layer")
        return value


class RecipeUse(Document):
    """How the vector is used; what is left out is not decided by the recipe."""

    operation: Text = "add"
    """The operation with its numbers, such as `project_out` or `clamp:value=2`."""
    place: PlaceName = "resid_post"
    target: Target = "all"
    phase: Phase = "both"
    strength: float | None = None
    strength_unit: AlphaUnit = "raw"
    skip_first: bool = False

    @field_validator("operation")
    @classmethod
    def _is_an_operation(cls, value: str) -> str:
        try:
            return operation_text(read_operation(value))
        except UsageError as error:
            raise fault("operation", error.message) from None


class RecipeCondition(Document):
    """When the vector is applied: to prompts whose last token lies along a condition vector, on one side of a threshold. Vector
    and threshold are fitted on pairs of another concept, whose positive sides are prompts that meet the condition."""

    method: Literal["mean_shift", "linear_probe", "pca_diff", "pca_center", "lat", "lda", "mass_mean", "unit_shift"] = (
        "pca_center"
    )
    query: Text = "contrast_last"
    """The selection of rows, one for each prompt: a named query or SQL."""
    parameters: dict[Parameter, Text | int | float | bool] = Field(default_factory=dict)
    """Values of the query's parameters."""


class RecipeManifest(Document):
    """A recipe of a paper: `steercache fit recipe NAME`."""

    kind: Literal["recipe"]
    version: Version
    name: Name
    summary: Text
    paper: RecipePaper
    formula: Text
    fit: RecipeFit
    use: RecipeUse = RecipeUse()
    condition: RecipeCondition | None = None
    differs: tuple[Text, ...] = ()
    """What the paper or its code does otherwise."""
    tested_by: Text | None = None
    """The test that compares it with an independent implementation."""

    @field_validator("condition")
    @classmethod
    def _of_the_prompt(cls, value: RecipeCondition | None, info: ValidationInfo) -> RecipeCondition | None:
        use = info.data.get("use")
        if value is not None and use is not None and (use.phase, use.target) != ("prompt", "all"):
            raise fault(
                "condition", "a condition is about a prompt, and steers all of it: `phase: prompt`, `target: all`"
            )
        return value
