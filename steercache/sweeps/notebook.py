"""How a sweep's table shows itself in a notebook: gains with their intervals, the grid of the best arm, and the rows."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from steercache.core.drawing.heat import heat_map
from steercache.core.drawing.intervals import Estimate, interval_chart
from steercache.core.ids import SHORT_ID
from steercache.core.notebook import notebook_html, notebook_table
from steercache.sweeps.together import INTERFERENCE_COLUMNS, interference_line

if TYPE_CHECKING:  # the table's own method calls this
    from steercache.sweeps.table import SplitTable, SweepTable

_ARMS = 8  # drawn


def table_html(table: "SweepTable") -> str:
    """The table as HTML."""
    facts = [
        ("model", table.model),
        ("benchmark", table.benchmark),
        *((f"{s.split} split", f"{s.n:,} questions, {s.baseline:.3f} right unsteered") for s in table.splits),
        ("status", table.status),
        ("id", table.sweep_id[:SHORT_ID]),
    ]
    pictures = [_gains(table.splits[-1])] if table.splits and table.splits[-1].rows else []
    pictures += [_map(table, row.name, row.cell.target) for row in table.choices[:2]]
    rows = [
        (
            row.split,
            row.name,
            row.setting or "in words",
            f"{row.comparison.before:.3f}",
            f"{row.comparison.after:.3f}",
            f"{row.comparison.gain.estimate:+.3f}",
            f"{row.comparison.gain.low:+.3f} to {row.comparison.gain.high:+.3f}",
            str(row.comparison.wrong_way),
            f"{row.p_holm:.3g}",
            None if row.rank_p is None else f"{row.rank_p:.3f}",
        )
        for row in reversed(table.rows)
    ]
    columns = ("split", "arm", "setting", "before", "after", "gain", "95 % interval", "wrong way", "p (Holm)", "rank p")
    tables = [notebook_table(columns, rows)]
    if table.interference:
        tables.append(notebook_table(INTERFERENCE_COLUMNS, [interference_line(one) for one in table.interference]))
    return notebook_html(f"Sweep {table.name}", facts, pictures=pictures, tables=tables)


def _gains(split: "SplitTable") -> str:
    rows = [
        Estimate(
            name=row.name,
            value=100 * row.comparison.gain.estimate,
            low=100 * row.comparison.gain.low,
            high=100 * row.comparison.gain.high,
            controls=[100 * c.gain for c in row.controls if not c.ranked.failed],
        )
        for row in split.rows[:_ARMS]
    ]
    return interval_chart(rows, title=f"{split.split.capitalize()} split", x="gain, percentage points")


def _map(table: "SweepTable", arm: str, target: str) -> str:
    """The gains of one arm over layers and strengths; empty for fewer than two cells."""
    cells = {
        (one.cell.layer, one.cell.alpha): one
        for one in table.cells
        if one.vector == arm and one.cell.target == target and one.cell.layer is not None
    }
    if len(cells) < 2:
        return ""
    layers = sorted({int(key[0]) for key in cells if key[0] is not None}, reverse=True)
    alphas = sorted({key[1] for key in cells})
    grid = [[_points(cells.get((la, a))) for a in alphas] for la in layers]
    row = next(one for one in table.choices if one.name == arm)
    at = row.cell.layer, row.cell.alpha
    chosen = (layers.index(int(at[0])), alphas.index(at[1])) if at in cells and at[0] is not None else None
    return gain_map(grid, layers=layers, alphas=alphas, of=f"{arm}, {target}", chosen=chosen)


def gain_map(
    grid: Sequence[Sequence[float]],
    *,
    layers: Sequence[int],
    alphas: Sequence[float],
    of: str,
    chosen: tuple[int, int] | None = None,
) -> str:
    """The picture of gains in points, shape (layers, alphas), NaN where nothing was answered, as SVG."""
    return heat_map(
        grid,
        rows=[str(layer) for layer in layers],
        columns=[f"{alpha:g}" for alpha in alphas],
        title=f"{of}: gain in points, search split",
        x_title="alpha",
        y_title="layer",
        chosen=chosen,
    )


def _points(one: object) -> float:
    gain = getattr(one, "gain", None)
    return math.nan if gain is None else 100 * float(gain.estimate)
