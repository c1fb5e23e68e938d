"""The search for null directions by prediction: where a vector's best predicted cell stands among those of its nulls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from steercache.core.errors import UsageError
from steercache.core.trials import AlphaUnit
from steercache.core.vectors import SteeringVector
from steercache.stats.paired import rank_p
from steercache.steering.add import delta_of
from steercache.steering.screen import GradientScreen, mean_shifts, null_ranks

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScreenedNulls:
    """The same search by prediction: the largest mean shift of the answer margin over the grid, of the vector (`shift`) and of
    every null (`null_shifts`, (m,)). `ranks` has per target, at each layer, the share of null directions that move the margin
    up at least as far as the vector, all of unit length (l,)."""

    shift: float
    null_shifts: Float32Array = field(repr=False)
    ranks: Mapping[str, Float32Array]

    @property
    def p(self) -> float:
        """Share of the vector and its nulls whose best predicted cell is at least as good."""
        return rank_p(self.shift, self.null_shifts.astype(np.float64))


def screen_nulls(
    screens: Mapping[str, GradientScreen],
    vector: SteeringVector,
    nulls: Sequence[SteeringVector],
    *,
    layers: Sequence[int],
    alphas: Sequence[float],
    alpha_unit: AlphaUnit = "raw",
    row_norms: Mapping[str, Float32Array] | None = None,
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

    def added(
        vector: SteeringVector, layer: int
    ) -> Float32Array:  # in target_norm of unit length: rows differ by target
        row_norm = 1.0 if alpha_unit == "target_norm" else None
        return delta_of(vector, layer, alpha=1.0, alpha_unit=alpha_unit, row_norm=row_norm)

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
