"""Options of an evaluation or a grid, in parts: axes of the grid, controls, decoding, how answers are computed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from steercache.core.errors import UsageError
from steercache.core.operations import IN_UNITS, operation_text, read_operation
from steercache.core.trials import CONTROL_KINDS, AlphaUnit, ControlKind, Target
from steercache.core.vector_use import PlaceName
from steercache.engines.crew import Crew
from steercache.manifests.sweep import SweepTask
from steercache.queries.token_clause import TokenClause, canonical_target
from steercache.steering.branch import BranchOptions
from steercache.steering.places import check_place

Split = Literal["search", "test", "both"]
ModeRequest = Literal["auto", "replay", "branch", "full"]
MAX_NEW_TOKENS: Final = MappingProxyType(
    {"choice": 8, "count": 8, "text": 20}
)  # 20 are published; a letter needs fewer


def _check_positive(options: object, *names: str) -> None:
    for name in names:
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f"{name} is {value}, and must be at least 1")


class KlPlace(NamedTuple):
    """A setting whose raw strength is found on unrelated prompts; `alpha` in nats, negative for the opposite direction."""

    vector_id: str
    layer: int
    target: str
    alpha: float
    operation: str = "add"
    place: str = "resid_post"


@dataclass(frozen=True, slots=True, kw_only=True)
class GridAxes:
    """The cells open to a vector, and to every control alike: layers x strengths x targets, under one `operation` (its text)
    and at one `place` of each block (None: where the vectors belong, which `places.with_place` finds out).

    `row_norms` has by target, layer after layer, what the unit "target_norm" counts in, `kl_strengths` the raw strengths that
    the unit "kl" stands for; None until they are measured. `clauses` are the targets written as SQL, by their text
    (`targets.with_clauses`), and those of parts of combinations; `part_units` are the units of the latter.
    """

    layers: tuple[int, ...]
    alphas: tuple[float, ...]
    targets: tuple[Target | str, ...] = ("image",)
    alpha_unit: AlphaUnit = "raw"
    row_norms: Mapping[str, Sequence[float | None]] | None = field(default=None, repr=False)
    operation: str = "add"
    clauses: Mapping[str, TokenClause] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    kl_strengths: Mapping[KlPlace, float] | None = field(default=None, repr=False)
    part_units: frozenset[AlphaUnit] = frozenset()
    place: PlaceName | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", tuple(canonical_target(one) for one in self.targets))
        operation = read_operation(self.operation)
        object.__setattr__(self, "operation", operation_text(operation))
        if self.place is not None:
            check_place(self.place)
        if self.alpha_unit not in ("raw", "kl") and operation.name not in IN_UNITS:
            raise UsageError(f"the strength of {operation.name} has no unit {self.alpha_unit}", hint="the unit raw")
        if not self.layers or not self.alphas or not self.targets:
            raise UsageError(
                "a layer, a strength and a target are needed", hint="such as layer 12, strength 1, target image"
            )
        if any(alpha == 0 or not np.isfinite(alpha) for alpha in self.alphas):
            raise UsageError("a strength is a finite number other than 0: 0 is the baseline, which always runs")

    @property
    def n_cells(self) -> int:
        """Cells that each vector chooses among."""
        return len(self.layers) * len(self.alphas) * len(self.targets)

    @property
    def units(self) -> frozenset[AlphaUnit]:
        """The units that strengths count in."""
        return self.part_units | {self.alpha_unit}

    @property
    def site(self) -> PlaceName:
        """The place of its cells."""
        return self.place or "resid_post"

    @property
    def manifest(self) -> dict[str, Any]:
        """The axes as a stored sweep has them."""
        return {
            "layers": list(self.layers),
            "alphas": list(self.alphas),
            "alpha_unit": self.alpha_unit,
            "targets": list(self.targets),
            **({} if self.operation == "add" else {"operation": self.operation}),
            **({} if self.site == "resid_post" else {"place": self.site}),
        }

    def per_nat(self, place: KlPlace) -> float | None:
        """The raw strength for each nat of alpha; None where nothing was measured."""
        found = None if self.kl_strengths is None else self.kl_strengths.get(place)
        return None if found is None else found / place.alpha

    def norm_of(self, target: str, layer: int) -> float | None:
        """What alpha counts in at a layer on a target's rows; None where nothing was measured.

        Raises:
            UsageError: none of the questions measured has such a row.
        """
        if self.row_norms is None:
            return None
        norm = self.row_norms[target][layer]
        if norm is None:
            raise UsageError(
                f"no {target} rows other than the first, so no norm can be measured", hint="give alpha in raw units"
            )
        return norm


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodingOptions:
    """How answers are written: greedily, with the vector added during the prefill; at most `max_new_tokens` (None: by kind)."""

    max_new_tokens: int | None = None

    def __post_init__(self) -> None:
        _check_positive(self, "max_new_tokens")

    def limit_of(self, kind: str) -> int:
        """New tokens at most for answers of a kind."""
        return self.max_new_tokens or MAX_NEW_TOKENS.get(kind, 20)

    @property
    def identity(self) -> dict[str, Any]:
        """What of decoding decides the answers, for a cell's identity."""
        return {"greedy": True, "when": "prefill", "max_new_tokens": {k: self.limit_of(k) for k in MAX_NEW_TOKENS}}


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeOptions:
    """How answers are computed, which decides none of them.

    A batch has at most `tokens_per_batch` padded tokens and takes `memory_mib` beside the weights. `mode` "auto" takes the
    quickest way that is exact, by costs measured on this machine (again with `recalibrate`); None branches unasked. `crew` are
    the workers that compute them (`answers.model_workers`); None: this process.
    """

    tokens_per_batch: int = 4096
    memory_mib: int = 2048
    mode: ModeRequest | None = None
    recalibrate: bool = False
    crew: Crew[Any, Any] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_positive(self, "tokens_per_batch", "memory_mib")


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlOptions:
    """How many directions without the concept compete beside every vector, and of which kinds."""

    count: int = 20
    kinds: tuple[ControlKind, ...] = CONTROL_KINDS

    def __post_init__(self) -> None:
        if self.count < 0:
            raise UsageError(f"{self.count} controls were asked for")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalOptions:
    """Options of an evaluation.

    Every vector, and every control alike, takes the best cell of `axes` on the search split; of a single cell nothing is
    chosen. `n` questions per split (None: all). `prompting` None asks in words for the first vector's concept; "" leaves that
    baseline out. `damage`: also measure what the chosen cells do to unrelated prompts. `panel` questions of each of
    `panel_tasks` (none: the drawn scenes' that are not evaluated) are asked in the chosen cells of the vectors. `seed` is that
    of controls and intervals.
    """

    axes: GridAxes
    decoding: DecodingOptions = DecodingOptions()
    compute: ComputeOptions = ComputeOptions()
    controls: ControlOptions = ControlOptions()
    split: Split = "both"
    n: int | None = None
    prompting: str | None = None
    damage: bool = True
    panel: int = 0
    panel_tasks: tuple[SweepTask, ...] = ()
    seed: int = 0
    allow_foreign: bool = False

    def __post_init__(self) -> None:
        _check_positive(self, "n")
        if self.panel < 0:
            raise UsageError(f"{self.panel} questions of each unrelated task were asked for")
        if self.panel_tasks and not self.panel:
            raise UsageError("unrelated tasks are named, and no number of questions", hint="such as 40 of each")
        if self.split == "test" and self.axes.n_cells > 1:
            raise UsageError(
                f"{self.axes.n_cells} cells on the test split: a cell must not be chosen on it",
                hint="split both chooses on the search split; or name one layer, strength and target",
            )

    def branching(self, kind: str) -> BranchOptions:
        """How cells are run over questions of a kind."""
        return BranchOptions(
            max_new_tokens=self.decoding.limit_of(kind), memory_budget_bytes=self.compute.memory_mib * 2**20
        )
