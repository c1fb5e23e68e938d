"""The colour experiment as a picture: what becomes of the colour words as the vector on the image tokens grows."""

from collections.abc import Mapping, Sequence
from typing import Any

from steercache.analysis.colours import ColourEffect, ColourPoint
from steercache.data.scenes.palette import RGB
from steercache.report.style import ACCENT, INK, QUIET, SECOND, alpha_axis, altair, heading, styled, ticks_of

_WIDTH, _HEIGHT = 250, 210  # points, of one panel
_REST, _REST_COLOUR = "any other token", "#cfd5da"
_WHOLE = "probability"
_TO_ONE = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_PERCENT = ".3~p"  # "~p" alone rounds 12 % to 10 %


def colour_chart(found: ColourEffect) -> Any:
    """Three panels: every word stacked up to 1, the vector's word beside random directions, and the breakdown.

    Raises:
        MissingExtraError: altair is not installed.
    """
    alt = altair()
    panels = alt.hconcat(_stacked(found), _named(found), _breakdown(found), spacing=34)
    where = f"{found.vector!r} added to the {found.target} tokens at layer {found.layer} of {found.model}"
    title = heading(
        f"Colour words against alpha: {where}",
        f"first token of the answer to {found.n} questions of {found.benchmark} whose right answer is not {found.word};"
        f" at alpha 1 the vector is {found.unit_share:.2g} of a median {found.target} token's length",
        f"lines: mean with 95 % interval over pictures; grey: {found.n_random} random directions of equal length",
    )
    return styled(panels.properties(title=title)).resolve_scale(color="independent")


def _x(found: ColourEffect) -> Any:
    """Strengths from a fraction to a hundredfold on one axis that has a 0."""
    sizes = sorted({abs(p.alpha) for p in found.points} - {0})
    scale = {"type": "symlog", "constant": sizes[0]} if sizes[-1] > 8 * sizes[0] else {}
    return alpha_axis([p.alpha for p in found.points], found.alpha_unit, nice=False, **scale)


def _y(field: str, title: str, ticks: Sequence[float] = _TO_ONE) -> Any:
    """Probabilities from 0 to the last tick."""
    alt = altair()
    axis = alt.Axis(format=_PERCENT, values=list(ticks))
    return alt.Y(f"{field}:Q", title=title, axis=axis, scale=alt.Scale(domain=[0, ticks[-1]]))


def _stacked(found: ColourEffect) -> Any:
    """Areas of the words in their own colours; what is left to 1 is every other token."""
    alt = altair()
    words = list(found.points[0].words)
    rows = [
        {"alpha": p.alpha, "word": word, "p": value, "order": order}
        for p in found.points
        for order, (word, value) in enumerate([*p.words.items(), (_REST, max(0.0, 1 - sum(p.words.values())))])
    ]
    colours = [_hex(word, i) for i, word in enumerate(words)]
    colour = alt.Color(
        "word:N",
        title=None,
        scale=alt.Scale(domain=[*words, _REST], range=[*colours, _REST_COLOUR]),
        legend=alt.Legend(
            orient="bottom", columns=3, symbolType="square", symbolStrokeColor=QUIET, symbolStrokeWidth=0.5
        ),
    )
    y = alt.Y(
        "p:Q",
        stack="zero",
        title="mean probability",
        axis=alt.Axis(format=_PERCENT, tickCount=5),
        scale=alt.Scale(domain=[0, 1]),
    )
    area = alt.Chart(alt.Data(values=rows)).mark_area(stroke="#6b7680", strokeWidth=0.4)
    return area.encode(x=_x(found), y=y, color=colour, order="order:Q").properties(
        width=_WIDTH, height=_HEIGHT, title=_panel("every word, stacked", "mean over pictures")
    )


def _named(found: ColourEffect) -> Any:
    """The vector's own word."""
    rows = [{"alpha": p.alpha, **_row(p, "named")} for p in found.points]
    best = max((p for p in found.points if p.alpha != 0), key=lambda p: p.named.mass)
    said = f"highest {best.named.mass:.3f} at alpha {best.alpha:g}"
    rank = "" if found.p_best is None else f", rank p = {found.p_best:.3f}"
    return _curve(found, rows, f"probability of “{found.word}”", _accent(found.word)).properties(
        width=_WIDTH, height=_HEIGHT, title=_panel(f"“{found.word}”", said + rank)
    )


def _breakdown(found: ColourEffect) -> Any:
    """Any colour word at all, and the right one: what excessive strength destroys."""
    alt = altair()
    both: list[tuple[str, str, list[dict[str, Any]]]] = [
        (name, colour, [{"alpha": p.alpha, "what": name, **_row(p, key)} for p in found.points])
        for name, colour, key in (("any colour word", INK, "any_word"), ("the right colour", SECOND, "right"))
    ]
    layers = [_curve(found, rows, _WHOLE, colour) for _, colour, rows in both]
    layers.append(_key({name: colour for name, colour, _ in both}))
    if found.breaks_at is not None:
        at = alt.Chart(alt.Data(values=[{"alpha": found.breaks_at}]))
        layers.append(at.mark_rule(color=ACCENT, strokeDash=[2, 3]).encode(x=_x(found)))
    return alt.layer(*layers).properties(width=_WIDTH, height=_HEIGHT, title=_panel("breakdown", _broken(found)))


def _key(colours: Mapping[str, str]) -> Any:
    """Names of the curves below the panel: within it there is no place that no curve can cross."""
    alt = altair()
    scale = alt.Scale(domain=list(colours), range=list(colours.values()))
    legend = alt.Legend(orient="bottom", columns=1, symbolType="stroke", symbolStrokeWidth=2.2, symbolOpacity=1)
    nothing = alt.Chart(alt.Data(values=[{"what": name} for name in colours])).mark_point(opacity=0)
    return nothing.encode(color=alt.Color("what:N", title=None, scale=scale, legend=legend))


def _broken(found: ColourEffect) -> str:
    if found.breaks_at is not None:
        return f"half of the colour words' probability is gone at alpha {found.breaks_at:g}"
    if found.named_lost_at is not None:
        return f"only “{found.word}” is lost, from alpha {found.named_lost_at:g} on"
    return "no breakdown in the strengths tried"


def _curve(found: ColourEffect, rows: list[dict[str, Any]], title: str, colour: str) -> Any:
    """A line with its interval over the band of the random directions."""
    alt = altair()
    ticks = _TO_ONE if title == _WHOLE else ticks_of(row[name] for row in rows for name in ("high", "random_high"))
    base = alt.Chart(alt.Data(values=rows))
    x = _x(found)
    layers = []
    if found.n_random:
        layers += [
            base.mark_area(color=QUIET, opacity=0.22).encode(x=x, y=_y("random_low", title, ticks), y2="random_high:Q"),
            base.mark_line(color=QUIET, strokeDash=[4, 3], strokeWidth=1.3).encode(
                x=x, y=_y("random_mean", title, ticks)
            ),
        ]
    layers += [
        base.mark_rule(color=colour, strokeWidth=1.3).encode(x=x, y=_y("low", title, ticks), y2="high:Q"),
        base.mark_line(color=colour, strokeWidth=2.2, point=alt.OverlayMarkDef(color=colour, size=36)).encode(
            x=x, y=_y("mass", title, ticks)
        ),
    ]
    return alt.layer(*layers)


def _row(point: ColourPoint, which: str) -> dict[str, float]:
    found = getattr(point, which)
    return {name: getattr(found, name) for name in found.__slots__ if name != "alpha"}


def _panel(title: str, *lines: str) -> Any:
    return heading(title, *lines, size=12)


def _accent(word: str) -> str:
    """The word's own colour where a line of it can be seen on white."""
    return _hex(word, 0) if word in RGB and word not in ("white", "yellow") else ACCENT


def _hex(word: str, at: int) -> str:
    fallback = ("#6d8fa8", "#b08b6e", "#84a07c", "#a886a8")
    return "#{:02x}{:02x}{:02x}".format(*RGB[word]) if word in RGB else fallback[at % len(fallback)]
