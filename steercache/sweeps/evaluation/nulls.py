"""The same search for null directions: what the best of a grid's cells is worth when the vector means nothing.

The best of many cells looks good whatever is tried. So null vectors matched to the real one (evals.controls) are given the
grid that it was given, layers x strengths x targets on the same samples, each takes its best cell by the same rule, and the
real winner's gain is placed among theirs: p = (1 + nulls that gained at least as much) / (1 + nulls). Under the null the
real vector is one more draw, so that p is valid for the whole search, however many cells it had and however they hang together.

A few nulls are run exactly; many are screened, where gradients of the answer margin are cached (`screen_nulls`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from steercache.benchmarks.task import Asked
from steercache.cache.vectors import save_vector
from steercache.cells.arms import Arm, EvalOptions, Setting, settings_of
from steercache.cells.controls import ControlKind
from steercache.cells.vectors import control_arms
from steercache.core.errors import UsageError
from steercache.core.trials import AlphaUnit, Cell
from steercache.core.vectors import SteeringVector
from steercache.models.spec import LoadedModel
from steercache.queries.session import Session
from steercache.stats.paired import rank_p
from steercache.steering.add import delta_of
from steercache.steering.screen import Screen, mean_shifts, null_ranks
from steercache.sweeps.evaluation.table import Answers, ControlResult, best_setting, control_result

Search = Callable[
    [Sequence[Setting]], tuple[Setting, Answers]
]  # of one vector's cells the one it takes, and their answers
Floats = npt.NDArray[np.float32]
NULL_KINDS: Final[tuple[ControlKind, ...]] = ("covariance", "label_shuffled", "random")  # another concept is no null


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A cell's gain over the baseline, beside those of the null vectors' own cells on the same samples."""

    cell: Cell
    gain: float
    nulls: tuple[ControlResult, ...]

    @property
    def p(self) -> float | None:
        """Share of the vector and its nulls that gained at least as much; None without nulls."""
        return rank_p(self.gain, [null.gain for null in self.nulls]) if self.nulls else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScreenedNulls:
    """The same search by prediction: the largest mean shift of the answer margin over the grid, of the vector (`shift`) and of
    every null (`null_shifts`, (m,)). `ranks` has per target, at each layer, the share of null directions that move the margin
    up at least as far as the vector, all of unit length (l,)."""

    shift: float
    null_shifts: Floats = field(repr=False)
    ranks: Mapping[str, Floats]

    @property
    def p(self) -> float:
        """Share of the vector and its nulls whose best predicted cell is at least as good."""
        return rank_p(self.shift, self.null_shifts.astype(np.float64))


def place_among(
    winner: Setting, nulls: Sequence[Setting], baseline_id: str, asked: Sequence[Asked], answers: Answers
) -> Placed:
    """A vector's setting beside one of each null, over the questions of a split.

    Raises:
        UsageError: one of them answered no question.
    """
    real = control_result(winner.arm, winner.cell, baseline_id, asked, answers)
    return Placed(
        cell=winner.cell,
        gain=real.gain,
        nulls=tuple(control_result(s.arm, s.cell, baseline_id, asked, answers) for s in nulls),
    )


def best_of(asked: Sequence[Asked], answers: Answers) -> Search:
    """The exhaustive search over answers that are there: most right ones, of equals the smallest strength."""
    return lambda settings: (best_setting(settings, asked, answers), answers)


def search_nulls(
    real: Sequence[Setting],
    nulls: Sequence[Sequence[Setting]],
    baseline_id: str,
    asked: Sequence[Asked],
    search: Search,
) -> Placed:
    """Search the vector's cells and those of every null in the same way, and place what the vector took."""
    found = [search(settings) for settings in (real, *nulls)]
    tables = {id(some): some for _, some in found}  # most often one and the same
    answers = {key: answer for some in tables.values() for key, answer in some.items()}
    winner, *others = (setting for setting, _ in found)
    return place_among(winner, others, baseline_id, asked, answers)


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
) -> tuple[tuple[tuple[Setting, ...], ...], tuple[str, ...]]:
    """The grid of `options` for every null of a vector, to be run on the samples that the vector was run on."""
    arms, notes = null_arms(session, vector, options)
    return tuple(settings_of(arm, loaded, options) for arm in arms), notes


def screen_nulls(
    screens: Mapping[str, Screen],
    vector: SteeringVector,
    nulls: Sequence[SteeringVector],
    *,
    layers: Sequence[int],
    alphas: Sequence[float],
    alpha_unit: AlphaUnit = "raw",
    row_norms: Mapping[str, Floats] | None = None,
) -> ScreenedNulls:
    """Search the grid by prediction, without a model: targets (of `screens`) x layers x alphas, for the vector and every null.

    `row_norms` has by target, for every layer (l,), what alpha counts in; for the unit "target_norm".

    Raises:
        UsageError: no nulls, a layer without gradients or without a vector, or an empty grid.
    """
    if not nulls or not screens or not layers or not alphas:
        raise UsageError("a screening of null directions needs nulls, gradients, layers and strengths")
    if (alpha_unit == "target_norm") != (row_norms is not None):
        raise UsageError("norms of the steered rows go with the unit target_norm")

    def added(vector: SteeringVector, layer: int) -> Floats:  # in target_norm of unit length: rows differ by target
        return delta_of(vector, layer, alpha=1.0, alpha_unit=alpha_unit, row_norm=1.0)

    deltas_lvd = np.stack([np.stack([added(v, layer) for v in (vector, *nulls)]) for layer in layers])
    lowest, highest = min(alphas), max(alphas)
    best_v = np.full(1 + len(nulls), -np.inf, dtype=np.float32)
    ranks = {}
    for target, screen in screens.items():
        missing = sorted(set(layers) - set(screen.layers))
        if missing:
            raise UsageError(f"no gradients at layer {', '.join(map(str, missing))} for the target {target!r}")
        at_layers = replace(screen, layers=tuple(layers))
        shifts_lv = mean_shifts(at_layers, deltas_lvd)
        if row_norms is not None:
            shifts_lv = shifts_lv * np.asarray(row_norms[target], np.float32)[:, None]
        best_v = np.maximum(best_v, np.maximum(lowest * shifts_lv, highest * shifts_lv).max(axis=0))  # linear in alpha
        ranks[target] = null_ranks(at_layers, deltas_lvd[:, :1], deltas_lvd[:, 1:])[:, 0]
    return ScreenedNulls(shift=float(best_v[0]), null_shifts=best_v[1:], ranks=ranks)
