"""What is tried: arms (a baseline, a wording, a vector, a control), each with the settings it may choose among."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from steercache.benchmarks.task import PLAIN, Wording
from steercache.core.errors import UsageError
from steercache.core.trials import CONTROL_KINDS, AlphaUnit, Cell, ControlKind, Role, Target
from steercache.core.vectors import SteeringVector
from steercache.models.ends import end_ids
from steercache.models.spec import LoadedModel
from steercache.steering.add import delta_of, resid_norm
from steercache.steering.branch import BranchOptions
from steercache.steering.cells import BranchCell

Split = Literal["search", "test", "both"]
ModeRequest = Literal["auto", "replay", "branch", "full"]
MAX_NEW_TOKENS: Final = MappingProxyType(
    {"choice": 8, "count": 8, "text": 20}
)  # 20 are published; a letter needs fewer


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalOptions:
    """What an evaluation is asked for.

    Every vector, and every control alike, takes the best of layers x alphas x targets on the search split; with a single
    setting nothing is chosen. `prompting` None asks in words for the first vector's concept; "" leaves that baseline out.
    `damage`: also measure what the chosen settings do to unrelated prompts. `mode` says how answers are computed; "auto" takes
    the quickest way that is exact, by costs measured on this machine (again with `recalibrate`), None branches unasked.
    `row_norms` has by target, layer after layer, what the unit "target_norm" counts in; None until it is measured.
    """

    layers: tuple[int, ...]
    alphas: tuple[float, ...]
    targets: tuple[Target, ...] = ("image",)
    alpha_unit: AlphaUnit = "raw"
    split: Split = "both"
    n: int | None = None
    controls: int = 20
    control_kinds: tuple[ControlKind, ...] = CONTROL_KINDS
    prompting: str | None = None
    max_new_tokens: int | None = None
    tokens_per_batch: int = 4096
    memory_mib: int = 2048
    seed: int = 0
    allow_foreign: bool = False
    damage: bool = True
    mode: ModeRequest | None = None
    recalibrate: bool = False
    row_norms: Mapping[str, Sequence[float | None]] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.layers or not self.alphas or not self.targets:
            raise UsageError(
                "a layer, a strength and a target are needed", hint="such as layer 12, strength 1, target image"
            )
        if any(alpha == 0 or not np.isfinite(alpha) for alpha in self.alphas):
            raise UsageError("a strength is a finite number other than 0: 0 is the baseline, which always runs")
        for name in ("n", "max_new_tokens", "tokens_per_batch", "memory_mib"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} is {value}, and must be at least 1")
        if self.controls < 0:
            raise UsageError(f"{self.controls} controls were asked for")
        if self.split == "test" and self.n_settings > 1:
            raise UsageError(
                f"{self.n_settings} cells on the test split: a cell must not be chosen on it",
                hint="split both chooses on the search split; or name one layer, strength and target",
            )

    @property
    def n_settings(self) -> int:
        """Settings that each vector chooses among."""
        return len(self.layers) * len(self.alphas) * len(self.targets)

    def norm_of(self, target: str, layer: int) -> float | None:
        """What alpha counts in at a layer on a target's rows; None for other units, or where nothing was measured.

        Raises:
            UsageError: none of the questions measured has such a row.
        """
        if self.alpha_unit != "target_norm" or self.row_norms is None:
            return None
        norm = self.row_norms[target][layer]
        if norm is None:
            raise UsageError(
                f"no {target} rows other than the first, so no norm can be measured", hint="give alpha in raw units"
            )
        return norm

    def limit_of(self, kind: str) -> int:
        """New tokens at most for answers of a kind."""
        return self.max_new_tokens or MAX_NEW_TOKENS.get(kind, 20)

    @property
    def decoding(self) -> dict[str, Any]:
        """What of decoding decides the answers, for a cell's identity."""
        return {"greedy": True, "when": "prefill", "max_new_tokens": {k: self.limit_of(k) for k in MAX_NEW_TOKENS}}

    def branching(self, kind: str) -> BranchOptions:
        """How cells are run over questions of a kind."""
        return BranchOptions(max_new_tokens=self.limit_of(kind), memory_budget_bytes=self.memory_mib * 2**20)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One competitor: a vector with the settings open to it, or a wording without a vector.

    `of` is the id of the real vector that a control belongs to.
    """

    name: str
    role: Role
    vector: SteeringVector | None = field(default=None, repr=False)
    wording: Wording = PLAIN
    of: str | None = None
    kind: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmCell:
    """One arm at one layer, strength and target; the baseline's `cell` has no vector."""

    arm: Arm
    cell: Cell

    def branch_cell(self, key: str, hidden_size: int) -> BranchCell:
        """What `steer.branch` runs; without a vector nothing is added."""
        return BranchCell(key=key, layer=self.cell.layer or 0, delta_d=self.delta(hidden_size), target=self.cell.target)

    def delta(self, hidden_size: int) -> npt.NDArray[np.float32]:
        """What is added, shape (d,), float32."""
        vector, layer = self.arm.vector, self.cell.layer
        if vector is None or layer is None:
            return np.zeros(hidden_size, dtype=np.float32)
        return delta_of(
            vector, layer, alpha=self.cell.alpha, alpha_unit=self.cell.alpha_unit, row_norm=self.cell.unit_norm
        )


def settings_of(arm: Arm, loaded: LoadedModel, options: EvalOptions) -> tuple[ArmCell, ...]:
    """Every setting open to an arm, in the order of preference among equals: strength aside, the lowest layer first."""
    grid: Sequence[tuple[Target, int | None, float]] = [("all", None, 0.0)]
    vector_id = None
    if arm.vector is not None:
        grid = [(t, layer, a) for t in options.targets for layer in options.layers for a in options.alphas]
        vector_id = arm.vector.vector_id
    decoding: dict[str, Any] = options.decoding | {"dtype": loaded.spec.dtype, "ends": sorted(end_ids(loaded))}
    return tuple(
        ArmCell(
            arm=arm,
            cell=Cell(
                vector_id=vector_id,
                layer=layer,
                alpha=alpha,
                alpha_unit=options.alpha_unit if arm.vector is not None else "raw",
                unit_norm=_unit_norm(arm, layer, target, options),
                preprocessing=loaded.spec.tokenizer_digest,
                target=target,
                model_fingerprint=loaded.spec.fingerprint,
                prompt_id=arm.wording.prompt_id,
                decoding=decoding,
            ),
        )
        for target, layer, alpha in grid
    )


def _unit_norm(arm: Arm, layer: int | None, target: str, options: EvalOptions) -> float | None:
    """What alpha counts in; None for raw strengths. Raises UsageError where it is not known."""
    if arm.vector is None or layer is None:
        return None
    if options.alpha_unit == "resid_norm":
        return resid_norm(arm.vector, layer)
    return options.norm_of(target, layer)
