"""Operations: what steering does to a hidden state h with a vector v at strength a.

In the formulas u is v at length 1 (of a subspace, each vector u_i of an orthonormal basis) and c = h . u. Strength 0 is the
unsteered model in every operation, bit for bit. Every value writes itself as text and is read from it: `clamp:value=2`.
"""

import math
from dataclasses import dataclass, fields
from typing import ClassVar, Final, get_args

from steercache.core.errors import UsageError
from steercache.core.vector_use import OperationName


@dataclass(frozen=True, slots=True, kw_only=True)
class Add:
    """h' = h + a v."""

    name: ClassVar[OperationName] = "add"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectOut:
    """h' = h - a c u, over a subspace h - a sum_i c_i u_i: directional ablation, whole at a = 1."""

    name: ClassVar[OperationName] = "project_out"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectCap:
    """h' = h + a (min(c, bound) - c) u: a component beyond `bound` is brought down to it at a = 1."""

    name: ClassVar[OperationName] = "project_cap"
    bound: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Clamp:
    """h' = h + a (value - c) u: the component is set to `value` at a = 1."""

    name: ClassVar[OperationName] = "clamp"
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Replace:
    """h' = (1 - a) h + a v: the vector stands in the hidden state's place at a = 1."""

    name: ClassVar[OperationName] = "replace"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotate:
    """h' = h turned towards u by a degrees in the plane of h and u; |h'| = |h|.

    With s = |h - c u|: h' = (c cos a + s sin a) u + (cos a - (c / s) sin a) (h - c u). A hidden state along u stays.
    """

    name: ClassVar[OperationName] = "rotate"


@dataclass(frozen=True, slots=True, kw_only=True)
class RotateInPlane:
    """h' = h - p + |p| (cos t u1 + sin t u2) at a = 1, p = c1 u1 + c2 u2: the part of h in a fixed plane, turned to `angle` t.

    Angular steering (arXiv 2510.26243). t counts in degrees from u1 to u2, the plane's orthonormal basis: of two vectors, the
    first and what the second adds; of one vector, as `steering.operations.plane` finds it. At other strengths p turns by the
    share a of its way to t, the shorter one. |h'| = |h|, and what is not in the plane stays.
    """

    name: ClassVar[OperationName] = "rotate_in_plane"
    angle: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RotateInPlaneAdaptive:
    """`RotateInPlane` where c1 = h . u1 is above 0; every other h stays (adaptive angular steering)."""

    name: ClassVar[OperationName] = "rotate_in_plane_adaptive"
    angle: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AddPreservingNorm:
    """h' = (h + a v) |h| / |h + a v|."""

    name: ClassVar[OperationName] = "add_preserving_norm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Affine:
    """h' = h + a (scale c + offset - c) u: the component becomes scale c + offset at a = 1."""

    name: ClassVar[OperationName] = "affine"
    scale: float
    offset: float


Operation = (
    Add
    | ProjectOut
    | ProjectCap
    | Clamp
    | Replace
    | Rotate
    | RotateInPlane
    | RotateInPlaneAdaptive
    | AddPreservingNorm
    | Affine
)
ADD: Final = Add()
KINDS: Final[dict[str, type[Operation]]] = {kind.name: kind for kind in get_args(Operation)}
OF_SUBSPACES: Final = ("project_out", "project_cap", "clamp", "affine")
OF_PLANES: Final = ("rotate_in_plane", "rotate_in_plane_adaptive")
OF_SHARES: Final = (*OF_SUBSPACES, *OF_PLANES, "replace")  # strength 1 is the whole operation
IN_UNITS: Final = ("add", "replace", "add_preserving_norm", "project_cap", "clamp", "affine")


def largest_strength(operation: Operation) -> float | None:
    """The strength beyond which nothing more is done; None: strengths have no end."""
    if operation.name in OF_SHARES:
        return 1.0
    return 180.0 if operation.name == "rotate" else None


def operation_text(operation: Operation) -> str:
    """An operation as text; the same operation always has the same.

    >>> operation_text(Affine(scale=0.5, offset=2)), operation_text(ADD)
    ('affine:scale=0.5,offset=2.0', 'add')
    """
    numbers = ",".join(f"{one.name}={float(getattr(operation, one.name))!r}" for one in fields(operation))
    return f"{operation.name}:{numbers}" if numbers else operation.name


def read_operation(text: "str | Operation") -> Operation:
    """An operation from its text.

    >>> read_operation("clamp:value=2")
    Clamp(value=2.0)

    Raises:
        UsageError: an unknown operation, or a number that it lacks, does not have, or that is not finite.
    """
    if not isinstance(text, str):
        if not isinstance(text, get_args(Operation)):
            raise UsageError(f"{text!r} is no operation", hint=f"choose one of: {', '.join(KINDS)}")
        return read_operation(operation_text(text))
    name, _, rest = text.strip().partition(":")
    if name not in KINDS:
        raise UsageError(f"no operation named {name!r}", hint=f"choose one of: {', '.join(KINDS)}")
    wanted = [one.name for one in fields(KINDS[name])]
    pairs = [part.partition("=") for part in rest.split(",")] if rest else []
    if [key.strip() for key, _, _ in pairs] != wanted and sorted(key.strip() for key, _, _ in pairs) != sorted(wanted):
        form = f"{name}:{','.join(f'{one}=NUMBER' for one in wanted)}" if wanted else name
        raise UsageError(f"cannot read the operation {text!r}", hint=f"write it as {form}")
    try:
        numbers = {key.strip(): float(value) for key, _, value in pairs}
    except ValueError:
        raise UsageError(f"a number of the operation {text!r} is none") from None
    if not all(math.isfinite(number) for number in numbers.values()):
        raise UsageError(f"the numbers of {text!r} must be finite")
    return KINDS[name](**numbers)
