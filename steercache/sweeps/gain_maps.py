"""Gains of a sweep's vectors over layers and strengths, as maps of a table's cells."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from steercache.sweeps.cell_rows import CellRow
from steercache.sweeps.table import SweepTable


@dataclass(frozen=True, slots=True, kw_only=True)
class GainMap:
    """Gains of one vector over its cells of one target on the search split, shape (layers, alphas).

    NaN where a cell was not run, or was not asked every question (`gain_la`). `cells` has every row by layer and strength.
    `chosen` is (-1, 0.0) where the vector took a cell of another target.
    """

    vector: str
    target: str
    layers: tuple[int, ...]
    alphas: tuple[float, ...]
    alpha_unit: str
    gain_la: npt.NDArray[np.float64] = field(repr=False)
    cells: Mapping[tuple[int, float], CellRow] = field(repr=False)
    chosen: tuple[int, float]


def gain_maps(table: SweepTable) -> tuple[GainMap, ...]:
    """Gains over layers and strengths, for every vector and target with more than one cell, in the order of the sweep."""
    found = []
    for row in table.choices:
        own = [one for one in table.cells if one.vector == row.name]
        listed = table.manifest.get("grid", {}).get("targets", ())
        targets = [t for t in listed if any(one.cell.target == t for one in own)]
        for target in targets or dict.fromkeys(one.cell.target for one in own):
            cells = {(one.cell.layer or 0, one.cell.alpha): one for one in own if one.cell.target == target}
            if len(cells) < 2:
                continue
            layers, alphas = (tuple(sorted({key[i] for key in cells})) for i in (0, 1))
            gain_la = np.full((len(layers), len(alphas)), np.nan)
            for (layer, alpha), one in cells.items():
                if one.n_seen == table.splits[0].n and one.gain is not None:
                    gain_la[layers.index(layer), alphas.index(alpha)] = one.gain.estimate
            here = row.cell.target == target and row.cell.layer is not None
            found.append(
                GainMap(
                    vector=row.name,
                    target=target,
                    layers=tuple(int(layer) for layer in layers),
                    alphas=alphas,
                    alpha_unit=row.cell.alpha_unit,
                    gain_la=gain_la,
                    cells=cells,
                    chosen=(row.cell.layer or 0, row.cell.alpha) if here else (-1, 0.0),
                )
            )
    return tuple(found)
