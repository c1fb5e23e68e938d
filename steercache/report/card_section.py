"""Cards of single questions, with a filter that needs no script: helped, hurt, unchanged."""

import base64
from collections.abc import Sequence
from typing import Final

import numpy as np

from steercache.analysis.patches import PatchMap
from steercache.analysis.sample_cards import ArmCards, SampleCard
from steercache.core.drawing.heat import heat_colour
from steercache.core.excerpts import shortened
from steercache.core.frame import ViewFrame
from steercache.core.shown_text import escaped
from steercache.report.document import section
from steercache.sweeps.changes import Change

_SIDE, _GAP = 148, 8  # pixels of a picture's longer side on a card, and between the two panels
_CLIP: Final = 0.98  # quantile of the deviations at which colours end
_QUESTION, _ANSWER = 400, 160  # characters of a question and of an answer that a card shows
_NAMES: Final[dict[Change, str]] = {"helped": "helped", "hurt": "hurt", "unchanged": "unchanged", "failed": "failed"}


def card_section(found: Sequence[ArmCards], *, name: str) -> str:
    """Cards of every arm, a filter above them; `name` is unique on the page. Empty without cards."""
    if not any(one.cards for one in found):
        return ""
    shown: dict[Change, int] = {}
    for one in found:
        for card in one.cards:
            shown[card.change] = shown.get(card.change, 0) + 1
    options = [("all", sum(shown.values())), *((change, shown[change]) for change in _NAMES if change in shown)]
    radios = "".join(
        f'<label><input type="radio" name="{name}-show" value="{kind}"{" checked" if kind == "all" else ""}>'
        f" {kind} ({n})</label>"
        for kind, n in options
    )
    note = (
        f"Questions of the {escaped(found[0].split)} split, drawn by a hash of their ids, not picked; of the unchanged, those"
        " whose answer changed first. Helped: wrong before, right after. Hurt: the other way round."
    )
    arms = "".join(_arm(one, i, name) for i, one in enumerate(found) if one.cards)
    body = f'<p class="note">{note}</p><fieldset class="filter"><legend>Show</legend>{radios}</fieldset>{arms}'
    return section("Single questions, before and after", body)


def _arm(one: ArmCards, number: int, name: str) -> str:
    counts = ", ".join(f"{n} {_NAMES[change]}" for change, n in one.counts.items() if n or change != "failed")
    whole = sum(one.counts.values())
    shown = "" if len(one.cards) == whole else f"; {len(one.cards)} of {whole:,} are shown"
    cards = "".join(_card(card, f"{name}-{number}-{i}", one.layer) for i, card in enumerate(one.cards))
    return (
        f'<h3>{escaped(one.arm)}</h3><p class="note">Of {whole:,} questions {counts}{shown}.</p>'
        f'<div class="cards">{cards}</div>'
    )


def _card(card: SampleCard, name: str, layer: int | None) -> str:
    question = shortened(card.question, _QUESTION) if card.question else f"Question {card.place}"
    choices = ""
    if card.choices:
        listed = "".join(f"<li>{escaped(shortened(one, _ANSWER))}</li>" for one in card.choices[:10])
        choices = f'<ol type="A">{listed}</ol>'
    picture = _picture(card, name, layer)
    return (
        f'<article class="card {card.change}"><p class="change">{_NAMES[card.change]}</p>{picture}'
        f'<p class="asked">{escaped(question)}</p>{choices}<dl>'
        f"<dt>right answer</dt><dd>{escaped(card.right or '–')}</dd>"
        f"<dt>before</dt><dd>{_answer(card.before, card.before_right)}</dd>"
        f"<dt>after</dt><dd>{_answer(card.after, card.after_right)}</dd></dl></article>"
    )


def _answer(words: str | None, right: bool | None) -> str:
    said = "–" if words is None else escaped(shortened(words.strip(), _ANSWER)) or "(nothing)"
    judged = "" if right is None else f' <span class="judged">{"✓ right" if right else "✗ wrong"}</span>'
    return f"{said}{judged}"


def _picture(card: SampleCard, name: str, layer: int | None) -> str:
    if not card.has_picture:
        return ""
    if card.picture is None:
        return '<p class="note">The picture is not in the cache.</p>'
    wide, tall = jpeg_size(card.picture)
    scale = _SIDE / max(wide, tall)
    w, h = max(1.0, wide * scale), max(1.0, tall * scale)
    data = f"data:image/jpeg;base64,{base64.b64encode(card.picture).decode()}"
    panels, width = f'<image id="{name}" href="{data}" width="{w:.0f}" height="{h:.0f}" preserveAspectRatio="none"/>', w
    words = "The picture of this question"
    if card.patches is not None:
        panels += f'<use href="#{name}" x="{w + _GAP:.0f}"/>{_overlay(card.patches, card.frame, w, h)}'
        width = 2 * w + _GAP
        row, col = card.patches.peak
        words += (
            f"; beside it its patches by projection on the vector at layer {layer}, less their mean: highest at row {row + 1},"
            f" column {col + 1} of {card.patches.projection_rc.shape[0]} by {card.patches.projection_rc.shape[1]}"
        )
    return (
        f'<svg class="photo" role="img" aria-label="{escaped(words)}" width="{width:.0f}" height="{h:.0f}"'
        f' viewBox="0 0 {width:.0f} {h:.0f}">{panels}</svg>'
    )


def _overlay(patches: PatchMap, frame: ViewFrame | None, w: float, h: float) -> str:
    """The patches over the second panel; what the model saw as a border around the picture is cut off."""
    grid = patches.centred_rc
    limit = float(np.nanquantile(np.abs(grid), _CLIP)) or 1.0
    left, top, right, bottom = (0.0, 0.0, 1.0, 1.0) if frame is None else frame.box(round(w), round(h))
    n_rows, n_cols = grid.shape
    parts = []
    for r in range(n_rows):
        for c in range(n_cols):
            if not np.isfinite(grid[r, c]):
                continue
            x = [min(max(left + (c + k) / n_cols * (right - left), 0.0), 1.0) * w for k in (0, 1)]
            y = [min(max(top + (r + k) / n_rows * (bottom - top), 0.0), 1.0) * h for k in (0, 1)]
            if x[1] > x[0] and y[1] > y[0]:
                colour = heat_colour(float(grid[r, c]) / limit)
                parts.append(
                    f'<rect x="{x[0] + w + _GAP:.1f}" y="{y[0]:.1f}" width="{x[1] - x[0]:.1f}" height="{y[1] - y[0]:.1f}"'
                    f' fill="{colour}" fill-opacity=".62"/>'
                )
    return "".join(parts)


def jpeg_size(data: bytes) -> tuple[int, int]:
    """Width and height of a JPEG file by its frame header; (1, 1) where there is none."""
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return max(1, int.from_bytes(data[at + 7 : at + 9], "big")), max(
                1, int.from_bytes(data[at + 5 : at + 7], "big")
            )
        at += 2 + length
    return 1, 1
