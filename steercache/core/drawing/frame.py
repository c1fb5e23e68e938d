"""What all charts share: colours, scales, axes, titles and legends, as SVG text.

Words and axes take the colour of the text around them (`currentColor`), so that a chart fits a light page, a dark page and a
notebook; a series has a colour, a dash and a mark, so that it is told apart without colour sense.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from steercache.core.shown_text import escaped, visible

SERIES: Final = (
    "var(--accent, #c2532a)",
    "var(--second, #2b7bb0)",
    "var(--third, #4c8a3f)",
    "var(--fourth, #8a5fb0)",
    "var(--fifth, #9c7410)",
)
QUIET: Final = "var(--mark, #8a96a3)"
DASHES: Final = ("", "6 3", "2 3", "8 3 2 3", "1 4")
SIZE: Final = 11  # of the smallest letters, pixels
WIDTH: Final = 340  # pixels: a phone has room for it
_CHAR: Final = 6.2  # pixels of a letter, on average
_LINE: Final = 16


def number(value: float, *, signed: bool = False) -> str:
    """A number on an axis.

    >>> number(0.25), number(-5, signed=True), number(5, signed=True), number(0, signed=True), number(12500)
    ('0.25', '−5', '+5', '0', '12,500')
    """
    text = f"{value:+.6g}" if signed and value else f"{value:.6g}"
    if abs(value) >= 10_000 and math.isfinite(value):
        text = f"{value:+,.0f}" if signed else f"{value:,.0f}"
    return text.replace("-", "−")


def ticks(low: float, high: float, n: int = 5) -> tuple[float, ...]:
    """At most about `n` round numbers from `low` to `high`.

    >>> ticks(0, 0.93), ticks(-7, 12)
    ((0.0, 0.2, 0.4, 0.6, 0.8), (-5.0, 0.0, 5.0, 10.0))
    """
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return (low,)
    size = 10.0 ** math.floor(math.log10((high - low) / n))
    step = next(s for s in (size, 2 * size, 5 * size, 10 * size, 20 * size) if (high - low) / s <= n)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(round(i * step, 12) for i in range(first, last + 1))


def span(values: Iterable[float], *, zero: bool = False) -> tuple[float, float]:
    """The ends of an axis for these values, with a little room; values that are not finite do not count.

    >>> span([1, 3], zero=True), span([])
    ((0.0, 3.15), (0.0, 1.0))
    """
    known = [float(v) for v in values if math.isfinite(v)]
    if zero:
        known.append(0.0)
    if not known:
        return 0.0, 1.0
    low, high = min(known), max(known)
    spread = high - low
    if spread <= 1e-9 * max(abs(low), abs(high)) or spread < 1e-100:  # one value, as far as a picture goes
        spread = 20 * (0.05 * abs(high) or 1.0)
        return (low if zero and low == 0 else low - spread / 20), high + spread / 20
    room = 0.05 * spread
    return (low if zero and low == 0 else low - room), (high if zero and high == 0 else high + room)


def text(x: float, y: float, words: str, *, anchor: str = "start", quiet: bool = False, bold: bool = False) -> str:
    """Words at a place; `words` is plain text."""
    look = ' fill-opacity=".78"' if quiet else ""
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{SIZE + bold}" text-anchor="{anchor}" fill="currentColor"{look}{weight}>'
        f"{escaped(words)}</text>"
    )


def shortened_to(words: str, pixels: float) -> str:
    """Words that fit a width.

    >>> shortened_to("a rather long name", 80)
    'a rather lo…'
    """
    shown = visible(words)
    room = max(3, int(pixels / _CHAR))
    return shown if len(shown) <= room else f"{shown[: room - 1].rstrip()}…"


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A name in the legend: the number of its series, or None for what is grey; `kind` is line, band or dot."""

    name: str
    series: int | None
    kind: str = "line"


def legend(keys: Sequence[Key], *, left: float, top: float, width: float) -> tuple[str, float]:
    """The legend as SVG, and its height in pixels."""
    parts, x, y = [], left, top
    for key in keys:
        words = shortened_to(key.name, width - 26)
        room = 26 + len(words) * _CHAR
        if x > left and x + room > left + width:
            x, y = left, y + _LINE
        parts.append(_swatch(key, x, y) + text(x + 22, y + 4, words))
        x += room + 8
    return "".join(parts), (y - top + _LINE if keys else 0.0)


def _swatch(key: Key, x: float, y: float) -> str:
    colour = colour_of(key.series)
    if key.kind == "band":
        return f'<rect x="{x:.1f}" y="{y - 5:.1f}" width="18" height="10" fill="{colour}" fill-opacity=".3"/>'
    dot = mark(x + 9, y, key.series)
    return dot if key.kind == "dot" else stroke([(x, y), (x + 18, y)], key.series) + dot


def colour_of(series: int | None) -> str:
    """Colour of a series by its number; grey for None."""
    return QUIET if series is None else SERIES[series % len(SERIES)]


def stroke(points: Sequence[tuple[float, float]], series: int | None, *, width: float = 2) -> str:
    """A line through places on the picture."""
    if len(points) < 2:
        return ""
    dash = DASHES[series % len(DASHES)] if series is not None else "4 3"
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour_of(series)}" stroke-width="{width:g}"{dashed}/>'


def mark(x: float, y: float, series: int | None, *, size: float = 3.6, title: str = "") -> str:
    """A mark whose shape says which series it is of; `title` is shown under the pointer."""
    colour, told = colour_of(series), f"<title>{escaped(title)}</title>" if title else ""
    shape = 0 if series is None else series % 4
    if shape == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:g}" fill="{colour}">{told}</circle>'
    s = size * 1.25
    corners = {
        1: ((-s, -s), (s, -s), (s, s), (-s, s)),
        2: ((0, -s * 1.2), (s * 1.1, s), (-s * 1.1, s)),
        3: ((0, -s * 1.3), (s * 1.3, 0), (0, s * 1.3), (-s * 1.3, 0)),
    }[shape]
    path = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
    return f'<polygon points="{path}" fill="{colour}">{told}</polygon>'


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Where a chart is drawn: pixels of its four edges, and the numbers that they stand for."""

    left: float
    right: float
    top: float
    bottom: float
    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The place of a point."""
        return (
            self.left + (x - self.x[0]) / (self.x[1] - self.x[0]) * (self.right - self.left),
            self.bottom - (y - self.y[0]) / (self.y[1] - self.y[0]) * (self.bottom - self.top),
        )

    def axes(
        self, *, x_title: str, y_signed: bool, x_ticks: Sequence[float] | None = None, signed: bool = False
    ) -> str:
        """Both axes with a quiet grid; where 0 is inside, its line is darker."""
        parts = []
        for y in ticks(*self.y):
            _, py = self.at(self.x[0], y)
            heavy = ".55" if y == 0 else ".14"
            parts.append(
                f'<line x1="{self.left:.1f}" x2="{self.right:.1f}" y1="{py:.1f}" y2="{py:.1f}" stroke="currentColor"'
                f' stroke-opacity="{heavy}"/>' + text(self.left - 6, py + 4, number(y, signed=y_signed), anchor="end")
            )
        last = -math.inf
        for x in x_ticks or ticks(*self.x):
            px, _ = self.at(x, self.y[0])
            words = number(x, signed=signed)
            parts.append(
                f'<line x1="{px:.1f}" x2="{px:.1f}" y1="{self.bottom:.1f}" y2="{self.bottom + 4:.1f}" stroke="currentColor"'
                ' stroke-opacity=".55"/>'
            )
            if px - last > len(words) * _CHAR + 8:
                parts.append(text(px, self.bottom + 17, words, anchor="middle"))
                last = px
        middle = (self.left + self.right) / 2
        return "".join(parts) + text(middle, self.bottom + 33, x_title, anchor="middle", quiet=True)


def svg(body: str, *, width: float, height: float) -> str:
    """The picture as an SVG element that can stand in a page."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}"'
        f' viewBox="0 0 {width:.0f} {height:.0f}" font-family="Helvetica, Arial, sans-serif" color="currentColor">{body}</svg>'
    )
