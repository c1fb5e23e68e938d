"""The drift of a backbone as a picture: cosine and relative distance by layer, beside tokens that have nothing in common."""

from typing import Any

from steercache.analysis.drift import Drift
from steercache.report.style import ACCENT, INK, QUIET, SECOND, altair, heading, styled, ticks_of

_WIDTH, _HEIGHT = 330, 230
_COLOURS = {"text": SECOND, "anchor": ACCENT, "special": "#7a6a9b", "template": "#8a6d3b", "first": INK}
_NAMES = {
    "text": "text",
    "anchor": "anchor",
    "special": "special",
    "template": "chat template",
    "first": "first position",
}
_UNRELATED = "unrelated text tokens"


def drift_chart(drift: Drift) -> Any:
    """Two panels, a line per role of token.

    Raises:
        MissingExtraError: altair is not installed.
    """
    alt = altair()
    title = heading(
        f"From {drift.model} to {drift.other_model}: the same tokens, layer by layer",
        f"{drift.site} of {drift.n_tokens:,} tokens in {drift.n_samples:,} samples; runs {drift.run} and {drift.other};"
        " means over tokens",
    )
    return styled(alt.hconcat(_cosines(drift), _distances(drift), spacing=40).properties(title=title))


def _cosines(drift: Drift) -> Any:
    alt = altair()
    rows: list[dict[str, Any]] = [{"layer": r.layer, "role": _NAMES[r.role], "value": r.cosine} for r in drift.rows]
    rows += [
        {"layer": r.layer, "role": _UNRELATED, "value": r.unrelated}
        for r in drift.rows
        if r.role == "text" and r.unrelated is not None
    ]
    bands: list[dict[str, Any]] = [
        {"layer": r.layer, "low": r.cosine_low, "high": r.cosine} for r in drift.rows if r.role == "text" and r.n > 1
    ]
    lowest = min([0.0, *(row["value"] for row in rows), *(band["low"] for band in bands)])
    y_title = "cosine"
    y_scale = alt.Scale(domain=[lowest, 1], nice=True)
    band = (
        alt.Chart(alt.Data(values=bands))
        .mark_area(color=SECOND, opacity=0.15)
        .encode(x=_x(drift), y=alt.Y("low:Q", title=y_title, scale=y_scale), y2="high:Q")
    )
    lines = _lines(drift, rows, alt.Y("value:Q", title=y_title, scale=y_scale, axis=alt.Axis(tickCount=6)))
    return alt.layer(band, lines).properties(
        width=_WIDTH, height=_HEIGHT, title=heading("cosine", "band: from the 5 % quantile of text tokens", size=12)
    )


def _distances(drift: Drift) -> Any:
    alt = altair()
    rows = [{"layer": r.layer, "role": _NAMES[r.role], "value": r.distance} for r in drift.rows]
    ticks = ticks_of(row.distance for row in drift.rows)
    y = alt.Y("value:Q", title="|b − a| / |a|", scale=alt.Scale(domain=[0, ticks[-1]]), axis=alt.Axis(values=ticks))
    return _lines(drift, rows, y).properties(
        width=_WIDTH, height=_HEIGHT, title=heading("relative distance", "0: the row did not move", size=12)
    )


def _lines(drift: Drift, rows: list[dict[str, Any]], y: Any) -> Any:
    alt = altair()
    present = {row["role"] for row in rows}
    names = [_NAMES[role] for role in _COLOURS if _NAMES[role] in {_NAMES[r.role] for r in drift.rows}]
    colours = [colour for role, colour in _COLOURS.items() if _NAMES[role] in names]
    scale = alt.Scale(domain=[*names, _UNRELATED], range=[*colours, QUIET])
    legend = alt.Legend(orient="bottom", title=None, symbolStrokeWidth=2.5, symbolType="stroke", columns=3)
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=_x(drift), y=y, color=alt.Color("role:N", scale=scale, legend=legend)
    )
    solid = base.transform_filter(f"datum.role != '{_UNRELATED}'").mark_line(strokeWidth=2, point={"size": 18})
    if _UNRELATED not in present:
        return solid
    return solid + base.transform_filter(f"datum.role == '{_UNRELATED}'").mark_line(strokeWidth=1.5, strokeDash=[4, 3])


def _x(drift: Drift) -> Any:
    alt = altair()
    layers = [row.layer for row in drift.rows]
    axis = alt.Axis(grid=False, format="d", tickMinStep=1)
    return alt.X("layer:Q", title="layer", axis=axis, scale=alt.Scale(domain=[min(layers), max(layers)], nice=False))
