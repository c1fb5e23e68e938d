"""A `trace` manifest: which model reads which data, and what of it is kept."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator

from steercache.core.errors import UsageError
from steercache.manifests.dataset import DatasetManifest
from steercache.manifests.fields import Document, Name, Positive, Version, fault, unique
from steercache.manifests.model import ModelManifest

TraceSite = Literal["resid_post", "resid_pre", "head_out", "attn_out", "mlp_out", "connector_out", "vision_out"]
Role = Literal["anchor", "control", "text", "image", "special", "template", "last", "video", "audio"]
StoreDType = Literal["auto", "float32", "bfloat16", "float16"]
Layer = Annotated[int, Field(ge=0, le=9999)]

PATCH_POLICIES = ("all", "image", "every", "pooled")  # what can be said of rows that are patches of the vision tower


class LayerRange(Document):
    """Every `step`-th block from `start` to `stop`, both included."""

    start: Layer = 0
    stop: Layer
    step: Annotated[int, Field(ge=1, le=9999)] = 1

    @field_validator("stop")
    @classmethod
    def _not_before_start(cls, value: int, info: ValidationInfo) -> int:
        if value < info.data.get("start", 0):
            raise fault("range", f"stop ({value}) lies before start ({info.data['start']})")
        return value


class RowPolicy(Document):
    """Which tokens' rows are kept; `pooled` keeps their means instead, one row per sample and kind of token."""

    policy: Literal["all", "roles", "last", "every", "image", "text", "pooled"] = "all"
    """`text`: the example's own text, without what a chat template writes around it. `pooled`: the mean of a sample's text,
    special, image, template, video and audio tokens each, position 0 (the attention sink) left out."""
    roles: Annotated[tuple[Role, ...], Field(min_length=1)] | None = Field(default=None, validate_default=True)
    """With `roles`: which ones."""
    every: Positive | None = Field(default=None, validate_default=True)
    """With `every`: keep positions 0, n, 2n, ..."""

    @field_validator("roles", "every")
    @classmethod
    def _belongs_to_policy(cls, value: Any, info: ValidationInfo) -> Any:
        name, policy = info.field_name, info.data.get("policy")
        if policy is not None and (policy == name) != (value is not None):
            raise fault("policy", f"goes with `policy: {name}`" if value is not None else f"`policy: {name}` needs it")
        if isinstance(value, tuple):
            unique(value)
        return value


class Numerics(Document):
    """What moves no meaning but may move the last bits: frozen when a run begins, not part of its identity."""

    tokens_per_batch: Positive = 2048
    """Padded tokens of one forward."""
    padding_side: Literal["left", "right"] = "right"
    threads: Annotated[int, Field(ge=1, le=4096)] | None = None
    """CPU threads; left out, what torch chooses."""
    batch_invariant: bool = False
    """Run every sample alone, without padding, so that its rows do not depend on which samples share its batch: slower, and
    bit for bit what a forward pass over this sample gives. `tokens_per_batch` and `padding_side` then have no effect."""

    @property
    def padded_tokens(self) -> int:
        """Padded tokens of one forward at most; a sample that has more runs alone, so 1 has every sample run alone."""
        return 1 if self.batch_invariant else self.tokens_per_batch


def _shape(value: Any) -> str:
    """Which form of a field that has several was written: its name, a list, or the thing itself."""
    if isinstance(value, str):
        return "name"
    return "list" if isinstance(value, list | tuple) else "inline"


Layers = Annotated[
    Annotated[Literal["all"], Tag("name")]
    | Annotated[tuple[Layer, ...], Field(min_length=1), Tag("list")]
    | Annotated[LayerRange, Tag("inline")],
    Discriminator(_shape, custom_error_type="type", custom_error_message="must be `all`, a list of blocks or a range"),
]


def layers_of(layers: Any, n_layers: int, *, place: str) -> tuple[int, ...]:
    """The blocks that a `layers` field means for a model with `n_layers`, ascending.

    Raises:
        UsageError: a block that the model does not have.
    """
    if isinstance(layers, LayerRange):
        wanted = tuple(range(layers.start, layers.stop + 1, layers.step))
    else:
        wanted = tuple(range(n_layers)) if layers == "all" else tuple(sorted(layers))
    beyond = [layer for layer in wanted if layer >= n_layers]
    if beyond:
        raise UsageError(f"layers {beyond[:8]} are not in the model, which has blocks 0 to {n_layers - 1}", place=place)
    return wanted


ModelRef = Annotated[
    Annotated[Name, Tag("name")] | Annotated[ModelManifest, Tag("inline")],
    Discriminator(
        _shape, custom_error_type="type", custom_error_message="must be a manifest's name or a model manifest"
    ),
]
DatasetRef = Annotated[
    Annotated[Name, Tag("name")] | Annotated[DatasetManifest, Tag("inline")],
    Discriminator(
        _shape, custom_error_type="type", custom_error_message="must be a manifest's name or a dataset manifest"
    ),
]


class TraceManifest(Document):
    """One trace: a model, its inputs, and the rows, layers and sites that are kept."""

    kind: Literal["trace"]
    version: Version
    name: Name
    model: ModelRef
    datasets: Annotated[tuple[DatasetRef, ...], Field(min_length=1, max_length=256)]
    sites: Annotated[tuple[TraceSite, ...], Field(min_length=1)] = ("resid_post",)
    layers: Layers = "all"
    """`all`, a list of block numbers, or a range with `stop` included."""
    rows: RowPolicy = RowPolicy()
    share_prefix: bool = False
    """Keep the rows before the first token that differs once per picture and shard: for questions about one picture. Such a
    run cannot be replayed, and a model that reads its prompt in both directions (PaliGemma) is refused."""
    dtype: StoreDType = "auto"
    """Dtype on disk; `auto` is the one the model computes in, so that values come back bit for bit (float32 for means)."""
    max_tokens: Positive | None = None
    """A sample of more tokens is an error that names it; left out, the model's own limit."""
    chunk_rows: Annotated[int, Field(ge=1, le=65_536)] = 256
    """Rows of one layer in one chunk: the unit of a checksum and of decoding."""
    rows_per_shard: Positive | None = None
    """Row slots of one shard; left out, chosen so that a shard has about `shard_mib`."""
    shard_mib: Annotated[int, Field(ge=1, le=16_384)] = 256
    """Size of a shard, which is what a kill can lose; a build puts one together in memory."""
    codec: Literal["raw"] = "raw"
    """A build writes raw rows; `steercache cache compact` writes other codecs."""
    replayable: bool = True
    """Keep what a forward needs again. Policies that drop rows cannot be replayed whatever this says."""
    numerics: Numerics = Numerics()
    budget_gb: Annotated[float, Field(gt=0, le=1e6)] = 20.0
    """A build that would write more is refused before it writes anything; `steercache build --budget` says otherwise."""

    @field_validator("datasets")
    @classmethod
    def _distinct_names(cls, value: tuple[str | DatasetManifest, ...]) -> tuple[str | DatasetManifest, ...]:
        unique(tuple(d if isinstance(d, str) else d.name for d in value))
        return value

    @field_validator("sites")
    @classmethod
    def _sites_that_share_rows(cls, value: tuple[TraceSite, ...]) -> tuple[TraceSite, ...]:
        if "vision_out" in value and len(value) > 1:
            raise fault("sites", "vision_out has its own kind of rows: put it into a separate trace")
        return unique(value)

    @field_validator("rows")
    @classmethod
    def _rows_of_patches(cls, value: RowPolicy, info: ValidationInfo) -> RowPolicy:
        if "vision_out" in info.data.get("sites", ()) and value.policy not in PATCH_POLICIES:
            raise fault("policy", f"rows of vision_out are patches, not tokens: one of {', '.join(PATCH_POLICIES)}")
        return value

    @field_validator("share_prefix")
    @classmethod
    def _has_a_prefix(cls, value: bool, info: ValidationInfo) -> bool:
        rows = info.data.get("rows")
        if value and ((rows is not None and rows.policy == "pooled") or "vision_out" in info.data.get("sites", ())):
            raise fault("policy", "means and rows of vision_out have no prefix to share")
        return value

    @field_validator("layers")
    @classmethod
    def _each_once(cls, value: Any) -> Any:
        return unique(value) if isinstance(value, tuple) else value

    @field_validator("rows_per_shard")
    @classmethod
    def _whole_chunks(cls, value: int | None, info: ValidationInfo) -> int | None:
        chunk_rows = info.data.get("chunk_rows")
        if value is not None and chunk_rows and value % chunk_rows:
            raise fault("range", f"must be a multiple of chunk_rows ({chunk_rows})")
        return value

    def resolve_layers(self, n_layers: int) -> tuple[int, ...]:
        """The blocks to keep of a model with `n_layers`, ascending.

        Raises:
            UsageError: a block that the model does not have.
        """
        return layers_of(self.layers, n_layers, place=f"trace {self.name}: layers")

    def identity(self) -> dict[str, Any]:
        """What is kept, and how rows are cut into shards; not the names, not the numerics.

        `layers`, `dtype`, `max_tokens` and `rows_per_shard` are as written: `build` replaces them by what they come to.
        """
        kept = self.model_dump(
            mode="json",
            include={"sites", "layers", "rows", "dtype", "max_tokens", "chunk_rows", "rows_per_shard", "shard_mib"},
        )
        if self.rows_per_shard is not None:
            del kept["shard_mib"]
        if isinstance(self.layers, tuple):
            kept["layers"] = sorted(self.layers)
        shared = {"share_prefix": True} if self.share_prefix else {}  # runs from before this field keep their ids
        return kept | shared | {"replayable": self.replayable}

    def numerics_identity(self) -> dict[str, Any]:
        """What a resume must not change unless forced."""
        written = self.numerics.model_dump(mode="json")
        return (
            written if self.numerics.batch_invariant else {k: v for k, v in written.items() if k != "batch_invariant"}
        )
