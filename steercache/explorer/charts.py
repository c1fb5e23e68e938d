"""Line charts by layer as SVG: marks have classes, which the style sheet colours, and their numbers stand beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from markupsafe import Markup, escape

from steercache.api.shown import visible
from steercache.explorer.rendering import number

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 640, 220, 52, 34, 10
_COLOURS: Final = 4  # classes line0 to line3


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a chart; `low` and `high` are a band around it."""

    name: str
    values: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


def by_layer(layers: Sequence[int], lines: Sequence[Line], *, words: str, unit: str) -> Markup:
    """Lines over the layers of a model. `words` say what the chart shows, `unit` names its vertical axis."""
    ends = [
        v for line in lines for part in (line.values, line.low or (), line.high or ()) for v in part if np.isfinite(v)
    ]
    ticks = ticks_of(min(ends, default=0.0), max(ends, default=1.0))
    low, high = ticks[0], ticks[-1]
    n = max(len(layers) - 1, 1)

    def x(i: int) -> float:
        return LEFT + (WIDTH - LEFT - 12) * i / n

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)

    parts = [
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - 12}" y1="{y(t):.1f}" y2="{y(t):.1f}"/>'
        f'<text x="{LEFT - 6}" y="{y(t) + 4:.1f}" text-anchor="end">{number(t)}</text>'
        for t in ticks
    ]
    step = max(1, -(-len(layers) // 10))
    parts += [
        f'<text x="{x(i):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{layer}</text>'
        for i, layer in enumerate(layers)
        if i % step == 0
    ]
    parts.append(f'<text x="{(LEFT + WIDTH) / 2:.0f}" y="{HEIGHT - 2}" text-anchor="middle">layer</text>')
    for k, line in enumerate(lines):
        known = [i for i, v in enumerate(line.values) if np.isfinite(v)]
        if line.low is not None and line.high is not None:
            there = [i for i in known if np.isfinite(line.low[i]) and np.isfinite(line.high[i])]
            up = [f"{x(i):.1f},{y(line.high[i]):.1f}" for i in there]
            down = [f"{x(i):.1f},{y(line.low[i]):.1f}" for i in reversed(there)]
            parts.append(f'<polygon class="band line{k % _COLOURS}" points="{" ".join(up + down)}"/>')
        points = " ".join(f"{x(i):.1f},{y(line.values[i]):.1f}" for i in known)
        parts.append(f'<polyline class="line line{k % _COLOURS}" points="{points}"/>')
        parts += [
            f'<circle class="dot line{k % _COLOURS}" cx="{x(i):.1f}" cy="{y(line.values[i]):.1f}" r="3">'
            f"<title>layer {layers[i]}: {escape(visible(line.name))} {number(line.values[i], 4)}</title></circle>"
            for i in known
        ]
    keys = "".join(
        f'<li><svg class="key" viewBox="0 0 18 8" aria-hidden="true">'
        f'<line class="line line{k % _COLOURS}" x1="0" x2="18" y1="4" y2="4"/></svg>{escape(visible(line.name))}</li>'
        for k, line in enumerate(lines)
    )
    svg = (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(visible(words))}">'
        f"{''.join(parts)}</svg>"
    )
    return Markup(
        f'<figure><figcaption class="quiet">{escape(visible(unit))}</figcaption>{svg}<ul class="keys">{keys}</ul></figure>'
    )


def ticks_of(low: float, high: float) -> list[float]:
    """Round numbers that enclose the values, three to eight of them.

    >>> ticks_of(0.52, 0.93)
    [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    """
    if not high > low:
        low, high = low - 0.5, high + 0.5
    size = 10.0 ** np.floor(np.log10((high - low) / 4))
    step = float(next(s for s in (size, 2 * size, 5 * size, 10 * size) if (high - low) / s <= 5.5))
    first, last = int(np.floor(low / step + 1e-9)), int(np.ceil(high / step - 1e-9))
    return [round(i * step, 10) for i in range(first, last + 1)]


def table_of(layers: Sequence[int], columns: Mapping[str, Sequence[float]]) -> tuple[list[str], list[list[str]]]:
    """The numbers of a chart: names of columns, and a row per layer."""
    rows = [[str(layer), *(number(values[i], 4) for values in columns.values())] for i, layer in enumerate(layers)]
    return ["layer", *columns], rows
