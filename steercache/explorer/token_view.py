"""A sample as a page shows it: its text cut into tokens, its patches, and the colours of both along a direction."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np

from steercache.api.projections import Projections
from steercache.api.samples import Sample, Token
from steercache.api.shown import visible
from steercache.explorer.colours import Scale, Scheme, scale_of

Measure = Literal["projection", "cosine", "norm"]
MEASURES: Final[tuple[Measure, ...]] = ("projection", "cosine", "norm")
_PIECE_CHARS: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A stretch of the text: token `i`, characters between tokens (`i` is None), or a whole picture (`n_patches`)."""

    text: str
    i: int | None = None
    classes: str = ""
    n_patches: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shading:
    """Colours and numbers of every token, and the scales that they are of: one for the text and one for patches."""

    levels: Sequence[int | None] = field(repr=False)
    values: Sequence[float | None] = field(repr=False)
    cosines: Sequence[float | None] | None = field(repr=False)
    norms: Sequence[float | None] = field(repr=False)
    scales: dict[str, Scale]

    def record(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "levels": self.levels,
            "values": self.values,
            "cosines": self.cosines,
            "norms": self.norms,
            "scales": {
                name: {"low": s.low, "centre": s.centre, "high": s.high, "rises": s.rises}
                for name, s in self.scales.items()
            },
        }


def pieces_of(sample: Sample) -> list[Piece]:
    """The sample in reading order. Tokens that share characters with the one before show what is left of them."""
    text, at = sample.text or "", 0
    pieces: list[Piece] = []
    for i, token in enumerate(sample.tokens):
        if token.kind in ("image", "video") and token.patch_row >= 0:
            if pieces and pieces[-1].n_patches:
                last = pieces.pop()
                pieces.append(Piece(text="", n_patches=last.n_patches + 1))
            else:
                pieces.append(Piece(text="", n_patches=1))
            continue
        covers = 0 <= token.char_start < token.char_end <= len(text)
        if not covers:
            pieces.append(Piece(text=_named(token), i=i, classes=_classes(token, "bare")))
            continue
        if token.char_start > at:
            pieces.append(Piece(text=text[at : token.char_start]))
        shown = text[max(at, token.char_start) : token.char_end]
        pieces.append(Piece(text=shown or "\u00b7", i=i, classes=_classes(token, "" if shown else "bare")))
        at = max(at, token.char_end)
    if at < len(text) and any(piece.i is not None for piece in pieces):
        pieces.append(Piece(text=text[at:]))
    return pieces


def shade(sample: Sample, found: Projections, *, measure: Measure, scheme: Scheme) -> Shading:
    """Colours of the tokens: patches and other tokens each have a scale, since their norms differ by far."""
    values = {"cosine": found.cosine, "norm": found.norm}.get(measure, found.value)
    shown = found.value if values is None else values
    is_patch = np.array([token.patch_row >= 0 and token.kind == "image" for token in sample.tokens], dtype=bool)
    typical = np.array([t.position != 0 and t.kind in ("text", "image") for t in sample.tokens], dtype=bool)
    levels: list[int | None] = [None] * len(sample.tokens)
    scales = {}
    for name, members in (("text", ~is_patch), ("image", is_patch)):
        places = np.flatnonzero(members)
        if not len(places):
            continue
        scales[name] = scale = scale_of(shown[places], typical[places], scheme)
        for place, level in zip(places.tolist(), scale.levels(shown[places]), strict=True):
            levels[place] = level
    return Shading(
        levels=levels,
        values=_plain(found.value),
        cosines=None if found.cosine is None else _plain(found.cosine),
        norms=_plain(found.norm),
        scales=scales,
    )


def about_tokens(sample: Sample) -> list[dict[str, Any]]:
    """What the page says of every token beside its numbers."""
    return [
        {
            "position": token.position,
            "text": visible(token.text)[:_PIECE_CHARS],
            "id": token.token_id,
            "kind": token.kind,
            "row": token.row_idx,
            "role": "anchor" if token.is_anchor else "control" if token.is_control else "",
            "patch": f"{token.patch_row}, {token.patch_col}" if token.patch_row >= 0 else "",
            "target": _target(token),
        }
        for token in sample.tokens
    ]


def level_class(level: int | None) -> str:
    """The class of a colour.

    >>> level_class(3), level_class(-10), level_class(None)
    ('v3', 'v-10', 'none')
    """
    return "none" if level is None else f"v{level}"


def _classes(token: Token, more: str) -> str:
    named = [more, token.kind if token.kind != "text" else "", "anchor" if token.is_anchor else ""]
    return " ".join(name for name in named if name)


def _named(token: Token) -> str:
    """A token that covers no characters: a pooled row, a row of a gradient run, or the tokenizer's own word."""
    if token.position < 0:
        return f"mean of {token.kind}"
    return token.text or f"token {token.token_id}"


def _target(token: Token) -> str:
    if token.target is None:
        return ""
    margin = "" if token.margin is None else f", margin {token.margin:.3g}"
    return f"{token.target}, option {token.option_idx}{margin}"


def _plain(values: Any) -> list[float | None]:
    return [
        float(f"{v:.5g}") if ok else None for v, ok in zip(values.tolist(), np.isfinite(values).tolist(), strict=True)
    ]
