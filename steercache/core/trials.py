"""What was tried and what came back: a cell is one setting, a trial its result over a split, an answer one sample's."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

from steercache.core.ids import digest

# raw: multiples of the vector. The others count in median row norms, position 0 left out: resid_norm in that of the rows the
# vector was fitted on, target_norm in that of the rows that are steered. kl: the damage that is done, in nats.
AlphaUnit = Literal["raw", "resid_norm", "target_norm", "kl"]
UNIT_WORDS: Final[Mapping[str, str]] = {
    "raw": "",
    "resid_norm": " median norms",
    "target_norm": " median norms",
    "kl": " nats of KL",
}
Target = Literal["image", "text", "both", "all", "last", "video", "audio"]
Mode = Literal["full", "replay", "branch"]
SaeControlKind = Literal["sae_random_decoder", "sae_random_encoder", "sae_permuted_labels", "sae_live_features"]
SAE_CONTROL_KINDS: Final[tuple[SaeControlKind, ...]] = get_args(SaeControlKind)  # of vectors made by an SAE only
ControlKind = Literal["covariance", "label_shuffled", "other_concept", "random"] | SaeControlKind
CONTROL_KINDS: Final[tuple[ControlKind, ...]] = (
    *("covariance", "label_shuffled", "other_concept", "random"),
    *SAE_CONTROL_KINDS,
)
NULL_KINDS: Final[tuple[ControlKind, ...]] = (
    *("covariance", "label_shuffled", "random"),  # another concept is no null
    *SAE_CONTROL_KINDS,
)
TRUST: Final = 0.5  # median norms of the steered rows: up to there a prediction from gradients is believed


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One setting: `alpha` times `vector_id` at block `layer` on the `target` tokens. `vector_id` None is the baseline. A
    target without a name is SQL in its canonical form behind "sql:", with ids in place of the names of vectors.

    `operation` is what is done with the vector, as `core.operations` writes it; "add" adds it. `unit_norm` is the row norm
    that alpha counts in where `alpha_unit` is "resid_norm" or "target_norm" (None: raw, not measured yet, or a file from
    before it was kept for resid_norm): with the vector's id it fixes what is added. In the unit "kl" it is the raw strength
    for each nat of `alpha`, found on unrelated prompts (`answers.kl_strengths`). `preprocessing` is the digest of
    tokenizer and processor (None: a file from before it was kept).
    """

    vector_id: str | None
    layer: int | None
    alpha: float
    target: Target | str
    model_fingerprint: str
    prompt_id: str
    alpha_unit: AlphaUnit = "raw"
    unit_norm: float | None = None
    preprocessing: str | None = None
    site: str = "resid_post"
    decoding: Mapping[str, Any] = field(default_factory=dict)
    operation: str = "add"

    @property
    def cell_id(self) -> str:
        """Hash of everything that decides the answers; equal cells are shared between sweeps."""
        fields = {name: getattr(self, name) for name in self.__slots__} | {"decoding": dict(self.decoding)}
        for name in ("unit_norm", "preprocessing"):
            if fields[name] is None:
                del fields[name]  # ids from before there was this field stay as they are
        if self.operation == "add":
            del fields["operation"]  # likewise
        return digest(fields)


def cell_words(cell: Cell) -> str:
    """A steered cell in words, with the unit of its strength; of a given KL also the raw strength that does it.

    >>> cell_words(Cell(vector_id="v", layer=3, alpha=0.2, alpha_unit="kl", unit_norm=8, target="image",
    ...                 model_fingerprint="m", prompt_id="plain"))
    'layer 3, alpha 0.2 nats of KL (1.6 raw), image'
    """
    raw = "" if cell.alpha_unit != "kl" or cell.unit_norm is None else f" ({cell.alpha * cell.unit_norm:.4g} raw)"
    return f"layer {cell.layer}, alpha {cell.alpha:g}{UNIT_WORDS[cell.alpha_unit]}{raw}, {cell.target}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one sample got in one cell. `status` is "ok" or "failed"; a failed sample stays in the table, with its `error`.

    `margin` is log p(right) - max log p(wrong) where the answers are options; `score` is a task's own number (a probability
    mass, say). `margin_of` is a digest of the options that the margin tells apart, and of which is right. `mode` is how it was
    computed; None where nothing was, or where older files do not say.
    """

    cell_id: str
    sample_id: str
    split: str
    raw: str | None = None
    parsed: str | None = None
    correct: bool | None = None
    margin: float | None = None
    score: float | None = None
    status: Literal["ok", "failed"] = "ok"
    error: str | None = None
    mode: Mode | None = None
    margin_of: str | None = None


ChoiceRule = Literal["single", "exhaustive", "race", "screening", "screening and race"]
Role = Literal["baseline", "prompting", "vector", "control"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The cell that one arm of a sweep took on the search split, and was held to on the test split.

    `n_cells` cells were open to it under `rule`. `control_of` is the id of the vector that a control belongs to. `details` are
    plain JSON: "damage" of the cell, "predictors" of the vector at its layer, "race", "nulls" (the sweep of its null
    directions), "panel" (side effects), "family" (sweeps whose p values are adjusted together), "whole" (false: cells were
    left out for what was predicted of them); what is not known is not there.
    """

    arm: str
    role: Role
    cell_id: str
    rule: ChoiceRule
    n_cells: int
    vector_id: str | None = None
    control_of: str | None = None
    control_kind: str | None = None
    method: str | None = None
    concept: str | None = None
    lineage: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
