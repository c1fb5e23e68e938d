"""What was tried and what came back: a cell is one setting, a trial its result over a split, an answer one sample's."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from steercache.core.ids import digest

AlphaUnit = Literal[
    "raw", "resid_norm"
]  # resid_norm: multiples of the median norm of the target rows, position 0 left out
Target = Literal["image", "text", "both", "all", "last"]
Mode = Literal["full", "replay", "branch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One setting: `alpha` times `vector_id` at block `layer` on the `target` tokens. `vector_id` None is the baseline."""

    vector_id: str | None
    layer: int | None
    alpha: float
    target: Target
    model_fingerprint: str
    prompt_id: str
    alpha_unit: AlphaUnit = "raw"
    site: str = "resid_post"
    decoding: Mapping[str, Any] = field(default_factory=dict)

    @property
    def cell_id(self) -> str:
        """Hash of everything that decides the answers; equal cells are shared between sweeps."""
        return digest({name: getattr(self, name) for name in self.__slots__} | {"decoding": dict(self.decoding)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one sample got in one cell. `status` is "ok" or "failed"; a failed sample stays in the table, with its `error`.

    `margin` is log p(right) - max log p(wrong) where the answers are options; `score` is a task's own number (a probability
    mass, say).
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
