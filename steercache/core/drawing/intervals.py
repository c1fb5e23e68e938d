"""Estimates with their intervals, one below the other, as SVG text."""

from collections.abc import Sequence
from dataclasses import dataclass

from steercache.core.drawing.frame import WIDTH, Frame, colour_of, mark, number, shortened_to, span, svg, text, ticks

_ROW, _TOP = 40, 44


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """One row: its name, the estimate with its interval, and the estimates of its controls, drawn grey below it."""

    name: str
    value: float
    low: float
    high: float
    controls: Sequence[float] = ()


def interval_chart(rows: Sequence[Estimate], *, title: str, x: str, width: float = WIDTH) -> str:
    """The rows with their names above them and a line at 0; `x` names the axis."""
    values = [v for row in rows for v in (row.value, row.low, row.high, *row.controls)]
    bottom = _TOP + _ROW * len(rows) + 4
    frame = Frame(left=16, right=width - 16, top=_TOP, bottom=bottom, x=span(values, zero=True), y=(0.0, 1.0))
    zero = frame.at(0, 0)[0]
    parts = [
        text(2, 14, shortened_to(title, width), bold=True),
        f'<line x1="{zero:.1f}" x2="{zero:.1f}" y1="{_TOP - 14}" y2="{bottom}" stroke="currentColor" stroke-opacity=".55"/>',
        f'<line x1="16" x2="{width - 16:.1f}" y1="{bottom}" y2="{bottom}" stroke="currentColor" stroke-opacity=".25"/>',
    ]
    for i, row in enumerate(rows):
        y = _TOP + i * _ROW + 17
        said = f"{row.name}: {number(round(row.value, 3), signed=True)}"
        parts.append(text(16, y - 10, shortened_to(row.name, width - 24)))
        left, right = frame.at(row.low, 0)[0], frame.at(row.high, 0)[0]
        parts += [mark(frame.at(v, 0)[0], y + 9, None, size=2.4) for v in row.controls]
        parts.append(
            f'<line x1="{left:.1f}" x2="{right:.1f}" y1="{y}" y2="{y}" stroke="{colour_of(0)}" stroke-width="2.5"/>'
            + mark(frame.at(row.value, 0)[0], y, 0, size=4.4, title=said)
        )
    parts.append(_axis(frame, bottom))
    parts.append(text(width / 2, bottom + 33, x, anchor="middle", quiet=True))
    return svg("".join(parts), width=width, height=bottom + 42)


def _axis(frame: Frame, bottom: float) -> str:
    parts = []
    for v in ticks(*frame.x, 6):
        px = frame.at(v, 0)[0]
        parts.append(
            f'<line x1="{px:.1f}" x2="{px:.1f}" y1="{bottom}" y2="{bottom + 4}" stroke="currentColor" stroke-opacity=".55"/>'
            + text(px, bottom + 17, number(v, signed=True), anchor="middle")
        )
    return "".join(parts)
