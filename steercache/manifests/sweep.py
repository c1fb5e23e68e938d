"""A `sweep` manifest: which vectors are tried on which model, where, how strongly, and on which questions."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Discriminator, Field, Tag, ValidationInfo, field_validator, model_validator

from steercache.core.errors import UsageError
from steercache.core.operations import IN_UNITS, operation_text, read_operation
from steercache.core.vector_use import PlaceName
from steercache.manifests.dataset import AnswerForm
from steercache.manifests.fields import BenchmarkName, Document, FileName, Name, Positive, Text, Version, fault, unique
from steercache.manifests.model import ModelManifest
from steercache.manifests.target import SweepTarget
from steercache.manifests.trace import Layer, Layers, layers_of

FitMethod = Literal[
    "mean_shift", "linear_probe", "pca_diff", "pca_center", "lat", "lda", "mass_mean", "unit_shift", "sae"
]
FitRecipe = Literal["default", "paper"]
SaeSelection = Literal["paper", "firing_rate", "sparse_probe"]
SweepSplit = Literal["search", "test"]
StrengthUnit = Literal["raw", "resid_norm", "target_norm", "kl"]
Alpha = Annotated[float, Field(ge=-1e6, le=1e6)]
VectorName = Annotated[str, Field(min_length=1, max_length=256)]
Share = Annotated[float, Field(gt=0, lt=1)]


class ZooModel(Document):
    """A multimodal model that ships with steercache."""

    zoo: Literal["tiny", "demo"]


class FittedVectors(Document):
    """Vectors fitted from the cache, without a model: every method on every concept of every run."""

    methods: Annotated[tuple[FitMethod, ...], Field(min_length=1)] = ("mean_shift",)
    concepts: Annotated[tuple[Name, ...], Field(min_length=1, max_length=256)]
    runs: Annotated[tuple[Text, ...], Field(min_length=1, max_length=256)]
    """Runs of the cache, by name, id or prefix."""
    recipe: FitRecipe = "default"
    where: Annotated[str, Field(min_length=1, max_length=10_000)] | None = None
    """SQL that keeps the rows whose tokens it selects, as in `targets`: a vector fitted on what it is added to."""
    sae: Annotated[Text | None, Field(validate_default=True)] = None
    """For the method `sae`: an SAE manifest's name or file, one layer of it as `NAME-l12`, or a folder; files and folders are
    relative to the manifest's folder."""
    selection: SaeSelection = "paper"
    """For the method `sae`: how features are picked."""
    unverified: bool = False
    """For the method `sae`: take the picked features as they are. Otherwise the newest vector of the cache is taken whose
    features a judge or a sheet verified."""

    @field_validator("sae")
    @classmethod
    def _of_the_method(cls, value: str | None, info: ValidationInfo) -> str | None:
        methods = info.data.get("methods")
        if methods is not None and ("sae" in methods) != (value is not None):
            raise fault(
                "sae", "the method `sae` needs an `sae`" if value is None else "an `sae` is for the method `sae`"
            )
        return value

    @field_validator("methods", "concepts", "runs")
    @classmethod
    def _each_once(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        return unique(value)


class SweepTask(Document):
    """Questions: one benchmark, and which of its tasks."""

    benchmark: BenchmarkName
    """The name of a benchmark, or a file of your own questions, relative to the manifest's folder: `questions.jsonl` or
    `{path: questions.jsonl}`."""
    task: Text | None = None
    """One task of the benchmark; left out, all that it has."""
    form: AnswerForm = "letter"
    rule: Literal["grouped", "paper"] = "grouped"
    """How search and test are told apart: by picture, or as published."""
    folder: FileName | None = None
    """The benchmark's files, relative to the manifest's own folder, or absolute; without one the hub is asked. Of your own
    questions, the folder of their pictures; by default the file's."""
    concepts: Annotated[tuple[Name, ...], Field(min_length=1, max_length=256)] | None = None
    """Vectors of these concepts are tried on this task. With `vectors`, those too; with neither, all of the sweep."""
    vectors: Annotated[tuple[VectorName, ...], Field(min_length=1, max_length=4096)] | None = None
    """Of the sweep's own `vectors`, those that are tried on this task."""

    @field_validator("concepts", "vectors")
    @classmethod
    def _each_once(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if value is None else unique(value)


class Decoding(Document):
    """How answers are written: greedily, with the vector added during the prefill only."""

    max_new_tokens: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Left out, 8 for letters and counts and 20 for words."""


class Race(Document):
    """Stop cells early, over the samples in a seeded random order."""

    tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """How far below the best cell of the full search split the winner may be."""
    error: Share = 0.05
    """Probability with which that promise may be broken."""


class ScreeningRule(Document):
    """Predict every cell from gradients first, and run the best predicted ones."""

    first: Positive
    """How many cells of every vector are run."""
    pilot: Annotated[int, Field(ge=0)] | None = None
    """Questions answered exactly at one or two strengths of every layer, so that predictions bend; 0 leaves them straight. By
    default 40, at most a third of the questions."""
    by: Literal["margin", "accuracy"] | None = None
    """Best predicted at what; by default the answer margin, and right answers before a race."""


def _operation(value: str) -> str:
    try:
        return operation_text(read_operation(value))
    except UsageError as error:
        raise fault("operation", f"{error.message}; {error.hint}" if error.hint else error.message) from None


OperationText = Annotated[str, Field(max_length=128), AfterValidator(_operation)]


def _in_unit(operation: str, unit: StrengthUnit, *, place: str = "") -> str:
    """The operation, if strengths of it can count in that unit."""
    name = read_operation(operation).name
    if unit not in ("raw", "kl") and name not in IN_UNITS:
        raise fault("operation", f"{place}the strength of {name} has no unit {unit}: `alpha_unit: raw`")
    return operation


class CombinedVector(Document):
    """One vector of a combination, with its setting. For what is left out the sweep's value is taken, if it has exactly one."""

    vector: VectorName | None = None
    """A vector of the cache, by name, id or prefix; or, instead, one of the sweep's by `concept` (and `method`)."""
    method: FitMethod | None = None
    concept: Name | None = None
    layer: Layer | None = None
    alpha: Alpha | None = None
    alpha_unit: StrengthUnit | None = None
    operation: OperationText | None = None
    place: PlaceName | None = None
    """Where in the block; left out, that of the sweep, or where the vector belongs."""
    target: SweepTarget | None = None

    @field_validator("concept")
    @classmethod
    def _one_way(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("vector") is not None:
            raise fault("concept", "a part is a `vector`, or named by its `concept` and `method`, not both")
        return value

    @field_validator("alpha")
    @classmethod
    def _some(cls, value: float | None) -> float | None:
        if value == 0:
            raise fault("range", "a strength of 0 does nothing: leave the part out")
        return value

    @model_validator(mode="after")
    def _named(self) -> Self:
        if self.vector is None and self.concept is None:
            raise fault(
                "missing", "a part needs a `vector`, or the `concept` (and `method`) of one of the sweep's vectors"
            )
        if self.vector is not None and self.method is not None:
            raise fault("method", "a part is a `vector`, or named by its `concept` and `method`, not both")
        return self


class Combination(Document):
    """Several vectors at once, as one cell. Parts at a lower layer act first; at one layer they act in the order listed."""

    name: Name
    parts: Annotated[tuple[CombinedVector, ...], Field(min_length=1, max_length=16)]
    interference: bool = False
    """Run each part alone and every pair too, so that the table shows whether they interfere."""


def _shape_of_model(value: Any) -> str:
    if isinstance(value, str):
        return "name"
    return "zoo" if isinstance(value, ZooModel) or (isinstance(value, dict) and "zoo" in value) else "inline"


SweepModel = Annotated[
    Annotated[Name, Tag("name")] | Annotated[ZooModel, Tag("zoo")] | Annotated[ModelManifest, Tag("inline")],
    Discriminator(_shape_of_model),
]


class SweepManifest(Document):
    """One sweep: vectors x layers x strengths x targets, tried on the questions of some tasks."""

    kind: Literal["sweep"]
    version: Version
    name: Name
    model: SweepModel
    """A model manifest's name, a model manifest, or `{zoo: tiny}`."""
    vectors: Annotated[tuple[VectorName, ...], Field(max_length=4096)] = ()
    """Vectors of the cache, by name, id or prefix."""
    combinations: Annotated[tuple[Combination, ...], Field(max_length=1024)] = ()
    """Several vectors at once: each is one cell, and competes beside the vectors."""
    fits: Annotated[tuple[FittedVectors, ...], Field(max_length=256)] = Field(default=(), validate_default=True)
    layers: Layers = "all"
    """`all`, a list of block numbers, or a range with `stop` included."""
    alphas: Annotated[tuple[Alpha, ...], Field(min_length=1, max_length=1000)] | None = Field(
        default=None, validate_default=True
    )
    """Strengths other than 0, which is the baseline and always runs. Only beside `combinations` may they be left out: then
    those are tried and no vector alone."""
    alpha_unit: StrengthUnit = "raw"
    """`raw` multiplies the vector; `resid_norm` counts in median norms of the rows it was fitted on, `target_norm` in those of
    the rows that are steered (by layer, target and task, over the first questions of the search split). `kl`: the strength at
    which the mean KL of the next-token distribution on unrelated prompts is alpha nats."""
    operation: OperationText = "add"
    """What is done with the vector: `add`, `project_out`, `project_cap:bound=2`, `clamp:value=2`, `replace`, `rotate`,
    `rotate_in_plane:angle=90`, `rotate_in_plane_adaptive:angle=90`, `add_preserving_norm` or `affine:scale=0.5,offset=2`."""
    place: PlaceName | None = None
    """Where in a block: `resid_post`, its output; `resid_pre`, its input; `attn_out` and `mlp_out`, what attention and MLP add;
    `head_out`, the outputs of the attention heads. Left out, where the vectors belong: `head_out` for vectors of it, otherwise
    `resid_post`."""
    targets: Annotated[tuple[SweepTarget, ...], Field(min_length=1)] = ("image",)
    """Tokens that are steered: by name; SQL over the prompt's tokens, `sql: kind = 'image' and patch_row < 3`; or the same as
    `{where: ..., weight: ...}`."""
    tasks: Annotated[tuple[SweepTask, ...], Field(min_length=1, max_length=256)]
    panel: Annotated[tuple[SweepTask, ...], Field(max_length=64)] = ()
    """Unrelated tasks for the side effects of the chosen cells: some questions of each are asked. Left out, the tasks of the
    drawn scenes that the sweep does not ask."""
    splits: Annotated[tuple[SweepSplit, ...], Field(min_length=1)] = ("search", "test")
    """A cell is chosen on `search`; `test` is asked once, about the chosen cell."""
    n: Positive | None = None
    """Questions of a split; left out, all."""
    seed: Annotated[int, Field(ge=0, le=2**32)] = 0
    """Of the order of a race, of intervals and of flips."""
    decoding: Decoding = Decoding()
    allow_foreign: bool = False
    """Take vectors of other or unknown lineage; the table says so."""
    race: Race | None = None
    screen: ScreeningRule | None = None
    memory_mib: Annotated[int, Field(ge=1, le=2**24)] = 2048
    """What may be held beside the model's weights."""
    tokens_per_batch: Positive = 4096
    """Padded tokens of one unsteered forward."""

    @field_validator("vectors", "targets")
    @classmethod
    def _each_once(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        return unique(value)

    @field_validator("fits")
    @classmethod
    def _something_to_try(cls, value: tuple[FittedVectors, ...], info: ValidationInfo) -> tuple[FittedVectors, ...]:
        if not value and info.data.get("vectors") == () and info.data.get("combinations") == ():
            raise fault("vectors", "no vectors: name `vectors` of the cache, or `fits` to make from it")
        return value

    @field_validator("operation")
    @classmethod
    def _has_the_unit(cls, value: str, info: ValidationInfo) -> str:
        return _in_unit(value, info.data.get("alpha_unit", "raw"))

    @field_validator("combinations")
    @classmethod
    def _names_once(cls, value: tuple[Combination, ...]) -> tuple[Combination, ...]:
        unique(tuple(one.name for one in value))
        return value

    @field_validator("layers")
    @classmethod
    def _layers_once(cls, value: Any) -> Any:
        return unique(value) if isinstance(value, tuple) else value

    @field_validator("alphas")
    @classmethod
    def _no_baseline(cls, value: tuple[float, ...] | None, info: ValidationInfo) -> tuple[float, ...] | None:
        if value is None:
            if info.data.get("combinations") == ():
                raise fault("missing", "is required: the strengths at which every vector is tried")
            return None
        if 0 in value:
            raise fault("range", "a strength of 0 is the baseline, which always runs")
        return unique(value)

    @field_validator("tasks")
    @classmethod
    def _tasks_once(cls, value: tuple[SweepTask, ...], info: ValidationInfo) -> tuple[SweepTask, ...]:
        again = [f"{t.benchmark} {t.task or ''}".strip() for i, t in enumerate(value) if t in value[:i]]
        if again:
            raise fault("duplicate", f"listed more than once: {', '.join(sorted(set(again)))}")
        named, fits = info.data.get("vectors", ()), info.data.get("fits", ())
        parts = [part for one in info.data.get("combinations", ()) for part in one.parts if part.vector is not None]
        fitted = {concept for one in fits for concept in one.concepts}
        for task in value:
            strange = sorted(set(task.vectors or ()) - set(named))
            if not named and not parts:  # concepts of named vectors are known to the cache alone
                strange += sorted(set(task.concepts or ()) - fitted)
            if strange and "fits" in info.data:
                raise fault("tasks", f"of no vector of the sweep: {', '.join(strange)}")
        return value

    @field_validator("splits")
    @classmethod
    def _chosen_on_search(cls, value: tuple[SweepSplit, ...]) -> tuple[SweepSplit, ...]:
        if "search" not in value:
            raise fault("splits", "nothing may be chosen on the test split: `search` is needed")
        return unique(value)

    @field_validator("screen")
    @classmethod
    def _predictable(cls, value: ScreeningRule | None, info: ValidationInfo) -> ScreeningRule | None:
        operation = info.data.get("operation", "add")
        if value is not None and operation != "add":
            raise fault("operation", f"{operation} cannot be predicted from gradients: run it without `screen`")
        place = info.data.get("place")
        if value is not None and place not in (None, "resid_post"):
            raise fault(
                "place", f"{place} cannot be predicted: gradients are of the outputs of blocks; leave `screen` out"
            )
        return value

    @model_validator(mode="after")
    def _whole_parts(self) -> Self:
        fitted = {(method, concept) for one in self.fits for concept in one.concepts for method in one.methods}
        for one in self.combinations:
            for number, part in enumerate(one.parts, start=1):
                place = f"combinations: part {number} of `{one.name}`"
                lacking = [name for name in ("layer", "alpha", "target") if self._of_part(part, name) is None]
                if lacking:
                    raise fault(
                        "combinations",
                        f"{place} has no {' and no '.join(lacking)}, and the sweep does not have exactly one for all parts",
                    )
                unit, operation = part.alpha_unit or self.alpha_unit, part.operation or self.operation
                _in_unit(operation, unit, place=f"{place}: ")
                if part.concept is None or self.vectors:
                    continue  # concepts of named vectors are known to the cache alone
                if not any(c == part.concept and part.method in (None, m) for m, c in fitted):
                    by = "" if part.method is None else f" by `{part.method}`"
                    raise fault("combinations", f"{place}: no fit of the sweep is of `{part.concept}`{by}")
        return self

    def _of_part(self, part: CombinedVector, name: str) -> Any:
        own = getattr(part, name)
        if own is not None:
            return own
        every = {"layer": self.layers, "alpha": self.alphas, "target": self.targets}[name]
        return every[0] if isinstance(every, tuple) and len(every) == 1 else None

    @property
    def strengths(self) -> tuple[float, ...]:
        """At which every vector is tried; none where only combinations are."""
        return self.alphas or ()

    def whole_part(self, part: CombinedVector) -> CombinedVector:
        """A part of a combination with what it leaves to the sweep."""
        named = {name: self._of_part(part, name) for name in ("layer", "alpha", "target")}
        named["alpha_unit"] = part.alpha_unit or self.alpha_unit
        named["operation"] = part.operation or self.operation
        return part.model_copy(update=named)

    def resolve_layers(self, n_layers: int) -> tuple[int, ...]:
        """The blocks to steer at, of a model with `n_layers`, ascending.

        Raises:
            UsageError: a block that the model does not have.
        """
        return layers_of(self.layers, n_layers, place=f"sweep {self.name}: layers")

    def identity(self) -> dict[str, Any]:
        """What decides which cells are tried on what, as written; not the name, nor how much runs at a time."""
        found = self.model_dump(mode="json", exclude={"name", "memory_mib", "tokens_per_batch"})
        if not self.combinations:
            del found["combinations"]
        if self.place in (None, "resid_post"):
            del found["place"]
        for fits in found["fits"]:
            if fits["sae"] is None:  # as before there was the method: the sweep is the same
                for name in ("sae", "selection", "unverified"):
                    del fits[name]
            if fits["where"] is None:
                del fits["where"]
        for task in found["tasks"]:
            for name in ("concepts", "vectors"):
                if task[name] is None:
                    del task[name]
        return found
