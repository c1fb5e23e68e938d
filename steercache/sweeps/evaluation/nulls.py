"""The same search for null directions: what the best of a grid's cells is worth when the vector means nothing.

The best of many cells looks good whatever is tried. So null vectors matched to the real one (`cells.controls`) are given the
grid that it was given, layers x strengths x targets on the same samples, each takes its best cell by the same rule, and the
real winner's gain is placed among theirs: p = (1 + nulls that gained at least as much) / (1 + nulls). Under the null the
real vector is one more draw, so that p is valid for the whole search, however many cells it had and however they hang together.

A few nulls are run exactly; many are screened, where gradients of the answer margin are cached (`screening.nulls`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from steercache.benchmarks.comparison import RankedGain, rank_among
from steercache.benchmarks.task import EncodedQuestion
from steercache.cache.vectors import save_vector
from steercache.cells.arms import Arm, ArmCell, EvalOptions, settings_of
from steercache.cells.controls import ControlKind
from steercache.cells.vectors import control_arms
from steercache.core.trials import Cell
from steercache.core.vectors import SteeringVector
from steercache.models.spec import LoadedModel
from steercache.queries.session import Session
from steercache.sweeps.evaluation.table import Answers, ControlResult, best_setting, control_result

Search = Callable[
    [Sequence[ArmCell]], tuple[ArmCell, Answers]
]  # of one vector's cells the one it takes, and their answers
NULL_KINDS: Final[tuple[ControlKind, ...]] = ("covariance", "label_shuffled", "random")  # another concept is no null


@dataclass(frozen=True, slots=True, kw_only=True)
class NullRanking:
    """A cell's gain over the baseline, beside those of the null vectors' own cells on the same samples."""

    cell: Cell
    gain: float
    n: int
    n_failed: int
    nulls: tuple[ControlResult, ...]

    @property
    def p(self) -> float | None:
        """Share of the vector and its nulls that gained at least as much; None without nulls."""
        real = RankedGain(gain=self.gain, n=self.n, n_failed=self.n_failed)
        return rank_among(real, [null.ranked for null in self.nulls])


def rank_among_controls(
    winner: ArmCell, nulls: Sequence[ArmCell], baseline_id: str, asked: Sequence[EncodedQuestion], answers: Answers
) -> NullRanking:
    """A vector's setting beside one of each null, over the questions of a split.

    Raises:
        UsageError: one of them answered no question.
    """
    real = control_result(winner.arm, winner.cell, baseline_id, asked, answers)
    return NullRanking(
        cell=winner.cell,
        gain=real.gain,
        n=real.n,
        n_failed=real.n_failed,
        nulls=tuple(control_result(s.arm, s.cell, baseline_id, asked, answers) for s in nulls),
    )


def best_of(asked: Sequence[EncodedQuestion], answers: Answers) -> Search:
    """The exhaustive search over answers that are there: most right ones, of equals the smallest strength."""
    return lambda settings: (best_setting(settings, asked, answers), answers)


def search_nulls(
    real: Sequence[ArmCell],
    nulls: Sequence[Sequence[ArmCell]],
    baseline_id: str,
    asked: Sequence[EncodedQuestion],
    search: Search,
) -> NullRanking:
    """Search the vector's cells and those of every null in the same way, and place what the vector took."""
    found = [search(settings) for settings in (real, *nulls)]
    tables = {id(some): some for _, some in found}  # most often one and the same
    answers = {key: answer for some in tables.values() for key, answer in some.items()}
    winner, *others = (setting for setting, _ in found)
    return rank_among_controls(winner, others, baseline_id, asked, answers)


def null_arms(
    session: Session, vector: SteeringVector, options: EvalOptions
) -> tuple[tuple[Arm, ...], tuple[str, ...]]:
    """`options.controls` null vectors of the kinds asked for, kept in the cache, and a line for what could not be made."""
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
