"""What the charts of a sweep's page show, in words and numbers, for those who do not see them."""

import numpy as np

from steercache.core.shown_text import visible
from steercache.sweeps.gain_maps import GainMap
from steercache.sweeps.table import SplitTable, TableRow

_SAID = 12  # arms in the words of a chart

Numbers = tuple[tuple[str, ...], list[tuple[str, ...]]]  # columns, rows


def gain_words(split: SplitTable) -> str:
    """Every arm's gain, its interval and its controls' range."""
    said = "; ".join(_gain(row) for row in split.rows[:_SAID])
    more = len(split.rows) - _SAID
    rest = f"; {more} more in the table below" if more > 0 else ""
    return f"Gain over the baseline in percentage points with its 95 % interval, {split.split} split. {said}{rest}."


def _gain(row: TableRow) -> str:
    gain = row.comparison.gain
    gains = [100 * control.gain for control in row.controls if not control.ranked.failed]
    beside = f", {len(gains)} controls from {min(gains):+.1f} to {max(gains):+.1f}" if gains else ""
    return f"{visible(row.name)}: {100 * gain.estimate:+.1f}, {100 * gain.low:+.1f} to {100 * gain.high:+.1f}{beside}"


def map_words(grid: GainMap) -> str:
    """What the map is of, and its best cell."""
    title = f"Gain in points of {visible(grid.vector)} on {visible(grid.target)} tokens by layer and strength"
    if not np.isfinite(grid.gain_la).any():
        return f"{title}: no cell has answers to every question."
    i, j = np.unravel_index(int(np.nanargmax(grid.gain_la)), grid.gain_la.shape)
    best = f"highest {100 * grid.gain_la[i, j]:+.1f} at layer {grid.layers[i]}, alpha {grid.alphas[j]:g}"
    layer, alpha = grid.chosen
    chosen = f"; chosen: layer {layer}, alpha {alpha:g}" if (layer, alpha) in grid.cells else ""
    return f"{title}: {best}{chosen}."


def map_numbers(grid: GainMap) -> Numbers:
    """Table of each cell's gain and number of questions; the highest layer comes first, as in the map."""
    columns = ("layer", *(f"alpha {alpha:g}" for alpha in grid.alphas))
    rows = [
        (str(layer), *(_cell(grid, i, j) for j in range(len(grid.alphas))))
        for i, layer in reversed(list(enumerate(grid.layers)))
    ]
    return columns, rows


def _cell(grid: GainMap, i: int, j: int) -> str:
    at = grid.layers[i], grid.alphas[j]
    if at not in grid.cells:
        return "not run"
    gain = grid.gain_la[i, j]
    said = f"{100 * gain:+.1f} points" if np.isfinite(gain) else "in part"
    return f"{said}, {grid.cells[at].n_seen} questions{', chosen' if at == grid.chosen else ''}"


def letter_words(row: TableRow) -> str:
    """What the bars of answers are of, and how far they moved."""
    moved = row.comparison.letters.distance
    return f"Answers before and after {visible(row.name)}: at least {moved:.0%} of the answers changed."


def letter_numbers(row: TableRow) -> Numbers:
    """How often each answer was given before and after, and was right where that is known."""
    letters = row.comparison.letters
    parts = [letters.before, letters.after, *([letters.right] if any(letters.right) else [])]
    columns = ("answer", "before", "after", "right")[: 1 + len(parts)]
    counts = zip(*parts, strict=True)
    return columns, [(name or "unread", *map(str, some)) for name, some in zip(letters.letters, counts, strict=True)]
