"""How pictures of ours look, the plotting library's one door, and how a chart becomes files."""

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from steercache.core.errors import MissingExtraError, UsageError
from steercache.core.trials import AlphaUnit

INK: Final = "#1f2933"
ACCENT: Final = "#b3441e"
SECOND: Final = "#1f5f8b"
QUIET: Final = "#8a96a3"
GRID: Final = "#e4e8ec"
DIVERGING: Final = (
    "#1f5f8b",
    "#9dc3de",
    "#f7f7f5",
    "#eeb196",
    "#b3441e",
)  # blue, white, red: tells apart without colour sense
PNG_SCALE: Final = 2.0
SMALLEST: Final = 11  # points of the smallest letters
SUFFIXES: Final = (".png", ".svg")
_ALPHA: Final[dict[AlphaUnit, str]] = {
    "raw": "alpha (multiples of the vector)",
    "resid_norm": "alpha (median norms of the rows it was fitted on)",
    "target_norm": "alpha (median norms of the rows that are steered)",
    "kl": "alpha (nats of KL on unrelated prompts)",
}


def altair() -> Any:
    """The plotting library. Raises MissingExtraError when it is not installed."""
    try:
        import altair as alt
        import vl_convert  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "pictures need altair and vl-convert", hint="pip install 'steercache[plots]'"
        ) from error
    return alt


def heading(title: str, *lines: str, size: int = 14) -> Any:
    """A title at the left, with quiet lines below it."""
    return altair().TitleParams(
        title,
        subtitle=list(lines),
        anchor="start",
        frame="group",
        color=INK,
        subtitleColor=QUIET,
        fontSize=size,
        subtitleFontSize=11,
        subtitlePadding=4,
        offset=12,
    )


def styled(chart: Any) -> Any:
    """A finished chart in our colours: no frame, a quiet grid."""
    return (
        chart.configure(font="Helvetica, Arial, sans-serif", padding=10)  # room for a viewer's other font
        .configure_view(stroke=None)
        .configure_axis(
            labelColor=INK,
            titleColor=INK,
            titleFontWeight="normal",
            labelFontSize=SMALLEST,
            titleFontSize=SMALLEST,
            gridColor=GRID,
            domainColor=QUIET,
            tickColor=QUIET,
        )
        .configure_legend(
            labelColor=INK, titleColor=INK, titleFontWeight="normal", labelFontSize=SMALLEST, titleFontSize=SMALLEST
        )
        .configure_header(labelColor=INK, titleColor=INK)
    )


def save_chart(chart: Any, path: Path) -> Path:
    """Write a chart as the suffix of `path` says, .png or .svg, without a browser; makes its folder.

    Raises:
        UsageError: another suffix.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path.name!r} is no .png or .svg", hint=f"name it {path.stem or 'picture'}.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    chart.save(path, scale_factor=PNG_SCALE)
    return path


def alpha_axis(alphas: Sequence[float], unit: AlphaUnit, **scale: Any) -> Any:
    """The horizontal axis of every curve against strength: its unit in words, a tick at each strength, unrounded."""
    alt = altair()
    axis = alt.Axis(values=list(alphas), grid=False, labelOverlap="greedy", format=".6~g")
    return alt.X("alpha:Q", title=_ALPHA[unit], axis=axis, scale=alt.Scale(**scale))


def ticks_of(values: Iterable[float]) -> tuple[float, ...]:
    """Ticks of an axis from 0, the last at its end, so that panels side by side are equally high.

    >>> ticks_of([0.107]), ticks_of([0.52, 0.3])
    ((0.0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.12), (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6))
    """
    highest = max((v for v in values if math.isfinite(v) and v > 0), default=1.0)
    size = 10.0 ** math.floor(math.log10(highest / 6))
    step = next(step for step in (size, 2 * size, 5 * size, 10 * size) if 6 * step >= highest - 1e-12)
    return tuple(round(step * i, 12) for i in range(math.ceil(highest / step - 1e-9) + 1))


def svg_of(chart: Any, *, prefix: str) -> str:
    """A chart as the text of an SVG to be put into a page, without a background; `prefix` begins its ids, so that those of two
    charts differ.

    The converter numbers ids on through the life of a process: renamed, the same chart is the same text.
    """
    import vl_convert

    text: str = vl_convert.vegalite_to_svg(chart.to_dict() | {"background": "transparent"})
    names = {old: f"{prefix}-{n}" for n, old in enumerate(dict.fromkeys(re.findall(r'\bid="([^"]+)"', text)))}
    return re.sub(r'(\bid="|url\(#|href="#)([^")]+)', lambda found: found[1] + names.get(found[2], found[2]), text)
