"""What was tried and what came back: a cell is one setting, a trial its result over a split, an answer one sample's."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from steercache.core.ids import digest

# raw: multiples of the vector. The others count in median row norms, position 0 left out: resid_norm in that of the rows the
# vector was fitted on, target_norm in that of the rows that are steered.
AlphaUnit = Literal["raw", "resid_norm", "target_norm"]
Target = Literal["image", "text", "both", "all", "last"]
Mode = Literal["full", "replay", "branch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One setting: `alpha` times `vector_id` at block `layer` on the `target` tokens. `vector_id` None is the baseline.

    `unit_norm` is what alpha counts in where `alpha_unit` is "target_norm", as measured (None: not yet, or another unit).
    """

    vector_id: str | None
    layer: int | None
    alpha: float
    target: Target
    model_fingerprint: str
    prompt_id: str
    alpha_unit: AlphaUnit = "raw"
    unit_norm: float | None = None
    site: str = "resid_post"
    decoding: Mapping[str, Any] = field(default_factory=dict)

    @property
    def cell_id(self) -> str:
        """Hash of everything that decides the answers; equal cells are shared between sweeps."""
        fields = {name: getattr(self, name) for name in self.__slots__} | {"decoding": dict(self.decoding)}
        if self.unit_norm is None:
            del fields["unit_norm"]  # ids from before there was this field stay as they are
        return digest(fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one sample got in one cell. `status` is "ok" or "failed"; a failed sample stays in the table, with its `error`.

    `margin` is log p(right) - max log p(wrong) where the answers are options; `score` is a task's own number (a probability
    mass, say). `mode` is how it was computed; None where nothing was, or where older files do not say.
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
