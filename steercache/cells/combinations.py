"""Several vectors at once: the combinations of a sweep or of an evaluation as arms, their checks, and their parts alone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, groupby
from types import MappingProxyType
from typing import Final

from steercache.cache.handle import CacheFolder
from steercache.cells.arms import Arm, ArmPart
from steercache.cells.options import EvalOptions, GridAxes
from steercache.cells.vectors import check_vector
from steercache.core.errors import UsageError
from steercache.core.lineage import Lineage
from steercache.core.operations import IN_UNITS, Operation, operation_text, read_operation
from steercache.core.trials import AlphaUnit
from steercache.core.vector_use import PlaceName
from steercache.core.vectors import SteeringVector
from steercache.index.clause import is_clause
from steercache.manifests.sweep import CombinedVector, SweepManifest
from steercache.models.spec import LoadedModel
from steercache.queries.session import Session
from steercache.queries.token_clause import canonical_target, read_token_clause, target_text
from steercache.steering.places import check_place, place_of_site
from steercache.steering.targets import TargetLike

_WORST: Final[tuple[Lineage, ...]] = ("own", "backbone", "unknown", "foreign")


@dataclass(frozen=True, slots=True, kw_only=True)
class Steering:
    """One member: a vector, shape (d,) at `layer`, its strength, operation, target and place, as `steercache.steer` takes
    them."""

    vector: SteeringVector = field(repr=False)
    layer: int
    alpha: float
    alpha_unit: AlphaUnit = "raw"
    operation: Operation | str = "add"
    target: TargetLike = "all"
    name: str = ""
    place: PlaceName | None = None

    @property
    def label(self) -> str:
        """What it is called in the table."""
        return self.name or f"{self.vector.name}@{self.layer}"


Combinations = Mapping[str, Sequence[Steering]]  # by name, what is done together
NO_COMBINATIONS: Final[Combinations] = MappingProxyType({})


def combination_arms(session: Session, wanted: Combinations, *, taken: Sequence[str] = ()) -> tuple[Arm, ...]:
    """Arms of several vectors each, by their names; `taken` are names of other arms.

    Raises:
        UsageError: a combination without parts, a strength of 0, a target that is no name and no SQL, or a name that is taken.
    """
    arms = []
    for name, parts in wanted.items():
        if not parts:
            raise UsageError(f"the combination {name!r} has no parts", hint="give it a list of Steering(...)")
        arms.append(Arm(name=name, role="vector", parts=tuple(_part(session, name, one) for one in parts)))
    return _named_once(arms, taken)


def sweep_combinations(
    session: Session, sweep: SweepManifest, vectors: Sequence[SteeringVector], *, taken: Sequence[str] = ()
) -> tuple[Arm, ...]:
    """The combinations of a sweep as arms, in order, then parts alone and pairs of those that ask for `interference`.

    Raises:
        NotFoundError: a part names a vector that the cache does not have.
        UsageError: none of the sweep's `vectors` is of the concept and method that a part names, or several are; as
            `combination_arms`.
    """
    wholes: list[Arm] = []
    for one in sweep.combinations:
        parts = []
        for number, part in enumerate(map(sweep.whole_part, one.parts), start=1):
            assert part.layer is not None  # as validated
            assert part.alpha is not None
            assert part.target is not None
            target = part.target if isinstance(part.target, str) else target_text(part.target.where, part.target.weight)
            steering = Steering(
                vector=_vector(session, sweep, f"part {number} of {one.name}", part, vectors),
                layer=part.layer,
                alpha=part.alpha,
                alpha_unit=part.alpha_unit or "raw",
                operation=part.operation or "add",
                target=target,
                place=part.place or sweep.place,
            )
            parts.append(_part(session, one.name, steering))
        wholes.append(Arm(name=one.name, role="vector", parts=tuple(parts)))
    found: dict[str | None, Arm] = {}
    for arm in wholes:
        if arm.vector_id in found:
            raise UsageError(f"{found[arm.vector_id].name} and {arm.name} are the same", place=sweep.name)
        found[arm.vector_id] = arm
    for arm, one in zip(wholes, sweep.combinations, strict=True):
        for subset in _subsets(arm) if one.interference else ():
            found.setdefault(subset.vector_id, subset)
    return _named_once(list(found.values()), taken)


def check_combination(cache: CacheFolder, arm: Arm, loaded: LoadedModel, options: EvalOptions) -> Lineage:
    """The lineage of an arm of several vectors, that of the part that is furthest from the model.

    Raises:
        UsageError: as `check_vector`, of every part at its layer; a unit that its operation does not have.
    """
    found = []
    for one in arm.parts:
        axes = GridAxes(
            layers=(one.layer,),
            alphas=(one.alpha,),
            alpha_unit=one.alpha_unit,
            operation=one.operation,
            place=one.place,
        )
        if one.alpha_unit == "target_norm" and one.place != options.axes.site:
            raise UsageError(
                f"norms of the rows that are steered are measured at {options.axes.site}, and a part of {arm.name} is at"
                f" {one.place}",
                hint="give this part another unit, or run it in a sweep at its place",
            )
        found.append(check_vector(cache, one.vector, loaded, replace(options, axes=axes)))
    return max(found, key=_WORST.index)


def with_parts(options: EvalOptions, arms: Sequence[Arm]) -> EvalOptions:
    """Options whose axes know the SQL targets and the units of what these arms combine."""
    clauses = {str(one.clause): one.clause for arm in arms for one in arm.parts if one.clause is not None}
    units = frozenset(one.alpha_unit for arm in arms for one in arm.parts)
    if not units:
        return options
    axes = options.axes
    known = MappingProxyType({**axes.clauses, **clauses})
    return replace(options, axes=replace(axes, clauses=known, part_units=axes.part_units | units))


def targets_of_parts(arms: Sequence[Arm]) -> tuple[str, ...]:
    """Every target of a part, each once."""
    return tuple(dict.fromkeys(one.target for arm in arms for one in arm.parts))


def notes_on_order(arms: Sequence[Arm]) -> tuple[str, ...]:
    """A line for every combination in which the order of parts matters: several at one layer, not all of which add."""
    lines = []
    for arm in arms:
        for layer, some in groupby(arm.parts, key=lambda one: one.layer):
            acts = list(some)
            if len(acts) > 1 and any(one.operation != "add" for one in acts):
                named = ", then ".join(f"{one.operation} {one.vector.name}" for one in acts)
                lines.append(f"{arm.name}: at layer {layer} the parts act in the order listed: {named}")
    return tuple(lines)


def part_labels(parts: Sequence[ArmPart]) -> tuple[str, ...]:
    """What parts are called in a table: the vector and its layer, with what else differs where two are alike in these."""
    short = [f"{one.vector.name}@{one.layer}" for one in parts]
    longer = [
        f"{name} {one.alpha:g} {one.alpha_unit} {one.operation} {one.target} {one.place}"
        for name, one in zip(short, parts, strict=True)
    ]
    return tuple(name if short.count(name) == 1 else more for name, more in zip(short, longer, strict=True))


def _subsets(whole: Arm) -> Iterator[Arm]:
    """Every part alone and every pair."""
    labels = part_labels(whole.parts)
    for n in (1, 2):
        if n >= len(whole.parts):
            continue
        for some in combinations(range(len(whole.parts)), n):
            name = f"{whole.name}: {' + '.join(labels[i] for i in some)}"
            yield Arm(name=name, role="vector", parts=tuple(whole.parts[i] for i in some))


def _part(session: Session, name: str, one: Steering) -> ArmPart:
    if one.alpha == 0:
        raise UsageError(f"a part of {name} has the strength 0, which does nothing", hint="leave the part out")
    if not isinstance(one.target, str):
        raise UsageError(
            f"a target of the combination {name} is neither a name nor SQL",
            hint="image, text, both, all, last, or SQL such as \"sql: kind = 'image'\"",
        )
    clause = read_token_clause(one.target, session.vector) if is_clause(one.target) else None
    operation = read_operation(one.operation)
    if one.alpha_unit not in ("raw", "kl") and operation.name not in IN_UNITS:
        raise UsageError(
            f"the strength of {operation.name} has no unit {one.alpha_unit}",
            place=name,
            hint="give this part the unit raw",
        )
    return ArmPart(
        vector=one.vector,
        layer=int(one.layer),
        alpha=float(one.alpha),
        alpha_unit=one.alpha_unit,
        operation=operation_text(operation),
        target=canonical_target(one.target) if clause is None else str(clause),
        clause=clause,
        place=check_place(one.place or place_of_site(one.vector.site)),
    )


def _vector(
    session: Session, sweep: SweepManifest, place: str, part: CombinedVector, vectors: Sequence[SteeringVector]
) -> SteeringVector:
    """The vector of a part: by its name in the cache, or by concept and method among the sweep's."""
    if part.vector is not None:
        return session.vector(part.vector)
    alike = [v for v in vectors if v.concept == part.concept and part.method in (None, v.method)]
    if len(alike) != 1:
        by = "" if part.method is None else f" by {part.method}"
        raise UsageError(
            f"{len(alike)} vectors of the sweep are of {part.concept}{by}",
            place=f"{sweep.name}: {place}",
            hint="name its `method`, or the `vector` itself"
            if alike
            else f"the sweep has: {', '.join(v.name for v in vectors) or 'none'}",
        )
    return alike[0]


def _named_once(arms: Sequence[Arm], taken: Sequence[str]) -> tuple[Arm, ...]:
    names = [*taken, *(arm.name for arm in arms)]
    twice = sorted({arm.name for arm in arms if names.count(arm.name) > 1})
    if twice:
        raise UsageError(
            f"two competitors are called {', '.join(twice)}", hint="give the combination a name of its own"
        )
    return tuple(arms)
