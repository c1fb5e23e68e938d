"""A sweep in pictures: gains with their intervals beside the controls, the grid as a heat map, answers before and after."""

from collections import Counter
from typing import Any

import numpy as np

from steercache.core.excerpts import shortened
from steercache.core.shown_text import visible
from steercache.core.trials import UNIT_WORDS
from steercache.report.style import ACCENT, DIVERGING, INK, QUIET, SECOND, SMALLEST, altair, heading, styled
from steercache.sweeps.gain_maps import GainMap
from steercache.sweeps.table import SplitTable, TableRow

_WIDTH = 560
_NARROW = 300  # points that a phone has room for
_ROW = 46  # points per arm
_TITLE = 40  # characters of a name in a title
_CELL = 38
_SIGNED = "datum.value == 0 ? '0' : format(datum.value, '+~g')"
MAX_LETTERS = 12


def gain_chart(split: SplitTable) -> Any:
    """Per arm: its gain with the 95 % interval, and below it the controls' gains, a dot the larger the more gained as much."""
    alt = altair()
    axis = alt.Axis(domain=False, ticks=False, labelPadding=8, labelLimit=180)
    return styled(_gains(split, axis).properties(width=_WIDTH, height=max(70, _ROW * len(split.rows))))


def gain_chart_narrow(split: SplitTable) -> Any:
    """`gain_chart` for a narrow screen: the names stand above their intervals."""
    alt = altair()
    data = alt.Data(values=[{"arm": visible(row.name)} for row in split.rows])
    names = alt.Chart(data).mark_text(align="left", dy=-15, fontSize=12, color=INK, limit=_NARROW)
    chart = alt.layer(_gains(split, None), names.encode(y=_arms(split, None), x=alt.value(0), text="arm:N"))
    return styled(chart.properties(width=_NARROW, height=(_ROW + 16) * len(split.rows)))


def _arms(split: SplitTable, axis: Any) -> Any:
    return altair().Y("arm:N", sort=[visible(row.name) for row in split.rows], title=None, axis=axis)


def _gains(split: SplitTable, axis: Any) -> Any:
    alt = altair()
    points = [
        {
            "arm": visible(row.name),
            "gain": 100 * row.comparison.gain.estimate,
            "low": 100 * row.comparison.gain.low,
            "high": 100 * row.comparison.gain.high,
        }
        for row in split.rows
    ]
    counted = Counter(
        (visible(row.name), round(100 * c.gain, 6)) for row in split.rows for c in row.controls if not c.ranked.failed
    )
    controls = [{"arm": name, "gain": gain, "n": n} for (name, gain), n in sorted(counted.items())]
    x_title = "gain over the baseline, percentage points"
    y = _arms(split, axis)
    x = alt.X("gain:Q", title=x_title, axis=alt.Axis(labelExpr=_SIGNED, tickCount=7))
    base = alt.Chart(alt.Data(values=points)).encode(y=y)
    layers = [
        alt.Chart(alt.Data(values=[{"gain": 0}])).mark_rule(color=INK, strokeWidth=1).encode(x=x),
        base.mark_rule(color=ACCENT, strokeWidth=2.5).encode(x=alt.X("low:Q", title=x_title), x2="high:Q"),
        base.mark_point(color=ACCENT, filled=True, size=75, opacity=1).encode(x=x),
    ]
    if controls:
        dots = alt.Chart(alt.Data(values=controls)).mark_point(color=QUIET, filled=True, opacity=0.6, yOffset=13)
        size = alt.Size("n:Q", legend=None, scale=alt.Scale(type="linear", domain=[0, 20], range=[0, 320]))
        layers.insert(1, dots.encode(x=x, y=y, size=size))
    return alt.layer(*layers)


def map_chart(grid: GainMap) -> Any:
    """Gain in points by layer and strength; the chosen cell has a frame."""
    alt = altair()
    values = 100 * grid.gain_la
    limit = max(1.0, float(np.nanmax(np.abs(values)))) if np.isfinite(values).any() else 1.0
    rows = [
        {
            "layer": layer,
            "alpha": f"{alpha:g}",
            "gain": float(values[i, j]),
            "text": f"{values[i, j]:+.1f}",
            "chosen": (layer, alpha) == grid.chosen,
            "strong": bool(abs(values[i, j]) > 0.7 * limit),
        }
        for i, layer in enumerate(grid.layers)
        for j, alpha in enumerate(grid.alphas)
        if np.isfinite(values[i, j])
    ]
    unit = f" ({words})" if (words := UNIT_WORDS[grid.alpha_unit].strip()) else ""
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X(
            "alpha:N",
            sort=[f"{a:g}" for a in grid.alphas],
            title=f"alpha{unit}",
            axis=alt.Axis(labelAngle=0, domain=False, ticks=False),
        ),
        y=alt.Y("layer:O", sort="descending", title="layer", axis=alt.Axis(domain=False, ticks=False)),
    )
    scale = alt.Scale(domain=[-limit, limit], range=list(DIVERGING), interpolate="lab")
    legend = alt.Legend(title="points", gradientLength=min(120, _CELL * len(grid.layers)), format="+.0f")
    cells = base.mark_rect(stroke="white", strokeWidth=1.5).encode(
        color=alt.Color("gain:Q", scale=scale, legend=legend)
    )
    frame = base.transform_filter("datum.chosen").mark_rect(fillOpacity=0, stroke=INK, strokeWidth=2.2)
    text = base.mark_text(fontSize=SMALLEST).encode(
        text="text:N", color=alt.condition("datum.strong", alt.value("white"), alt.value(INK))
    )
    title = heading(f"{_named(grid.vector)}, {visible(grid.target)} tokens", "frame: the setting chosen", size=12)
    return styled(
        alt.layer(cells, frame, text).properties(
            width=_CELL * 1.25 * len(grid.alphas), height=_CELL * 0.8 * len(grid.layers), title=title
        )
    )


def letter_chart(row: TableRow) -> Any | None:
    """How often each answer was given before and after, and how often it was right; None where there are too many."""
    alt = altair()
    letters = row.comparison.letters
    if len(letters.letters) > MAX_LETTERS:
        return None
    named = _named(row.name)
    shown = [("before", letters.before, QUIET), (named, letters.after, ACCENT)]
    if any(letters.right):
        shown.append(("right", letters.right, SECOND))
    rows = [
        {"answer": visible(name) or "unread", "n": n, "what": what}
        for what, counts, _ in shown
        for name, n in zip(letters.letters, counts, strict=True)
    ]
    order = [what for what, _, _ in shown]
    chart = alt.Chart(alt.Data(values=rows)).mark_bar(cornerRadiusEnd=1.5)
    return styled(
        chart.encode(
            x=alt.X(
                "answer:N",
                sort=[visible(name) or "unread" for name in letters.letters],
                title=None,
                axis=alt.Axis(labelAngle=0, ticks=False),
            ),
            xOffset=alt.XOffset("what:N", sort=order),
            y=alt.Y("n:Q", title="answers", axis=alt.Axis(tickCount=4, tickMinStep=1)),
            color=alt.Color(
                "what:N",
                scale=alt.Scale(domain=order, range=[colour for _, _, colour in shown]),
                legend=alt.Legend(title=None, orient="top", symbolType="square"),
            ),
        ).properties(
            width=max(150, 62 * len(letters.letters)),
            height=120,
            title=heading(named, f"at least {letters.distance:.0%} of the answers changed", size=12),
        )
    )


def _named(name: str) -> str:
    return shortened(visible(name), _TITLE)
