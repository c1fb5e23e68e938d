"""Curves with bands, and points with intervals, as SVG text."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from steercache.core.drawing.frame import (
    WIDTH,
    Frame,
    Key,
    colour_of,
    legend,
    mark,
    number,
    shortened_to,
    span,
    stroke,
    svg,
    text,
)

_HEIGHT, _LEFT, _RIGHT, _BELOW = 150, 46, 12, 42  # pixels: the drawing's height, and the room around it


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """A curve: `y` over `x`, gaps where it is NaN; `low` and `high` make a band around it. A `grey` one stands for controls, a
    `loose` one has marks and no line."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    grey: bool = False
    loose: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """What a chart says of itself. `signed` numbers carry a plus; `zero` keeps 0 in view; `ticks` are those of the x axis."""

    title: str
    x: str
    y: str
    x_signed: bool = False
    y_signed: bool = False
    x_zero: bool = False
    y_zero: bool = False
    ticks: Sequence[float] | None = None
    y_span: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One mark of a scatter: `words` are shown under the pointer; `low` and `high` are the ends of its interval. Grey ones are
    controls, `named` ones have their name beside them."""

    name: str
    x: float
    y: float
    series: int | None = 0
    low: float | None = None
    high: float | None = None
    words: str = ""
    named: bool = False


def line_chart(series: Sequence[Series], axes: Axes, *, width: float = WIDTH, height: float = _HEIGHT) -> str:
    """Curves over one axis, each with its band; the legend stands above where there are several."""
    numbers = _numbered(series)
    keys = [
        Key(name=one.name, series=numbers[i], kind="band" if one.grey and one.low is not None else "line")
        for i, one in enumerate(series)
    ]
    xs = [x for one in series for x in one.x]
    ys = [y for one in series for part in (one.y, one.low, one.high) if part is not None for y in part]
    frame, head, total = _framed(
        axes, keys if len(keys) > 1 else (), xs, [*ys, *(axes.y_span or ())], width=width, height=height
    )
    parts = [head]
    for i, one in enumerate(series):
        parts.append(_band(one, frame, numbers[i]))
    for i, one in enumerate(series):
        parts.append(_curve(one, frame, numbers[i]))
    return svg("".join(parts), width=width, height=total)


def scatter(
    points: Sequence[Point],
    axes: Axes,
    *,
    keys: Sequence[Key] = (),
    front: Sequence[tuple[float, float]] = (),
    diagonal: bool = False,
    width: float = WIDTH,
    height: float = 210,
) -> str:
    """Points with their intervals; `front` is a line through some of them, `diagonal` draws where both numbers are equal."""
    known = [p for p in points if math.isfinite(p.x) and math.isfinite(p.y)]
    ends = [v for p in known for v in (p.low, p.high) if v is not None]
    xs, ys = [p.x for p in known], [*(p.y for p in known), *ends]
    if diagonal:
        xs = ys = [*xs, *ys]
    frame, head, total = _framed(axes, keys, xs, ys, width=width, height=height)
    parts = [head]
    if diagonal:
        low, high = max(frame.x[0], frame.y[0]), min(frame.x[1], frame.y[1])
        parts.append(stroke([frame.at(low, low), frame.at(high, high)], None, width=1.2))
    if len(front) > 1:
        parts.append(stroke([frame.at(*one) for one in front], None, width=1.5))
    for p in sorted(known, key=lambda p: p.series is not None):  # controls below
        x, y = frame.at(p.x, p.y)
        if p.low is not None and p.high is not None and _known(p.low, p.high):
            ends_y = frame.at(p.x, p.low)[1], frame.at(p.x, p.high)[1]
            parts.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{ends_y[0]:.1f}" y2="{ends_y[1]:.1f}" stroke="{colour_of(p.series)}"'
                ' stroke-opacity=".6" stroke-width="1.4"/>'
            )
        parts.append(mark(x, y, p.series, size=2.6 if p.series is None else 4.2, title=p.words or p.name))
        if p.named:
            parts.append(_beside(p, x, y, frame))
    return svg("".join(parts), width=width, height=total)


def _beside(p: Point, x: float, y: float, frame: Frame) -> str:
    right = x < (frame.left + frame.right) / 2
    words = shortened_to(p.name, (frame.right - x if right else x - frame.left) - 10)
    return text(x + (9 if right else -9), y - 6 if right else y + 16, words, anchor="start" if right else "end")


def _numbered(series: Sequence[Series]) -> list[int | None]:
    """The number of each curve's colour: grey ones have none."""
    numbers: list[int | None] = []
    n = 0
    for one in series:
        numbers.append(None if one.grey else n)
        n += not one.grey
    return numbers


def _framed(
    axes: Axes, keys: Sequence[Key], xs: Sequence[float], ys: Sequence[float], *, width: float, height: float
) -> tuple[Frame, str, float]:
    """The frame, everything around it as SVG, and the height of the whole."""
    head = text(2, 14, shortened_to(axes.title, width), bold=True)
    y_title = text(2, 30, shortened_to(axes.y, width), quiet=True)
    named, tall = legend(keys, left=2, top=46, width=width - 4)
    top = 44 + tall
    frame = Frame(
        left=_LEFT,
        right=width - _RIGHT,
        top=top,
        bottom=top + height,
        x=span(xs, zero=axes.x_zero),
        y=span(ys, zero=axes.y_zero),
    )
    drawn = frame.axes(x_title=axes.x, y_signed=axes.y_signed, x_ticks=axes.ticks, signed=axes.x_signed)
    return frame, head + y_title + named + drawn, top + height + _BELOW


def _band(one: Series, frame: Frame, series: int | None) -> str:
    if one.low is None or one.high is None:
        return ""
    ends = [(x, lo, hi) for x, lo, hi in zip(one.x, one.low, one.high, strict=True) if _known(lo, hi)]
    if not ends:
        return ""
    outline = [frame.at(x, hi) for x, _, hi in ends] + [frame.at(x, lo) for x, lo, _ in reversed(ends)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in outline)
    return f'<polygon points="{path}" fill="{colour_of(series)}" fill-opacity=".2"/>'


def _curve(one: Series, frame: Frame, series: int | None) -> str:
    parts, run = [], list[tuple[float, float]]()
    for x, y in zip(one.x, one.y, strict=True):
        if not _known(x, y):
            parts.append(stroke(run, series))
            run = []
            continue
        run.append(frame.at(x, y))
        if not one.grey:
            size = 2.6 if len(one.x) > 12 else 3.6
            parts.append(mark(*run[-1], series, size=size, title=f"{one.name}: {number(y)} at {number(x)}"))
    if not one.loose:
        parts.insert(0, stroke(run, series))
    return "".join(parts)


def _known(*values: Any) -> bool:
    return all(v is not None and math.isfinite(v) for v in values)
