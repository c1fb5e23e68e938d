"""Numbers on a grid as coloured cells, as SVG text. Cells keep their colours on a dark page, their letters with them."""

import math
from collections.abc import Sequence
from typing import Final

from steercache.core.drawing.frame import WIDTH, shortened_to, svg, text
from steercache.core.shown_text import escaped

# Blue, white, red, told apart without colour sense; not the very colours of series, which a dark page exchanges.
_STOPS: Final = ((32, 96, 140), (158, 196, 223), (246, 246, 244), (239, 178, 151), (180, 69, 31))
_TALL, _LEFT = 21, 46


def heat_colour(share: float) -> str:
    """The colour of a value between -1 and 1.

    >>> heat_colour(0), heat_colour(1), heat_colour(-3)
    ('#f6f6f4', '#b4451f', '#20608c')
    """
    at = (max(-1.0, min(1.0, share)) + 1) / 2 * (len(_STOPS) - 1)
    i = min(int(at), len(_STOPS) - 2)
    mixed = [round(a + (b - a) * (at - i)) for a, b in zip(_STOPS[i], _STOPS[i + 1], strict=True)]
    return "#{:02x}{:02x}{:02x}".format(*mixed)


def letters_on(share: float) -> str:
    """The colour of letters on that colour."""
    return "#fdfdfd" if abs(share) > 0.72 else "#1b2530"


def heat_map(
    values: Sequence[Sequence[float]],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    x_title: str,
    y_title: str,
    chosen: tuple[int, int] | None = None,
    n_digits: int = 1,
    width: float = WIDTH,
) -> str:
    """A value per row and column, the first row on top; NaN is an empty cell, `chosen` (row, column) has a frame."""
    known = [abs(v) for line in values for v in line if math.isfinite(v)]
    limit = max(known, default=0.0) or 1.0
    wide = min(58.0, (width - _LEFT - 4) / max(len(columns), 1))
    parts = [text(2, 14, shortened_to(title, width), bold=True), text(2, 30, y_title, quiet=True)]
    for i, line in enumerate(values):
        top = 38 + i * _TALL
        parts.append(text(_LEFT - 6, top + 15, rows[i], anchor="end"))
        for j, value in enumerate(line):
            parts.append(_cell(value, limit, _LEFT + j * wide, top, wide, n_digits, f"{rows[i]}, {columns[j]}"))
    if chosen is not None:
        x, y = _LEFT + chosen[1] * wide, 38 + chosen[0] * _TALL
        for colour, thick in (("#fdfdfd", 4), ("#1b2530", 2)):
            parts.append(
                f'<rect x="{x + 1:.1f}" y="{y + 1}" width="{wide - 3:.1f}" height="{_TALL - 3}" fill="none"'
                f' stroke="{colour}" stroke-width="{thick}"/>'
            )
    bottom = 38 + len(values) * _TALL
    step = max(1, math.ceil(max((len(c) for c in columns), default=1) * 6.5 / wide))
    shown = range(0, len(columns), step)
    parts += [text(_LEFT + (j + 0.5) * wide, bottom + 15, columns[j], anchor="middle") for j in shown]
    parts.append(text(_LEFT + len(columns) * wide / 2, bottom + 31, x_title, anchor="middle", quiet=True))
    return svg("".join(parts), width=width, height=bottom + 40)


def _cell(value: float, limit: float, x: float, y: float, wide: float, n_digits: int, place: str) -> str:
    box = f'<rect x="{x:.1f}" y="{y}" width="{wide - 1:.1f}" height="{_TALL - 1}"'
    if not math.isfinite(value):
        return f'{box} fill="none" stroke="currentColor" stroke-opacity=".25" stroke-dasharray="2 2"/>'
    share, words = value / limit, f"{value:+.{n_digits}f}".replace("-", "−")
    named = f"<title>{escaped(place)}: {words}</title>"
    letters = ""
    if wide >= 6.4 * len(words):
        letters = (
            f'<text x="{x + (wide - 1) / 2:.1f}" y="{y + 14}" font-size="11" text-anchor="middle"'
            f' fill="{letters_on(share)}">{words}</text>'
        )
    return f'{box} fill="{heat_colour(share)}">{named}</rect>{letters}'
