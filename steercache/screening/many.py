"""Thousands of vectors at once: vectors x layers x strengths x targets predicted as arrays; only what is shown becomes rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from steercache.benchmarks.task import Progress
from steercache.cells.controls import covariance_controls
from steercache.core.errors import SteercacheError
from steercache.core.recorded_rows import rows_of
from steercache.core.trials import TRUST, AlphaUnit, Target
from steercache.core.vectors import SteeringVector
from steercache.queries.session import Session
from steercache.screening.gradient_store import StoredGradients
from steercache.screening.nulls import screen_nulls
from steercache.screening.predict import By, Predicted, predict_layer
from steercache.steering.add import delta_of
from steercache.steering.screen import GradientScreen

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorGrid:
    """What is tried: every vector at every layer, strength and target. `names` tell the vectors apart; `row_norms` has by
    target, for every one of `layers`, what alpha counts in, for the unit "target_norm"."""

    names: tuple[str, ...]
    vectors: tuple[SteeringVector, ...] = field(repr=False)
    layers: tuple[int, ...]
    alphas: tuple[float, ...]
    targets: tuple[Target | str, ...]
    alpha_unit: AlphaUnit = "raw"
    row_norms: Mapping[str, tuple[float, ...]] | None = field(default=None, repr=False)

    def delta(self, v: int, layer: int, target: str, *, alpha: float = 1.0) -> Float32Array:
        """What is added of a vector, by its place, at one layer on one target (d,). Raises as `steer.add.delta_of`."""
        norm = None if self.row_norms is None else self.row_norms[target][self.layers.index(layer)]
        return delta_of(self.vectors[v], layer, alpha=alpha, alpha_unit=self.alpha_unit, row_norm=norm)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScreenRow:
    """One cell as it is shown; numbers as in `screening.Predicted`, `gain` in accuracy over the unsteered model."""

    vector: str
    vector_id: str
    layer: int
    alpha: float
    alpha_unit: str
    target: str
    shift: float
    accuracy: float
    gain: float
    helped: int
    hurt: int
    step: float | None
    beyond: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ScreenedGrid:
    """Predictions of every cell, each of shape (target, layer, vector, alpha)."""

    grid: VectorGrid
    base_accuracy: float
    shift: Float32Array = field(repr=False)
    accuracy: Float32Array = field(repr=False)
    helped: npt.NDArray[np.int32] = field(repr=False)
    hurt: npt.NDArray[np.int32] = field(repr=False)
    step: Float32Array = field(repr=False)
    trust: float = TRUST

    @property
    def n_cells(self) -> int:
        return int(self.shift.size)

    def best(self, n: int, *, by: By = "margin") -> tuple[ScreenRow, ...]:
        """The n best cells, best first; of equals the smallest strength."""
        return self._rows(np.arange(self.n_cells), n, by)

    def best_of_each(self, *, by: By = "margin") -> tuple[ScreenRow, ...]:
        """The best cell of every vector, best first."""
        cells_tlva = np.arange(self.n_cells).reshape(self.shift.shape)
        own = [self._rows(cells_tlva[:, :, v].reshape(-1), 1, by)[0] for v in range(len(self.grid.vectors))]
        score = (lambda r: (-r.shift,)) if by == "margin" else (lambda r: (-r.accuracy, -r.shift))
        return tuple(sorted(own, key=score))

    def with_predictions(self, predicted: Sequence[Predicted]) -> "ScreenedGrid":
        """The same grid with other predictions of some of its cells: those that a pilot bent."""
        grid = self.grid
        shift, accuracy = self.shift.copy(), self.accuracy.copy()
        helped, hurt = self.helped.copy(), self.hurt.copy()
        for one in predicted:
            cell = one.setting.cell
            at = (
                grid.targets.index(cell.target),
                grid.layers.index(-1 if cell.layer is None else cell.layer),
                grid.names.index(one.setting.arm.name),
                grid.alphas.index(cell.alpha),
            )
            shift[at], accuracy[at], helped[at], hurt[at] = one.shift, one.accuracy, one.helped, one.hurt
        return replace(self, shift=shift, accuracy=accuracy, helped=helped, hurt=hurt)

    def _rows(self, cells: npt.NDArray[np.int64], n: int, by: By) -> tuple[ScreenRow, ...]:
        if not len(cells):
            return ()
        t, i, v, a = np.unravel_index(cells, self.shift.shape)
        shift, accuracy = self.shift.reshape(-1)[cells], self.accuracy.reshape(-1)[cells]
        size = np.abs(np.asarray(self.grid.alphas))[a]
        keys = (size, -shift) if by == "margin" else (size, -shift, -accuracy)
        order = np.lexsort(keys)[:n]
        return tuple(self._row(int(t[k]), int(i[k]), int(v[k]), int(a[k])) for k in order)

    def _row(self, t: int, i: int, v: int, a: int) -> ScreenRow:
        at, grid = (t, i, v, a), self.grid
        step = float(self.step[at])
        return ScreenRow(
            vector=grid.names[v],
            vector_id=grid.vectors[v].vector_id,
            layer=grid.layers[i],
            alpha=grid.alphas[a],
            alpha_unit=grid.alpha_unit,
            target=grid.targets[t],
            shift=float(self.shift[at]),
            accuracy=float(self.accuracy[at]),
            gain=float(self.accuracy[at]) - self.base_accuracy,
            helped=int(self.helped[at]),
            hurt=int(self.hurt[at]),
            step=None if np.isnan(step) else step,
            beyond=step > self.trust,
        )


def screen_grid(
    gradients: StoredGradients, grid: VectorGrid, *, trust: float = TRUST, progress: Progress | None = None
) -> ScreenedGrid:
    """Predict every cell of a grid.

    Raises:
        UsageError: a layer or target without gradients, or a layer that a vector lacks.
    """
    size = (len(grid.targets), len(grid.layers), len(grid.vectors), len(grid.alphas))
    shift, accuracy, step = (np.empty(size, np.float32) for _ in range(3))
    helped, hurt = np.empty(size, np.int32), np.empty(size, np.int32)
    asked_va = np.broadcast_to(np.asarray(grid.alphas, np.float32), size[2:])
    base = 0.0
    for i, layer in enumerate(grid.layers):
        units_vd = np.empty(0, np.float32)
        for t, target in enumerate(grid.targets):
            if t == 0 or grid.row_norms is not None:  # otherwise the same for every target
                units_vd = np.stack([grid.delta(v, layer, target) for v in range(len(grid.vectors))])
            found, step[t, i] = predict_layer(gradients, target, layer, units_vd, asked_va, trust=trust)
            shift[t, i], accuracy[t, i] = found.shift[0], found.accuracy[0]
            helped[t, i], hurt[t, i] = found.helped[0], found.hurt[0]
            base = found.base_accuracy
        if progress is not None:
            progress("predicting", (i + 1) * size[0] * size[2] * size[3], shift.size)
    return ScreenedGrid(
        grid=grid,
        base_accuracy=base,
        shift=shift,
        accuracy=accuracy,
        helped=helped,
        hurt=hurt,
        step=step,
        trust=trust,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class NullRank:
    """A vector among null directions with the covariance of the rows it was fitted on, all at its norms, each taking its best
    cell of the same grid: `p` is the share of vector and nulls that reach at least as far, `shift` how far the line goes.

    `at_layer` has by target, for every layer, the share among directions of unit length. None for both, with `note`, where a
    vector has no rows.
    """

    vector: str
    vector_id: str
    n_nulls: int
    p: float | None
    shift: float | None
    at_layer: dict[str, tuple[float, ...]]
    note: str | None = None


def rank_among_nulls(
    session: Session, gradients: StoredGradients, grid: VectorGrid, which: Sequence[int], *, count: int, seed: int = 0
) -> tuple[NullRank, ...]:
    """Ranks of some vectors of a grid (by their places in it) among `count` covariance-matched null directions."""
    screens: dict[str, GradientScreen] = {target: gradients.screen(target, grid.layers) for target in grid.targets}
    ranks = []
    for v in which:
        vector, name = grid.vectors[v], grid.names[v]
        row_norm = 1.0 if grid.alpha_unit == "target_norm" else None
        added = np.stack(
            [delta_of(vector, i, alpha=1.0, alpha_unit=grid.alpha_unit, row_norm=row_norm) for i in grid.layers]
        )
        at_layers = replace(vector, layers=grid.layers, values=added, diagnostics=())
        try:
            nulls = covariance_controls(at_layers, rows_of(vector, session).gather, count=count, seed=seed)
        except SteercacheError as error:
            ranks.append(_unranked(name, vector.vector_id, error.message))
            continue
        norms = None if grid.row_norms is None else {t: np.asarray(n, np.float32) for t, n in grid.row_norms.items()}
        found = screen_nulls(
            screens,
            at_layers,
            nulls,
            layers=grid.layers,
            alphas=grid.alphas,
            alpha_unit="raw" if norms is None else "target_norm",
            row_norms=norms,
        )
        ranks.append(
            NullRank(
                vector=name,
                vector_id=vector.vector_id,
                n_nulls=count,
                p=found.p,
                shift=found.shift,
                at_layer={t: tuple(float(x) for x in r) for t, r in found.ranks.items()},
            )
        )
    return tuple(ranks)


def _unranked(name: str, vector_id: str, why: str) -> NullRank:
    return NullRank(vector=name, vector_id=vector_id, n_nulls=0, p=None, shift=None, at_layer={}, note=why)
