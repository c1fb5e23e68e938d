"""An operation at one layer with everything resolved: directions, strength and numbers, as they are applied."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from steercache.core.errors import UsageError
from steercache.core.operations import (
    ADD,
    IN_UNITS,
    OF_PLANES,
    OF_SUBSPACES,
    Affine,
    Clamp,
    Operation,
    ProjectCap,
    RotateInPlane,
    RotateInPlaneAdaptive,
)
from steercache.core.trials import AlphaUnit
from steercache.core.vector_use import OperationName
from steercache.core.vectors import SteeringVector
from steercache.steering.add import delta_of, direction_at, resid_norm
from steercache.steering.operations.plane import own_plane

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Change:
    """What is done to a hidden state: `rows_kd` (k, d) are what is added or put in its place, or an orthonormal basis.

    `strength` and `numbers` (two, 0 where the operation has fewer) enter the formulas of `core.operations`; rotations have the
    cosine and sine of their angle there.
    """

    name: OperationName
    rows_kd: Float32Array = field(repr=False)
    strength: float = 1.0
    numbers: tuple[float, float] = (0.0, 0.0)

    @property
    def kind(self) -> str:
        """Changes of one kind can be applied side by side."""
        return f"{self.name} {len(self.rows_kd)}"

    @property
    def moves(self) -> bool:
        """Whether it can move anything: the others are never run."""
        return self.strength != 0 and (self.name != "add" or bool(self.rows_kd.any()))

    @property
    def delta_d(self) -> Float32Array:
        """A vector (d,) of zeros exactly where nothing can move, as long as what is put into a hidden state."""
        by = 1.0 if self.moves else 0.0
        if self.moves and self.name in ("clamp", "affine") and self.numbers[1]:
            by = self.numbers[1]
        delta: Float32Array = np.float32(by) * self.rows_kd[0]
        return delta


def added(delta_d: Float32Array) -> Change:
    """The change that adds `delta_d`."""
    return Change(name="add", rows_kd=delta_d[None])


def change_of(
    vectors: SteeringVector | Sequence[SteeringVector],
    layer: int,
    *,
    alpha: float,
    alpha_unit: AlphaUnit = "raw",
    row_norm: float | None = None,
    operation: Operation = ADD,
) -> Change:
    """What an operation does at `layer`; several vectors are the subspace that they span. Of the operations in a plane two
    vectors span it, and one has a plane of its own, the same at all its layers.

    Where `alpha_unit` is not "raw", the vector that is added or put in place, and the numbers `bound`, `value` and `offset`,
    count in median row norms, as in `add.delta_of`; the strength of `project_out` is a share and that of `rotate` an angle. In
    the unit "kl" the strength is alpha times `row_norm`, in raw units.

    Raises:
        UsageError: as `add.delta_of`; a unit or several vectors for an operation that has none; vectors that span less than
            their number.
    """
    several = [vectors] if isinstance(vectors, SteeringVector) else list(vectors)
    name = operation.name
    if name in OF_PLANES and len(several) not in (1, 2):
        raise UsageError(f"{name} turns in a plane, and {len(several)} vectors span none", hint="one vector, or two")
    if len(several) != 1 and (name not in (*OF_SUBSPACES, *OF_PLANES) or not several):
        raise UsageError(f"{name} takes one vector", hint=f"of subspaces there are: {', '.join(OF_SUBSPACES)}")
    if alpha_unit == "kl":
        if row_norm is None:
            raise UsageError(
                "the strength at a given KL is found on unrelated prompts, which was not done here",
                hint="grid, eval and Cache.strength_at_kl find it; give alpha in raw units",
            )
        alpha, alpha_unit, row_norm = alpha * row_norm, "raw", None
    if name == "add":
        return added(delta_of(several[0], layer, alpha=alpha, alpha_unit=alpha_unit, row_norm=row_norm))
    if isinstance(alpha, bool) or not math.isfinite(alpha):
        raise UsageError(f"alpha must be a finite number, not {alpha!r}")
    if alpha_unit != "raw" and name not in IN_UNITS:
        what = "degrees" if name == "rotate" else "a share of the component"
        raise UsageError(f"the strength of {name} is {what} and has no other unit", hint="the unit raw")
    if name in ("replace", "add_preserving_norm"):
        by = alpha if name == "add_preserving_norm" else 1.0
        rows = delta_of(several[0], layer, alpha=by, alpha_unit=alpha_unit, row_norm=row_norm)[None]
        return Change(name=name, rows_kd=rows, strength=0.0 if alpha == 0 else alpha)
    if name in OF_PLANES and len(several) == 1:
        direction_at(several[0], layer)  # which says that it has this layer
        basis_kd = own_plane(several[0])
    else:
        basis_kd = basis_of(several, layer)
    unit = 1.0 if alpha_unit == "raw" else row_norm
    if unit is None:
        if alpha_unit != "resid_norm":
            delta_of(several[0], layer, alpha=1.0, alpha_unit=alpha_unit)  # which says why it cannot be
        unit = resid_norm(several[0], layer)
    numbers = (0.0, 0.0)
    if isinstance(operation, ProjectCap):
        numbers = (0.0, operation.bound * unit)
    elif isinstance(operation, Clamp):
        numbers = (0.0, operation.value * unit)
    elif isinstance(operation, Affine):
        numbers = (operation.scale, operation.offset * unit)
    elif name == "rotate":
        numbers = (math.cos(math.radians(alpha)), math.sin(math.radians(alpha)))
    elif isinstance(operation, RotateInPlane | RotateInPlaneAdaptive):
        numbers = (math.cos(math.radians(operation.angle)), math.sin(math.radians(operation.angle)))
    if not all(abs(number) <= float(np.finfo(np.float32).max) for number in (*numbers, alpha)):
        raise UsageError(f"the numbers of {name} overflow float32")
    return Change(name=name, rows_kd=basis_kd, strength=float(alpha), numbers=numbers)


def basis_of(vectors: Sequence[SteeringVector], layer: int) -> Float32Array:
    """An orthonormal basis (k, d) of what the vectors span, by Gram-Schmidt in float64 in their order.

    Raises:
        UsageError: a vector of zeros, of another width, or (nearly) in the span of those before it.
    """
    found: list[npt.NDArray[np.float64]] = []
    for vector in vectors:
        given = direction_at(vector, layer).astype(np.float64)
        if found and given.shape != found[0].shape:
            raise UsageError(f"the vector {vector.name!r} is {len(given)} wide and the first {len(found[0])}")
        rest = given.copy()
        for _ in range(2):  # the second pass takes away what rounding left
            for one in found:
                rest -= (rest @ one) * one
        norm, whole = float(np.linalg.norm(rest)), float(np.linalg.norm(given))
        if not norm > 1e-6 * whole:
            why = "is zero" if whole == 0 else "lies in the span of those before it"
            raise UsageError(f"the vector {vector.name!r} {why} at layer {layer}")
        found.append(rest / norm)
    return np.stack(found).astype(np.float32)
