"""Shares as bars, and which layers there are, as SVG text."""

from collections.abc import Mapping, Sequence

from steercache.core.drawing.frame import WIDTH, colour_of, shortened_to, svg, text
from steercache.core.shown_text import escaped

_ROW, _NAME = 22, 90


def bar_chart(shares: Mapping[str, float], *, title: str, width: float = WIDTH) -> str:
    """A bar from 0 to 1 for every name, with its number."""
    parts = [text(2, 14, shortened_to(title, width), bold=True)]
    room = width - _NAME - 50
    for i, (name, share) in enumerate(shares.items()):
        y = 26 + i * _ROW
        long = max(0.0, min(share, 1.0)) * room
        parts.append(
            text(2, y + 12, shortened_to(name, _NAME - 8))
            + f'<rect x="{_NAME}" y="{y + 2}" width="{room:.1f}" height="12" fill="currentColor" fill-opacity=".08"/>'
            + f'<rect x="{_NAME}" y="{y + 2}" width="{long:.1f}" height="12" fill="{colour_of(1)}"/>'
            + text(_NAME + room + 6, y + 12, f"{share:.3f}")
        )
    return svg("".join(parts), width=width, height=30 + _ROW * len(shares))


def layer_strip(kept: Mapping[str, Sequence[int]], *, title: str, width: float = WIDTH) -> str:
    """For every name the layers that it has, as filled squares among those up to the highest."""
    highest = max((layer for layers in kept.values() for layer in layers), default=0)
    side = min(14.0, (width - _NAME - 4) / (highest + 1))
    parts = [text(2, 14, shortened_to(title, width), bold=True)]
    for i, (name, layers) in enumerate(kept.items()):
        y = 26 + i * _ROW
        parts.append(text(2, y + 12, shortened_to(name, _NAME - 8)))
        there = {*layers}
        for layer in range(highest + 1):
            look = f'fill="{colour_of(1)}"' if layer in there else 'fill="currentColor" fill-opacity=".1"'
            parts.append(
                f'<rect x="{_NAME + layer * side:.1f}" y="{y + 2}" width="{max(side - 1, 1):.1f}" height="12" {look}>'
                f"<title>{escaped(name)}, layer {layer}</title></rect>"
            )
    bottom = 26 + _ROW * len(kept)
    parts += [
        text(_NAME, bottom + 10, "0"),
        text(_NAME + highest * side + side, bottom + 10, str(highest), anchor="end"),
    ]
    return svg("".join(parts), width=width, height=bottom + 18)
