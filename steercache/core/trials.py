"""What was tried and what came back: a cell is one setting, a trial its result over a split, an answer one sample's."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
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


SEVERAL: Final = "several"  # of a cell of several vectors: what its parts do not have in common


@dataclass(frozen=True, slots=True, kw_only=True)
class CellPart:
    """One vector of a cell that has several; fields as those of `Cell`."""

    vector_id: str
    layer: int
    alpha: float
    target: Target | str
    alpha_unit: AlphaUnit = "raw"
    unit_norm: float | None = None
    site: str = "resid_post"
    operation: str = "add"

    @property
    def setting(self) -> str:
        """Layer, strength, operation and target in words.

        >>> CellPart(vector_id="v", layer=3, alpha=1.0, target="text", operation="project_out").setting
        'layer 3, alpha 1, project_out, text'
        """
        operation = "" if self.operation == "add" else f", {self.operation}"
        strength = _strength_words(self.alpha, self.alpha_unit, self.unit_norm)
        return f"{_where(self)}, {strength}{operation}, {self.target}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One setting: `alpha` times `vector_id` at block `layer` on the `target` tokens. `vector_id` None is the baseline. A
    target without a name is SQL in its canonical form behind "sql:", with ids in place of the names of vectors.

    `operation` is what is done with the vector, as `core.operations` writes it; "add" adds it. `unit_norm` is the row norm
    that alpha counts in where `alpha_unit` is "resid_norm" or "target_norm" (None: raw, not measured yet, or a file from
    before it was kept for resid_norm): with the vector's id it fixes what is added. In the unit "kl" it is the raw strength
    for each nat of `alpha`, found on unrelated prompts (`answers.kl_strengths`). `preprocessing` is the digest of
    tokenizer and processor (None: a file from before it was kept).

    A cell of several vectors has `parts`, lowest layer first and at one layer in the order in which they are applied
    (`combined_cell`). Its `layer` is then the lowest, `alpha` 1, `vector_id` the id of the combination, and the rest "several"
    where the parts differ.
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
    parts: tuple[CellPart, ...] = ()

    @property
    def cell_id(self) -> str:
        """Hash of everything that decides the answers; equal cells are shared between sweeps."""
        fields = {name: getattr(self, name) for name in self.__slots__} | {"decoding": dict(self.decoding)}
        fields["parts"] = [asdict(one) for one in self.parts] or None
        for name in ("unit_norm", "preprocessing", "parts"):
            if fields[name] is None:
                del fields[name]  # ids from before there was this field stay as they are
        if self.operation == "add":
            del fields["operation"]  # likewise
        return digest(fields)

    def setting(self, vectors: Sequence[str] = ()) -> str:
        """Layer, strength and target in words, "" without a vector; of several vectors those of each, behind its name where
        `vectors` has the names."""
        if not self.parts:
            return "" if self.layer is None else cell_words(self)
        names = vectors or [""] * len(self.parts)
        return " + ".join(
            f"{name}: {one.setting}" if name else one.setting for name, one in zip(names, self.parts, strict=True)
        )

    def alone(self, part: CellPart) -> "Cell":
        """The cell in which one of the parts stands alone."""
        return replace(self, parts=(), **asdict(part))


def _where(one: "Cell | CellPart") -> str:
    return f"layer {one.layer}" if one.site == "resid_post" else f"{one.site} of layer {one.layer}"


def combined_cell(parts: Sequence[CellPart], like: Cell) -> Cell:
    """The cell of several vectors, as `like` in model, prompt and decoding; of a single one the plain cell.

    Parts at a lower layer act first, wherever they are listed; at one layer they act in the order given.
    """
    in_order = tuple(sorted(parts, key=lambda one: one.layer))
    if len(in_order) == 1:
        return like.alone(in_order[0])
    return replace(
        like,
        vector_id=combination_id(in_order),
        layer=in_order[0].layer,
        alpha=1.0,
        alpha_unit="raw",
        unit_norm=None,
        target=_shared([one.target for one in in_order]),
        site=_shared([one.site for one in in_order]),
        operation=_shared([one.operation for one in in_order]),
        parts=in_order,
    )


def combination_id(parts: Sequence[CellPart]) -> str:
    """Id of several vectors with their layers, strengths, operations and targets: the same for all tasks and models."""
    in_order = sorted(parts, key=lambda one: one.layer)
    return digest({"combination": [asdict(replace(one, unit_norm=None)) for one in in_order]})


def _shared(values: Sequence[str]) -> str:
    return values[0] if len(set(values)) == 1 else SEVERAL


def cell_words(cell: Cell) -> str:
    """A steered cell in words, with the unit of its strength; of a given KL also the raw strength that does it.

    >>> cell_words(Cell(vector_id="v", layer=3, alpha=0.2, alpha_unit="kl", unit_norm=8, target="image",
    ...                 model_fingerprint="m", prompt_id="plain"))
    'layer 3, alpha 0.2 nats of KL (1.6 raw), image'
    """
    if cell.parts:
        return cell.setting()
    return f"{_where(cell)}, {_strength_words(cell.alpha, cell.alpha_unit, cell.unit_norm)}, {cell.target}"


def _strength_words(alpha: float, unit: AlphaUnit, unit_norm: float | None) -> str:
    raw = "" if unit != "kl" or unit_norm is None else f" ({alpha * unit_norm:.4g} raw)"
    return f"alpha {alpha:g}{UNIT_WORDS[unit]}{raw}"


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
    directions), "panel" (side effects), "family" (sweeps whose p values are adjusted together), "vectors" (of several together:
    their names, as the parts of the cell), "whole" (false: cells were left out for what was predicted of them); what is not
    known is not there.
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
