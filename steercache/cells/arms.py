"""What is tried: arms (a baseline, a wording, a vector, a control), each with the settings it may choose among."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from steercache.benchmarks.task import PLAIN, Wording
from steercache.cells.options import EvalOptions, KlPlace
from steercache.core.operations import read_operation
from steercache.core.trials import Cell, Role, Target
from steercache.core.vectors import SteeringVector
from steercache.models.ends import end_ids
from steercache.models.spec import LoadedModel
from steercache.queries.token_clause import TokenClause
from steercache.steering.add import resid_norm
from steercache.steering.cells import BranchCell
from steercache.steering.operations.change import Change, added, change_of


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
    """One arm at one layer, strength and target, which is `clause` where it is SQL; the baseline's `cell` has no vector."""

    arm: Arm
    cell: Cell
    clause: TokenClause | None = field(default=None, repr=False)

    def branch_cell(self, key: str, hidden_size: int) -> BranchCell:
        """What `steer.branch` runs; without a vector nothing is added."""
        change = self.change(hidden_size)
        target = self.cell.target if self.clause is None else self.clause
        return BranchCell(key=key, layer=self.cell.layer or 0, delta_d=change.delta_d, target=target, change=change)

    def delta(self, hidden_size: int) -> npt.NDArray[np.float32]:
        """What is added, shape (d,), float32; of another operation its direction (`Change.delta_d`)."""
        return self.change(hidden_size).delta_d

    def change(self, hidden_size: int) -> Change:
        """What is done to the hidden states, (d,) wide."""
        vector, layer, cell = self.arm.vector, self.cell.layer, self.cell
        if vector is None or layer is None:
            return added(np.zeros(hidden_size, dtype=np.float32))
        return change_of(
            vector,
            layer,
            alpha=cell.alpha,
            alpha_unit=cell.alpha_unit,
            row_norm=cell.unit_norm,
            operation=read_operation(cell.operation),
        )


def settings_of(arm: Arm, loaded: LoadedModel, options: EvalOptions) -> tuple[ArmCell, ...]:
    """Every setting open to an arm, in the order of preference among equals: strength aside, the lowest layer first."""
    grid: Sequence[tuple[Target | str, int | None, float]] = [("all", None, 0.0)]
    vector_id = None
    if arm.vector is not None:
        axes = options.axes
        grid = [(t, layer, a) for t in axes.targets for layer in axes.layers for a in axes.alphas]
        vector_id = arm.vector.vector_id
    decoding: dict[str, Any] = options.decoding.identity | {"dtype": loaded.spec.dtype, "ends": sorted(end_ids(loaded))}
    return tuple(
        ArmCell(
            arm=arm,
            cell=Cell(
                vector_id=vector_id,
                layer=layer,
                alpha=alpha,
                alpha_unit=options.axes.alpha_unit if arm.vector is not None else "raw",
                unit_norm=_unit_norm(arm, layer, target, alpha, options),
                operation=options.axes.operation if arm.vector is not None else "add",
                preprocessing=loaded.spec.tokenizer_digest,
                target=target,
                model_fingerprint=loaded.spec.fingerprint,
                prompt_id=arm.wording.prompt_id,
                decoding=decoding,
            ),
            clause=options.axes.clauses.get(target),
        )
        for target, layer, alpha in grid
    )


def _unit_norm(arm: Arm, layer: int | None, target: str, alpha: float, options: EvalOptions) -> float | None:
    """What alpha counts in; None for raw strengths. Raises UsageError where it is not known."""
    if arm.vector is None or layer is None:
        return None
    if options.axes.alpha_unit == "resid_norm":
        return resid_norm(arm.vector, layer)
    if options.axes.alpha_unit == "kl":
        return options.axes.per_nat(KlPlace(arm.vector.vector_id, layer, target, alpha))
    return options.axes.norm_of(target, layer)
