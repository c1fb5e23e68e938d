"""A `dataset` manifest: where examples come from, and which column means what."""

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationInfo, field_validator

from steercache.manifests.fields import (
    BenchmarkName,
    Column,
    Document,
    FileName,
    HubId,
    Name,
    Positive,
    Revision,
    Text,
    Version,
    fault,
    unique,
)

Concept = Literal[
    "spatial_relationship", "counting", "attribute", "entity", "action", "temporal", "comparison", "negation"
]
CONCEPTS: tuple[Concept, ...] = get_args(Concept)
SceneTask = Literal["Relation", "Count", "Attribute", "Entity"]
AnswerForm = Literal["letter", "number", "word"]


class Columns(Document):
    """Which column holds what; a column that is not named here is not read. All but `text` say something ABOUT the input."""

    text: Column = "text"
    system: Column | None = None
    """A system prompt per row; needs `chat`."""
    completion: Column | None = None
    """Text that follows the prompt and is part of the input."""
    image: Column | None = None
    """A picture: a path inside the data file's folder, bytes, or a struct of both; or a list of them."""
    audio: Column | None = None
    """A sound, as `image`: a WAV file of integer samples at the rate that the model hears; or a list of them."""
    video: Column | None = None
    """A video: a list of pictures, its frames, each as in `image`; or a list of such lists."""
    anchor: Column | None = None
    """The word or phrase that carries the concept; every whole-word occurrence counts."""
    concept: Column | None = None
    split: Column | None = None
    question: Column | None = None
    choices: Column | None = None
    answer: Column | None = None
    group: Column | None = None
    """Rows with equal values here stay in one fold."""
    pair: Column | None = None
    """Two rows with equal values here are a contrastive pair."""
    polarity: Column | None = None
    """+1 or -1: which side of the pair."""
    meta: Annotated[tuple[Column, ...], Field(max_length=64)] = ()
    """Further columns to keep as they are."""


class PairColumns(Document):
    """Which columns of a table hold the two sides of a contrastive pair."""

    prompt: Column | None = None
    """What both sides have in common; `positive` and `negative` are then completions of it."""
    positive: Column | None = None
    negative: Column | None = Field(default=None, validate_default=True)
    system_positive: Column | None = None
    """A system prompt for the positive side; needs `chat`."""
    system_negative: Column | None = Field(default=None, validate_default=True)
    concept: Column | None = None
    split: Column | None = None
    group: Column | None = None

    @field_validator("negative", "system_negative")
    @classmethod
    def _both_or_none(cls, value: str | None, info: ValidationInfo) -> str | None:
        other = (info.field_name or "").replace("negative", "positive")
        if (value is None) != (info.data.get(other) is None):
            raise fault("pair", f"name {other} and {info.field_name} together, or neither")
        return value


class JsonlSource(Document):
    """One JSON object per line."""

    type: Literal["jsonl"]
    path: FileName
    columns: Columns = Columns()


class CsvSource(Document):
    """Comma-separated values with a header line, UTF-8."""

    type: Literal["csv"]
    path: FileName
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    columns: Columns = Columns()


class ParquetSource(Document):
    """One Parquet file."""

    type: Literal["parquet"]
    path: FileName
    columns: Columns = Columns()


class TextSource(Document):
    """A plain text corpus; blank samples are skipped."""

    type: Literal["text"]
    path: FileName
    unit: Literal["line", "paragraph"] = "line"
    """One sample per line, or per run of lines between blank ones."""


class HfSource(Document):
    """A data set of the Hugging Face hub, or a local folder of the hub's layout or of `save_to_disk`."""

    type: Literal["hf"]
    id: HubId | None = None
    """Hub id; asks the network."""
    revision: Revision | None = None
    path: FileName | None = Field(default=None, validate_default=True)
    """Local folder; asks nobody."""
    config: Text | None = None
    split: Text = "train"
    columns: Columns = Columns()

    @field_validator("path")
    @classmethod
    def _one_place(cls, value: str | None, info: ValidationInfo) -> str | None:
        if "id" in info.data and (value is None) == (info.data["id"] is None):
            raise fault("place", "give either `id` (the hub) or `path` (a local folder)")
        if value is not None and info.data.get("revision"):
            raise fault("place", "a local folder has no revision")
        return value


class PairsSource(Document):
    """Contrastive prompt pairs from a .jsonl, .csv or .parquet file: each row becomes a positive and a negative sample."""

    type: Literal["pairs"]
    path: FileName
    columns: PairColumns = PairColumns(positive="positive", negative="negative")

    @field_validator("path")
    @classmethod
    def _known_suffix(cls, value: str) -> str:
        if not value.lower().endswith((".jsonl", ".csv", ".parquet")):
            raise fault("format", "must end in .jsonl, .csv or .parquet")
        return value

    @field_validator("columns")
    @classmethod
    def _two_sides(cls, value: PairColumns) -> PairColumns:
        if value.positive is None and value.system_positive is None:
            raise fault("pair", "the two sides are the same; name positive and negative, or two system prompts")
        if value.positive is None and value.prompt is None:
            raise fault("pair", "with system prompts alone, `prompt` is needed")
        return value


class ConceptsSource(Document):
    """The sentence-anchor pairs that ship with steercache."""

    type: Literal["concepts"]
    concepts: Annotated[tuple[Concept, ...], Field(min_length=1)] = CONCEPTS

    @field_validator("concepts")
    @classmethod
    def _each_once(cls, value: tuple[Concept, ...]) -> tuple[Concept, ...]:
        return unique(value)


class BenchmarkSource(Document):
    """Questions of a public visual benchmark, from the hub or from a folder of the hub's layout."""

    type: Literal["benchmark"]
    benchmark: BenchmarkName
    """A name such as cv-bench or scenes; or a file of your own questions, relative to the manifest's folder."""
    path: FileName | None = None
    """Local folder; without one the hub is asked. Of your own questions, the pictures' folder; by default the file's."""
    task: Text | None = None
    rule: Literal["grouped", "paper"] = "grouped"
    """How search and test are told apart: by picture, or as published."""
    split: Literal["search", "test"] | None = None
    """Keep one part."""
    form: AnswerForm = "letter"
    prefix: Text | None = None
    """Put before every question: PaliGemma was trained on `answer en `."""


Level = Annotated[float, Field(ge=0, le=1)]


class SceneDifficulty(Document):
    """How hard drawn scenes are, from 0 (what the shipped models were trained on) to 1 in each property."""

    objects: Level = 0.0
    """Up to three additional objects in the picture."""
    distance: Level = 0.0
    """Objects nearer to each other."""
    size: Level = 0.0
    """Smaller objects."""
    palette: Level = 0.0
    """Less contrast between objects and ground."""
    clutter: Level = 0.0
    """Strokes without a name strewn over the ground."""


class ScenesSource(Document):
    """Drawn scenes with questions in CV-Bench's schema; endless, nothing is downloaded."""

    type: Literal["scenes"]
    seed: Annotated[int, Field(ge=0, le=2**32)]
    tasks: Annotated[tuple[SceneTask, ...], Field(min_length=1)] = get_args(SceneTask)
    shifted: bool = False
    """Other outlines, palettes and backgrounds: out of distribution."""
    difficulty: Level | SceneDifficulty = 0.0
    """How hard the pictures are: one level for all five properties, or a level for each that is named."""
    n: Positive = 1000
    """Questions, tasks taking turns."""
    form: AnswerForm = "letter"
    prefix: Text | None = None
    """Put before every question: PaliGemma was trained on `answer en `."""

    @field_validator("tasks")
    @classmethod
    def _each_once(cls, value: tuple[SceneTask, ...]) -> tuple[SceneTask, ...]:
        return unique(value)


DatasetSource = Annotated[
    JsonlSource
    | CsvSource
    | ParquetSource
    | TextSource
    | HfSource
    | PairsSource
    | ConceptsSource
    | BenchmarkSource
    | ScenesSource,
    Field(discriminator="type"),
]


class Chat(Document):
    """How a row becomes a conversation."""

    apply: bool = True
    """Render through the tokenizer's chat template, with the generation prompt."""
    system: Text | None = None
    """System prompt of every row that has none of its own."""

    @field_validator("system")
    @classmethod
    def _needs_template(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("apply") is False:
            raise fault("chat", "a system prompt needs `apply: true`")
        return value


class DatasetManifest(Document):
    """One data set: its source, how a row becomes an input, and the rules for its anchors."""

    kind: Literal["dataset"]
    version: Version
    name: Name
    source: DatasetSource
    chat: Chat | None = Field(default=None, validate_default=True)
    """Left out, the model reads the bare text."""
    concept: Name | None = None
    """Concept of every row, when no column says it."""
    anchors: Literal["required", "optional"] = "required"
    """Where an anchor column is named: whether a row may do without an anchor. An anchor that is given must be in the text.
    With `optional` the tokens of every row are controls but for its anchors, also where the anchor is empty or, being on the
    first token, is left out. This is how the paper pools its controls (arXiv 2505.14071)."""
    first_position: Literal["refuse", "allow"] = "refuse"
    """An anchor on the first token, the attention sink (no BOS or template stands before it): `refuse` is an error, or with
    `anchors: optional` leaves that token out; `allow` makes it an anchor like any other."""
    video_fps: Annotated[float, Field(gt=0, le=1000)] = 2.0
    """Frames of a video in a second, at which these were taken: most models read the time of every pair."""
    limit: Positive | None = None
    """Keep this many rows: the first ones, or with `seed` a random choice in file order."""
    seed: Annotated[int, Field(ge=0, le=2**32)] | None = None

    @field_validator("chat")
    @classmethod
    def _systems_need_chat(cls, value: Chat | None, info: ValidationInfo) -> Chat | None:
        columns = getattr(info.data.get("source"), "columns", None)
        systems = [getattr(columns, name, None) for name in ("system", "system_positive", "system_negative")]
        if any(systems) and not (value and value.apply):
            raise fault("chat", "a column of system prompts needs `chat: {apply: true}`")
        return value

    @field_validator("seed")
    @classmethod
    def _seed_picks(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and info.data.get("limit", 1) is None:
            raise fault("seed", "`seed` picks the rows that `limit` keeps; give a limit")
        return value

    def identity(self) -> dict[str, Any]:
        """How a row becomes an input, and which rows do: not the place, not the labels. The rows' own hashes say the rest."""
        chat = self.chat or Chat(apply=False)
        return {"chat": chat.apply, "system": chat.system, "limit": self.limit, "seed": self.seed}
