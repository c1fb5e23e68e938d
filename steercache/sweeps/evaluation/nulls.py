"""The same search for null directions: what the best of a grid's cells is worth when the vector means nothing.

The best of many cells looks good whatever is tried. So null vectors matched to the real one (`cells.controls`) are given the
grid that it was given, layers x strengths x targets on the same samples, each takes its best cell by the same rule, and the
real winner's gain is placed among theirs: p = (1 + nulls that gained at least as much) / (1 + nulls). Under the null the
real vector is one more draw, so that p is valid for the whole search, however many cells it had and however they hang together.

A few nulls are run exactly; many are screened, where gradients of the answer margin are cached (`screening.nulls`).
"""

from steercache.cache.vectors import save_vector
from steercache.cells.arms import Arm, ArmCell, EvalOptions, settings_of
from steercache.cells.vectors import control_arms
from steercache.core.vectors import SteeringVector
from steercache.models.spec import LoadedModel
from steercache.queries.session import Session


def null_arms(
    session: Session, vector: SteeringVector, options: EvalOptions
) -> tuple[tuple[Arm, ...], tuple[str, ...]]:
    """`options.controls` null vectors of the given kinds, stored in the cache, and notes on those that could not be made."""
    arms, notes = control_arms(session, vector, options)
    for arm in arms:
        assert arm.vector is not None
        save_vector(session.cache, arm.vector)
    return arms, tuple(notes)


def null_settings(
    session: Session, loaded: LoadedModel, vector: SteeringVector, options: EvalOptions
) -> tuple[tuple[tuple[ArmCell, ...], ...], tuple[str, ...]]:
    """The grid of `options` for every null of a vector, to be run on the samples that the vector was run on."""
    arms, notes = null_arms(session, vector, options)
    return tuple(settings_of(arm, loaded, options) for arm in arms), notes
