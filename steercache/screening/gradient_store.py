"""Stored gradients, ready to be screened: which rows are whose, which option is right, how long the steered rows are."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from steercache.benchmarks.task import EncodedQuestion
from steercache.cache.documents import RunDocument
from steercache.cache.handle import CacheFolder
from steercache.cache.source import RunSource
from steercache.core.errors import DamagedError, UsageError
from steercache.screening.gradient_plan import SITE, GradientPlan
from steercache.steering.screen import GradientScreen

Float32Array = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

_ROWS = """
SELECT sample_id, target, option_idx, margin, row_norms, row_idx FROM gradients WHERE run_id = $run ORDER BY row_idx
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredGradients:
    """Gradients of n questions under some targets.

    `rows` has, by target, the row of every option (n, k), -1 where a question has fewer; `margins` (n, k) the unsteered
    margins, NaN there; `right` (n,) the right option. `row_norms` (layer, n), by target, are median norms of the steered rows.
    """

    document: RunDocument
    source: RunSource = field(repr=False)
    samples: tuple[EncodedQuestion, ...] = field(repr=False)
    n_left_out: int
    right: npt.NDArray[np.int64] = field(repr=False)
    margins: Float32Array = field(repr=False)
    rows: Mapping[str, Rows] = field(repr=False)
    row_norms: Mapping[str, Float32Array] = field(repr=False)

    @property
    def layers(self) -> tuple[int, ...]:
        """Blocks with gradients."""
        return self.document.layout.sites[0].layers

    @property
    def targets(self) -> tuple[str, ...]:
        """Targets with gradients."""
        return tuple(self.rows)

    def gather(self, target: str, layer: int) -> Float32Array:
        """Gradients of every option at a layer, (n, k, d); NaN where a question has fewer options."""
        rows_nk = self.rows[target]
        there = rows_nk >= 0
        found: Float32Array = self.source.gather(SITE, layer, rows_nk[there])
        if there.all():
            return found.reshape(*rows_nk.shape, -1)
        values = np.full((*rows_nk.shape, found.shape[1]), np.nan, dtype=np.float32)
        values[there] = found
        return values

    def screen(self, target: str, layers: tuple[int, ...] | None = None) -> GradientScreen:
        """What predictions for one target are made from. Raises UsageError for a target or a layer without gradients."""
        chosen = self.layers if layers is None else layers
        if target not in self.rows or not {*chosen} <= {*self.layers}:
            raise UsageError(
                f"no gradients of {target} tokens at layers {', '.join(map(str, chosen))}",
                hint=f"there are: {', '.join(self.targets)}; layers {', '.join(map(str, self.layers))}",
            )
        return GradientScreen(
            layers=chosen, gradient_of=lambda layer: self.gather(target, layer), margins=self.margins, right=self.right
        )

    def row_norm(self, target: str, layer: int) -> float:
        """Median over the questions of the median norm of the steered rows, position 0 left out; NaN where there are none."""
        norms = self.row_norms[target][self.layers.index(layer)]
        known = norms[~np.isnan(norms)]
        return float(np.median(known)) if len(known) else float("nan")


def open_gradients(cache: CacheFolder, run_id: str, plan: GradientPlan) -> StoredGradients:
    """The gradients of a run that fits `plan` (`gradient_plan.stale_in`); labels are those of the plan.

    Raises:
        DamagedError: its rows are not those of the plan's questions.
    """
    document = cache.run_document(run_id)
    with cache.connection() as con:
        table: Any = con.sql(_ROWS, params={"run": run_id}).to_arrow_table()
    columns = {name: table[name].to_pylist() for name in ("sample_id", "target", "option_idx")}
    place = {s.one.sample_id: i for i, s in enumerate(plan.samples)}
    width = max(len(s.options) for s in plan.samples)
    n, row_idx, margin = len(plan.samples), table["row_idx"].to_numpy(), table["margin"].to_numpy()
    targets = list(dict.fromkeys(columns["target"]))
    rows = {t: np.full((n, width), -1, dtype=np.int64) for t in targets}
    norms = {t: np.full((len(document.layout.sites[0].layers), n), np.nan, dtype=np.float32) for t in targets}
    margins = np.full((n, width), np.nan, dtype=np.float32)
    row_norms = table["row_norms"].to_pylist()
    for at, (sample_id, target, option) in enumerate(zip(*columns.values(), strict=True)):
        i = place.get(sample_id, -1)
        if i < 0 or option >= width:
            raise DamagedError(
                f"a row of {sample_id[:12]} that is no question of it", place=document.name, hint=_VERIFY
            )
        rows[target][i, option], margins[i, option] = row_idx[at], margin[at]
        norms[target][:, i] = row_norms[at]
    expected = np.array([[k < len(s.options) for k in range(width)] for s in plan.samples])
    if any(((found >= 0) != expected).any() for found in rows.values()):
        raise DamagedError("rows of some questions are missing", place=document.name, hint=_VERIFY)
    return StoredGradients(
        document=document,
        source=cache.source(run_id),
        samples=tuple(s.one for s in plan.samples),
        n_left_out=len(plan.left_out),
        right=np.array([s.right for s in plan.samples], dtype=np.int64),
        margins=margins,
        rows=rows,
        row_norms=norms,
    )


_VERIFY = "steercache cache verify"
