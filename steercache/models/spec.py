"""What is known of a model: names and sizes (ModelSpec), with its tokenizer (TokenizerBundle), with its weights."""

import datetime
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steercache.core.layout import DType
from steercache.models.family import Evidence, Family, Modality
from steercache.models.quantised import Quantised
from steercache.models.video_settings import VideoSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A checkpoint by name, content and size. `dtype` is what it computes in; `fingerprint` knows nothing of it.

    `hidden_size` is the width d of the residual stream, `vision_size` that of the vision tower's output. `kin` has the
    fingerprints of the same GGUF file's conversions to other dtypes, and of the weights before they were quantised at load:
    other weights by rounding only. `quantised` says how the weights are quantised in memory, None that they are not.
    `backbone_fingerprints` are those of the text model that it was grown from, () where that is not on this machine.
    """

    name: str
    model_id: str
    fingerprint: str
    family: str
    modality: Modality
    backbone: str | None
    n_layers: int
    hidden_size: int
    vision_size: int | None
    vocab_size: int
    dtype: DType
    attention: str
    tokenizer_digest: str
    kin: tuple[str, ...] = ()
    backbone_fingerprints: tuple[str, ...] = ()
    quantised: Quantised | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerBundle:
    """Everything about a model that can be had without its weights in memory.

    `template_date` is the date that chat templates see: the manifest's, or the day on which the bundle was loaded.
    `template_file` is the manifest's own chat template, if it names one.
    `special_ids` are the tokens that mark structure rather than text, `end_ids` those that end an answer (None: ask the model
    in memory), both ascending. `video` is how it wants the frames of videos, None where it reads none. `layouts`, `forms` and
    `tokens` are where encoding keeps what the processor makes of pictures, by their sizes, what stands around a prompt's own
    text, and tokens.
    """

    tokenizer: Any = field(repr=False)
    processor: Any | None = field(repr=False, default=None)
    config: Any = field(repr=False)
    family: Family
    spec: ModelSpec
    special_ids: tuple[int, ...] = field(repr=False, default=())
    template_date: datetime.date = field(default_factory=datetime.date.today)
    template_file: Path | None = None
    end_ids: tuple[int, ...] | None = field(repr=False, default=None)
    video: VideoSettings | None = field(repr=False, default=None)
    layouts: dict[Any, Any] = field(repr=False, compare=False, default_factory=dict)
    forms: dict[Any, Any] = field(repr=False, compare=False, default_factory=dict)
    tokens: dict[Any, Any] = field(repr=False, compare=False, default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model in memory, in eval mode, with what its bundle knows. `envoys` is where tracing keeps its view of the model.

    `evidence` is what was seen when a family that is not in the table was proven on it, () for one of the table.
    """

    model: Any = field(repr=False)
    bundle: TokenizerBundle
    evidence: tuple[Evidence, ...] = field(repr=False, default=())
    envoys: dict[str, Any] = field(repr=False, compare=False, default_factory=dict)

    @property
    def tokenizer(self) -> Any:
        """The fast tokenizer."""
        return self.bundle.tokenizer

    @property
    def pad_id(self) -> int:
        """Token id of padding: the tokenizer's where the embedding has it, else 0. Padding is masked, its id moves no value."""
        wanted = self.bundle.tokenizer.pad_token_id
        return wanted if wanted is not None and 0 <= wanted < self.spec.vocab_size else 0

    @property
    def processor(self) -> Any | None:
        """Image processor and tokenizer in one; None for a text model."""
        return self.bundle.processor

    @property
    def shown_ids(self) -> tuple[int, ...]:
        """Token ids that stand for patches of pictures and of videos; () for a text model."""
        kinds = ("image",) if self.family.video is None else ("image", "video")
        found = [getattr(self.config, f"{kind}_token_id", None) for kind in kinds]
        return tuple(int(one) for one in found if one is not None)

    @property
    def fed_ids(self) -> tuple[int, ...]:
        """Token ids in whose places the forward puts rows of its towers: those of pictures, videos and sounds."""
        sound = getattr(self.config, "audio_token_id", None) if self.family.audio is not None else None
        return self.shown_ids if sound is None else (*self.shown_ids, int(sound))

    @property
    def config(self) -> Any:
        """transformers' configuration of the whole model."""
        return self.bundle.config

    @property
    def family(self) -> Family:
        """The row of the table of families."""
        return self.bundle.family

    @property
    def spec(self) -> ModelSpec:
        """Names and sizes."""
        return self.bundle.spec
