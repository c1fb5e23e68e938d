"""Which vectors compete: the real ones, checked against the model, and controls that get the same selection."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from steercache.cache.handle import CacheFolder
from steercache.cache.vectors import list_vectors, with_model
from steercache.cells.arms import Arm
from steercache.cells.controls import (
    concept_controls,
    covariance_controls,
    random_controls,
    sae_controls,
    shuffled_controls,
)
from steercache.cells.options import EvalOptions
from steercache.core.errors import NotFoundError, SteercacheError, UsageError
from steercache.core.lineage import KnownModel, Lineage, lineage_of, why_not_own
from steercache.core.recorded_rows import rows_of
from steercache.core.selection import Selection
from steercache.core.trials import SAE_CONTROL_KINDS, ControlKind, SaeControlKind
from steercache.core.vectors import SteeringVector
from steercache.fit.recipes import fit_again
from steercache.fit.spread import RECIPE
from steercache.models.heads import heads_of
from steercache.models.spec import LoadedModel, ModelSpec
from steercache.queries.session import Session
from steercache.sae.again import recorded_saes
from steercache.sae.controls import LiveRows, control_direction, shuffled_direction
from steercache.sae.vector import METHOD as SAE_METHOD
from steercache.steering.places import check_site, place_of_site

Made = tuple[SteeringVector, ...]


def lineage(cache: CacheFolder, vector: SteeringVector, spec: ModelSpec) -> Lineage:
    """Where a vector was fitted, seen from the model: "own", its "backbone", "foreign", or "unknown"."""
    return lineage_of(with_model(cache, vector).fitted_on, spec)


def check_lineage(cache: CacheFolder, vector: SteeringVector, spec: KnownModel, *, allow_foreign: bool) -> Lineage:
    """A vector's lineage, if it was fitted on this model's weights or its backbone's.

    Raises:
        UsageError: it was fitted on others, or does not say on which, and that is not allowed.
    """
    fitted_on = with_model(cache, vector).fitted_on
    origin = lineage_of(fitted_on, spec)
    if origin in ("foreign", "unknown") and not allow_foreign:
        raise UsageError(
            f"the vector {vector.name!r} {why_not_own(fitted_on, spec)}",
            hint="fit it on a run of this model; or accept it with `allow_foreign`, which the result records",
        )
    return origin


def check_vector(cache: CacheFolder, vector: SteeringVector, loaded: LoadedModel, options: EvalOptions) -> Lineage:
    """The lineage of a vector, after checking that it can be added to this model.

    Raises:
        UsageError: another width, a layer that vector or model lacks, or a vector of other or unknown origin unasked.
    """
    spec = loaded.spec
    place = options.axes.place or place_of_site(vector.site)
    check_site(vector, place)
    width = spec.hidden_size if place != "head_out" else heads_of(loaded.config).joined
    if vector.hidden_size != width:
        where = "" if place != "head_out" else " at its heads"
        raise UsageError(
            f"the vector {vector.name!r} is {vector.hidden_size} wide and {spec.name} is {width}{where}",
            hint="fit it on a run of this model or of its backbone",
        )
    lacking = sorted(k for k in options.axes.layers if k not in vector.layers or not 0 <= k < spec.n_layers)
    if lacking:
        raise UsageError(
            f"no layer {', '.join(map(str, lacking))} in {vector.name!r} or {spec.name}",
            hint=f"the vector has {', '.join(map(str, vector.layers))}; the model 0 to {spec.n_layers - 1}",
        )
    return check_lineage(cache, vector, spec, allow_foreign=options.allow_foreign)


def by_methods(
    cache: CacheFolder, vectors: Sequence[SteeringVector], methods: Sequence[str]
) -> tuple[SteeringVector, ...]:
    """The vectors, and the newest ones of the same concept and run by each of `methods`.

    Raises:
        NotFoundError: a method has no vector of that concept and run.
    """
    found = {v.vector_id: v for v in vectors}
    stored = [one.vector for one in list_vectors(cache)]
    known = [vector for vector in stored if not _is_control(vector) and not _is_no_sibling(vector)]
    for vector in vectors:
        run_id = vector.provenance.get("run_id")
        alike = [v for v in known if v.concept == vector.concept and v.provenance.get("run_id") == run_id]
        for method in methods:
            newest = next((v for v in alike if v.method == method), None)
            if newest is None:
                has = ", ".join(sorted({v.method for v in alike})) or "none"
                raise NotFoundError(
                    f"no vector of {vector.concept!r} by {method!r}; there is: {has}",
                    hint="fit one by that method first",
                )
            found.setdefault(newest.vector_id, newest)
    return tuple(found.values())


def control_arms(session: Session, of: SteeringVector | Arm, options: EvalOptions) -> tuple[tuple[Arm, ...], list[str]]:
    """Controls of one vector, `options.controls.count` in all if they can be made, and a line for every kind that cannot.

    Kinds share the number; other concepts' vectors are as many as the cache holds, the rest is made up by the others.

    Of an arm of several vectors a control has, in place of each, a control of one kind that is drawn from a seed of its own,
    has its vector's norm at every layer, and is used at its layers, strengths, operations and targets; other concepts are none
    of the arm's.
    """
    if options.controls.count == 0:
        return (), []
    of = Arm(name=of.name, role="vector", vector=of) if isinstance(of, SteeringVector) else of
    vectors = {one.vector_id: one for one in of.vectors}
    concepts = frozenset(one.concept for one in vectors.values())
    makers = [
        _makers(session, one, replace(options, seed=options.seed + i), beside=concepts)
        for i, one in enumerate(vectors.values())
    ]
    made: dict[ControlKind, list[Made]] = {}
    notes: list[str] = []
    own = SAE_CONTROL_KINDS if all(one.method == SAE_METHOD for one in vectors.values()) else ()
    order: tuple[ControlKind, ...] = ("other_concept", "label_shuffled", *own, "covariance", "random")
    kinds = [kind for kind in order if kind in options.controls.kinds]
    for at, kind in enumerate(kinds):
        left = options.controls.count - sum(map(len, made.values()))
        share = -(-left // (len(kinds) - at))
        try:
            each = [makers_of[kind](share)[:share] for makers_of in makers] if share else []
            made[kind] = list(zip(*each, strict=False))  # as many as there are of every vector
        except SteercacheError as error:
            notes.append(f"{of.name}: no {kind.replace('_', ' ')} controls: {error.message}")
    arms = tuple(
        _control_arm(of, list(vectors.values()), some, kind=kind, index=k)
        for kind, several in made.items()
        for k, some in enumerate(several)
    )
    if len(arms) < options.controls.count:
        notes.append(f"{of.name}: {len(arms)} of {options.controls.count} controls could be made")
    return arms, notes


def _control_arm(of: Arm, vectors: Sequence[SteeringVector], controls: Made, *, kind: str, index: int) -> Arm:
    """The arm with controls in place of its vectors."""
    instead = {v.vector_id: _with_norms(c, v) for v, c in zip(vectors, controls, strict=True)}
    if of.vector is not None:
        vector = instead[of.vector.vector_id]
        return Arm(name=vector.name, role="control", vector=vector, of=of.vector_id, kind=kind)
    parts = tuple(replace(one, vector=instead[one.vector.vector_id]) for one in of.parts)
    return Arm(name=f"{of.name}~{kind}-{index}", role="control", parts=parts, of=of.vector_id, kind=kind)


def _makers(
    session: Session, vector: SteeringVector, options: EvalOptions, *, beside: frozenset[str | None]
) -> dict[str, Callable[[int], Made]]:
    """How to make so many controls of each kind; what needs the vector's rows selects them when it is called. No other concept
    is one of `beside`."""
    found: list[Selection] = []
    encoded: list[LiveRows] = []

    def rows() -> Selection:
        if not found:
            found.append(rows_of(vector, session))
        return found[0]

    def live() -> LiveRows:
        if not encoded:
            encoded.append(LiveRows(rows(), recorded_saes(vector), vector))
        return encoded[0]

    def others(count: int) -> Made:
        run_id = vector.provenance.get("run_id")
        newest: dict[str | None, SteeringVector] = {}
        for stored in list_vectors(session.cache):
            other = stored.vector
            same = (other.method, other.provenance.get("run_id"), other.hidden_size) == (
                vector.method,
                run_id,
                vector.hidden_size,
            )
            if same and not _is_control(other) and not _is_no_sibling(other) and {*vector.layers} <= {*other.layers}:
                newest.setdefault(other.concept, other)
        listed = [newest[c] for c in sorted(newest, key=str) if c == vector.concept or c not in beside]
        return concept_controls(vector, listed[: count + 1])

    def shuffled(count: int) -> Made:
        sel = rows()
        groups = _shuffled_within(sel)

        def refit(labels: npt.NDArray[np.int8]) -> SteeringVector:
            if vector.method == SAE_METHOD:
                return replace(vector, values=shuffled_direction(live(), labels).values)
            return fit_again(vector, replace(sel, label=labels))

        if sel.label is None:
            raise UsageError("its rows have no labels")
        return shuffled_controls(vector, sel.label, refit, groups=groups, count=count, seed=options.seed)

    def of_sae(kind: SaeControlKind) -> Callable[[int], Made]:
        def make(count: int) -> Made:
            made = [control_direction(live(), kind, seed=options.seed, index=k) for k in range(count)]
            return sae_controls(vector, kind, made, seed=options.seed)

        return make

    def spread(count: int) -> Made:
        sel = rows()
        return covariance_controls(vector, sel.gather, count=count, seed=options.seed)

    return {
        "other_concept": others,
        "label_shuffled": shuffled,
        "covariance": spread,
        "random": lambda count: random_controls(vector, count=count, seed=options.seed),
        **{kind: of_sae(kind) for kind in SAE_CONTROL_KINDS},
    }


def _shuffled_within(sel: Selection) -> npt.NDArray[Any] | None:
    """What labels may not leave: a pair, else a sentence, where those hold both labels; None for nothing."""
    label = np.asarray(sel.label)
    for groups in (sel.pair, sel.sample_idx):
        if groups is not None and any(np.ptp(label[groups == g]) for g in np.unique(groups)):
            return groups
    return None


def _with_norms(control: SteeringVector, vector: SteeringVector) -> SteeringVector:
    """A control with the row norms of the real vector's fit, so that a relative strength means the same for both."""
    norms = tuple({"layer": d["layer"], "resid_norm": d["resid_norm"]} for d in vector.diagnostics if "resid_norm" in d)
    return replace(control, diagnostics=norms)


def _is_no_sibling(vector: SteeringVector) -> bool:
    """Whether a vector was made by a paper's recipe, for a use of its own, or is one feature of an SAE and not their mean."""
    if RECIPE in vector.provenance:
        return True
    params = vector.provenance.get("params")
    return vector.method == SAE_METHOD and isinstance(params, dict) and params.get("feature") is not None


def _is_control(vector: SteeringVector) -> bool:
    return "control_kind" in vector.provenance
