"""What is tried: arms (a baseline, a wording, a vector, several together, a control), each with the settings open to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from steercache.benchmarks.task import PLAIN, Wording
from steercache.cells.options import EvalOptions, KlPlace
from steercache.core.operations import read_operation
from steercache.core.trials import AlphaUnit, Cell, CellPart, Role, Target, combination_id, combined_cell
from steercache.core.vector_use import PlaceName
from steercache.core.vectors import SteeringVector
from steercache.models.ends import end_ids
from steercache.models.spec import LoadedModel
from steercache.queries.token_clause import TokenClause
from steercache.steering.add import resid_norm
from steercache.steering.cells import BranchCell, BranchPart, combined
from steercache.steering.operations.change import Change, added, change_of
from steercache.steering.places import IN_ORDER, block_below, check_place


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmPart:
    """One vector of an arm that has several, with its setting; `clause` is a target that is SQL."""

    vector: SteeringVector = field(repr=False)
    layer: int
    alpha: float
    alpha_unit: AlphaUnit = "raw"
    operation: str = "add"
    target: Target | str = "image"
    clause: TokenClause | None = field(default=None, repr=False)
    place: PlaceName = "resid_post"

    def cell_part(self, unit_norm: float | None = None) -> CellPart:
        """What of it decides answers."""
        return CellPart(
            vector_id=self.vector.vector_id,
            layer=self.layer,
            alpha=float(self.alpha),
            target=self.target,
            alpha_unit=self.alpha_unit,
            unit_norm=unit_norm,
            operation=self.operation,
            site=self.place,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One competitor: a vector with the settings open to it, several vectors together, or a wording without a vector.

    `parts` are those several, lowest layer first; their one cell is the only setting. `of` is the id of the real arm that a
    control belongs to.
    """

    name: str
    role: Role
    vector: SteeringVector | None = field(default=None, repr=False)
    wording: Wording = PLAIN
    of: str | None = None
    kind: str | None = None
    parts: tuple[ArmPart, ...] = ()

    def __post_init__(self) -> None:
        in_order = sorted(self.parts, key=lambda one: (one.layer, IN_ORDER.index(one.place)))
        object.__setattr__(self, "parts", tuple(in_order))

    @property
    def steers(self) -> bool:
        """Whether it has a vector."""
        return self.vector is not None or bool(self.parts)

    @property
    def vectors(self) -> tuple[SteeringVector, ...]:
        """Its vectors: of several parts those of each."""
        return tuple(one.vector for one in self.parts) if self.vector is None else (self.vector,)

    @property
    def vector_id(self) -> str | None:
        """The id of its vector, or of the combination; None without a vector."""
        if self.parts:
            return combination_id([one.cell_part() for one in self.parts])
        return None if self.vector is None else self.vector.vector_id

    @property
    def method(self) -> str | None:
        """How its vector was made; None without one."""
        return "combination" if self.parts else None if self.vector is None else self.vector.method

    @property
    def concept(self) -> str | None:
        """What its vectors are about; None where nothing says it."""
        return " + ".join(dict.fromkeys(one.concept for one in self.vectors if one.concept)) or None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmCell:
    """One arm at one layer, strength and target, which is `clause` where it is SQL; the baseline's `cell` has no vector.

    Of an arm with parts, the parts at their settings.
    """

    arm: Arm
    cell: Cell
    clause: TokenClause | None = field(default=None, repr=False)

    @property
    def parts(self) -> tuple[CellPart, ...]:
        """What is done, part by part; () without a vector."""
        return parts_of_cell(self.cell)

    @property
    def below(self) -> int | None:
        """The block from whose output it is computed, -1 for the input of block 0; None without a vector."""
        return min((block_below(check_place(one.site), one.layer) for one in self.parts), default=None)

    @property
    def clauses(self) -> Mapping[str, TokenClause]:
        """Its targets that are SQL, by their text."""
        some = [one.clause for one in self.arm.parts] if self.arm.parts else [self.clause]
        return {str(one): one for one in some if one is not None}

    def branch_cell(self, key: str, hidden_size: int) -> BranchCell:
        """What `steer.branch` runs; without a vector nothing is added."""
        if self.arm.parts:
            return combined(key, [self._part(of, at) for of, at in zip(self.arm.parts, self.parts, strict=True)])
        change = self.change(hidden_size)
        target = self.cell.target if self.clause is None else self.clause
        place = check_place(self.cell.site)
        layer = self.cell.layer or 0
        return BranchCell(key=key, layer=layer, delta_d=change.delta_d, target=target, change=change, place=place)

    def delta(self, hidden_size: int) -> npt.NDArray[np.float32]:
        """What is added, shape (d,), float32; of another operation its direction (`Change.delta_d`)."""
        return self.change(hidden_size).delta_d

    def _part(self, of: ArmPart, at: CellPart) -> BranchPart:
        change = change_of(
            of.vector,
            of.layer,
            alpha=of.alpha,
            alpha_unit=of.alpha_unit,
            row_norm=at.unit_norm,
            operation=read_operation(of.operation),
        )
        target = of.target if of.clause is None else of.clause
        return BranchPart(layer=of.layer, what=change, target=target, place=of.place)

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
    """Every setting open to an arm, in the order of preference among equals: strength aside, the lowest layer first. Of several
    vectors together there is one."""
    if arm.parts:
        plain = settings_of(Arm(name=arm.name, role=arm.role, wording=arm.wording), loaded, options)[0].cell
        parts = [one.cell_part(_part_norm(one, options)) for one in arm.parts]
        return (ArmCell(arm=arm, cell=combined_cell(parts, plain)),)
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
                site=options.axes.site if arm.vector is not None else "resid_post",
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
    axes = options.axes
    part = ArmPart(
        vector=arm.vector,
        layer=layer,
        alpha=alpha,
        alpha_unit=axes.alpha_unit,
        operation=axes.operation,
        target=target,
        place=axes.site,
    )
    return _part_norm(part, options)


def _part_norm(part: ArmPart, options: EvalOptions) -> float | None:
    if part.alpha_unit == "resid_norm":
        return resid_norm(part.vector, part.layer)
    if part.alpha_unit == "kl":
        place = KlPlace(part.vector.vector_id, part.layer, part.target, part.alpha, part.operation, part.place)
        return options.axes.per_nat(place)
    return options.axes.norm_of(part.target, part.layer) if part.alpha_unit == "target_norm" else None


def parts_of_cell(cell: Cell) -> tuple[CellPart, ...]:
    """What is done in a cell, part by part; a plain cell is one part, () without a vector."""
    if cell.parts or cell.vector_id is None or cell.layer is None:
        return cell.parts
    return (
        CellPart(
            vector_id=cell.vector_id,
            layer=cell.layer,
            alpha=cell.alpha,
            target=cell.target,
            alpha_unit=cell.alpha_unit,
            unit_norm=cell.unit_norm,
            site=cell.site,
            operation=cell.operation,
        ),
    )
