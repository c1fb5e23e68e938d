"""A finished grid of one vector as arrays, which ways of choosing a cell are tried on; and what a way chose."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from steercache.core.errors import UsageError
from steercache.core.trials import TRUST

Measure = Literal["accuracy", "margin"]


MEASURES: Final[tuple[Measure, ...]] = ("accuracy", "margin")


Float64Array = npt.NDArray[np.float64]


Ints = npt.NDArray[np.int64]


Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedGrid:
    """One vector's grid of c cells over n questions, answered exactly and predicted.

    `right`, `margin` (c, n) with the unsteered `base_right`, `base_margin` (n,); `predicted`, `base_predicted` are margins
    from gradients, straight. Per cell: `alphas`, `layers`, `places` (those of one number bend alike), `steps`, what is added in
    median norms of the steered rows, and `fitted_steps`, in those of the rows that the vector was fitted on (NaN where not
    known). `auc` is by layer, as the vector's diagnostics have it. `cell_work` (c,) and
    `gradient_work` (n,) are forward passes of one question. Cells come in order of preference, strength aside.
    """

    right: Bools = field(repr=False)
    margin: Float64Array = field(repr=False)
    base_right: Bools = field(repr=False)
    base_margin: Float64Array = field(repr=False)
    predicted: Float64Array = field(repr=False)
    base_predicted: Float64Array = field(repr=False)
    alphas: Float64Array
    layers: Ints
    places: Ints
    steps: Float64Array
    fitted_steps: Float64Array
    auc: Mapping[int, float]
    cell_work: Float64Array
    gradient_work: Float64Array = field(repr=False)
    groups: Sequence[str] = field(repr=False)

    @property
    def n_cells(self) -> int:
        return len(self.alphas)

    @property
    def n_samples(self) -> int:
        return len(self.base_right)

    def gains(self, measure: Measure) -> Float64Array:
        """What every cell gains on every question, (c, n)."""
        if measure == "accuracy":
            return self.right.astype(np.float64) - self.base_right
        gains: Float64Array = self.margin - self.base_margin
        return gains


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortcutOptions:
    """`share` of the cells is run where only the best predicted are; `pilot` questions bend the predictions (None:
    `screening.pilot_size`, 0: not at all); `tolerance` and `error` are a race's promise."""

    share: float = 0.1
    pilot: int | None = None
    trust: float = TRUST
    tolerance: float = 0.01
    error: float = 0.05
    n_resamples: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or self.n_resamples < 1:
            raise UsageError(
                f"a share of {self.share} and {self.n_resamples} resamples",
                hint="give a share above 0 and at most 1, such as 0.1",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortcutChoice:
    """What a way chose on a set of questions: a cell, how many cells it ran, answers it asked for, and its work."""

    cell: int
    n_run: int
    answers: float
    work: float


Way = Callable[[FinishedGrid, Ints, Measure, ShortcutOptions, int], ShortcutChoice]  # questions drawn (m,), and a seed
