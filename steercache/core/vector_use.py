"""How a vector is meant to be used: what is lost when only its numbers are passed on.

Two people who add the same numbers at another place, to other tokens or at another strength measure two different things. So
a vector can carry its use, in its file too. It is a recommendation with its reasons, not part of the vector's id.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Final, Literal, Self, get_args

from steercache.core.trials import AlphaUnit, Target

OperationName = Literal[
    "add",
    "project_out",
    "project_cap",
    "clamp",
    "replace",
    "rotate",
    "rotate_in_plane",
    "rotate_in_plane_adaptive",
    "add_preserving_norm",
    "affine",
]
PlaceName = Literal["resid_post", "resid_pre", "head_out", "attn_out", "mlp_out"]
Phase = Literal["prompt", "generated", "both"]
ChatConvention = Literal["none", "template"]

OPERATIONS: Final[Mapping[OperationName, str]] = MappingProxyType(
    {  # h is the hidden state, v the vector, u = v / |v|, c = h . u
        "add": "h + strength * v",
        "project_out": "h - strength * c * u",
        "project_cap": "h + strength * (min(c, bound) - c) * u",
        "clamp": "h + strength * (value - c) * u",
        "replace": "(1 - strength) * h + strength * v",
        "rotate": "h turned towards u by strength degrees in the plane of h and u, its norm kept",
        "rotate_in_plane": "the part of h in a fixed plane turned by the share strength of the way to an angle in that plane",
        "rotate_in_plane_adaptive": "as rotate_in_plane, where the component of h along the plane's first axis is positive",
        "add_preserving_norm": "(h + strength * v) * |h| / |h + strength * v|",
        "affine": "h + strength * (scale * c + offset - c) * u",
    }
)
PLACES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "resid_post": "output of decoder block l, before the next block and before the final norm",
        "resid_pre": "input of decoder block l, before its first norm",
        "head_out": "outputs of the attention heads of decoder block l side by side, before their output projection",
        "attn_out": "what attention of decoder block l adds to the residual stream",
        "mlp_out": "what the MLP of decoder block l adds to the residual stream",
    }
)
LAYER_INDEXING: Final = "decoder blocks counted from 0; the embeddings are no layer"
PHASES: Final[Mapping[Phase, str]] = MappingProxyType(
    {
        "prompt": "tokens of the prompt only, once, before the first token is generated",
        "generated": "generated tokens only, each as it is fed back",
        "both": "tokens of the prompt and generated tokens",
    }
)
UNITS: Final[Mapping[AlphaUnit, str]] = MappingProxyType(
    {
        "raw": "multiples of the vector as it is stored",
        "resid_norm": "median norms of the rows that it was fitted on, the vector brought to unit length",
        "target_norm": "median norms of the rows that are steered, the vector brought to unit length",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorUse:
    """How a vector is meant to be used.

    `operation` with its `parameters` (an angle, a bound) is applied at `place`, a site of blocks `layers` (zero-based; None:
    not decided), with `strength` in `strength_unit` (None: not decided). `strength_range` is where `damage` was measured to
    be small; `damage` is plain JSON about that measurement (its value, limit, prompts). `target` (a name, or SQL behind
    "sql:") and `phase` say which tokens, `skip_first` leaves out the first, `n_generated` ends with the n-th generated token
    (None: all of them). `bos` says whether prompts begin with the tokenizer's BOS token, `chat` whether its chat template is
    around them; None: not known. `source` names where the recommendation comes from (sweep, cell, split).
    """

    operation: OperationName = "add"
    parameters: Mapping[str, float] = field(default_factory=dict)
    place: str = "resid_post"
    layers: tuple[int, ...] | None = None
    strength: float | None = None
    strength_unit: AlphaUnit = "raw"
    strength_range: tuple[float, float] | None = None
    damage: Mapping[str, Any] = field(default_factory=dict)
    target: Target | str = "all"
    skip_first: bool = False
    phase: Phase = "prompt"
    n_generated: int | None = None
    bos: bool | None = None
    chat: ChatConvention | None = None
    source: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ValueError for a value that no use can have."""
        for name, value, known in (
            ("operation", self.operation, tuple(OPERATIONS)),
            ("place", self.place, tuple(PLACES)),
            ("unit of strength", self.strength_unit, get_args(AlphaUnit)),
            *([] if str(self.target).startswith("sql: ") else [("target", self.target, get_args(Target))]),
            ("phase", self.phase, tuple(PHASES)),
            ("chat convention", self.chat, (None, *get_args(ChatConvention))),
        ):
            if value not in known:
                raise ValueError(f"no {name} named {value!r}; there are: {', '.join(str(one) for one in known)}")
        if self.strength_range is not None and len(self.strength_range) != 2:
            raise ValueError("a range of strengths has a lowest and a highest")
        numbers = [*self.parameters.values(), *(self.strength_range or ())]
        numbers += [] if self.strength is None else [self.strength]
        if not all(_is_number(one) for one in numbers):
            raise ValueError("strengths and parameters are finite numbers")
        if self.strength_range is not None and not self.strength_range[0] <= self.strength_range[1]:
            raise ValueError(f"a range from {self.strength_range[0]} to {self.strength_range[1]}")
        if self.layers is not None and not all(type(one) is int and one >= 0 for one in self.layers):
            raise ValueError("layers are numbers of blocks, from 0")
        if self.layers is not None and len(set(self.layers)) != len(self.layers):
            raise ValueError("a layer is named twice")
        if self.n_generated is not None and not (type(self.n_generated) is int and self.n_generated > 0):
            raise ValueError("the number of generated tokens that are steered is at least 1")
        if not (isinstance(self.skip_first, bool) and (self.bos is None or isinstance(self.bos, bool))):
            raise ValueError("skip_first is true or false, and bos true, false or not known")

    def __str__(self) -> str:
        """One line, as people would say it."""
        strength = "" if self.strength is None else f" {self.strength:g} {self.strength_unit}"
        layers = "" if self.layers is None else f" of {', '.join(map(str, self.layers))}"
        first = " but the first" if self.skip_first else ""
        target = f"tokens where {self.target}" if self.target.startswith("sql: ") else f"{self.target} tokens"
        phase = self.phase if self.n_generated is None else f"{self.phase}, the first {self.n_generated} generated"
        return f"{self.operation}{strength} at {self.place}{layers}, {target}{first}, {phase}"

    def to_json(self) -> dict[str, Any]:
        """As in the header of a vector's file: JSON values, with the sentences that explain them; without what is not known."""
        said = {one.name: getattr(self, one.name) for one in fields(self)}
        said = {name: value for name, value in said.items() if value is not None}
        for name in ("parameters", "damage", "source"):
            said[name] = dict(said[name])
        for name in ("layers", "strength_range"):
            if name in said:
                said[name] = list(said[name])
        return said | {"place_text": PLACES[self.place], "layer_indexing": LAYER_INDEXING}

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Self:
        """What `to_json` wrote; sentences and unknown keys are left. Raises ValueError, TypeError."""
        if not isinstance(said, Mapping):
            raise TypeError("a use is a mapping")
        known = {one.name: said[one.name] for one in fields(cls) if one.name in said}
        for name in ("parameters", "damage", "source"):
            if name in known and not isinstance(known[name], Mapping):
                raise TypeError(f"{name} is a mapping")
        for name in ("layers", "strength_range"):
            if name in known:
                known[name] = tuple(known[name])
        return cls(**known)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
