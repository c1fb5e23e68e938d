"""A picture of what a vector does to the next token: mass against alpha, beside the band of random directions."""

from collections.abc import Sequence
from typing import Any

from steercache.report.style import ACCENT, INK, QUIET, alpha_axis, altair
from steercache.steering.effects import WordMass
from steercache.steering.mass_curves import MassAtAlpha, summarise

_WIDTH, _HEIGHT = 420, 260  # points


def effect_chart(effect: WordMass, *, title: str | None = None) -> Any:
    """An Altair chart: the vector's mean mass with its 95 % interval over prompts, the range of the random directions in grey.

    Raises:
        MissingExtraError: altair is not installed.
    """
    alt = altair()
    plan = effect.plan
    points = summarise(effect)
    data = alt.Data(values=[_row(point) for point in points])
    x = alpha_axis([p.alpha for p in points], plan.alpha_unit)
    y_title = "probability of the words"
    y = alt.Y("mass:Q", title=y_title, axis=alt.Axis(format=".3~p", tickCount=5), scale=alt.Scale(zero=True))
    base = alt.Chart(data)
    band = base.mark_area(color=QUIET, opacity=0.25).encode(
        x=x, y=alt.Y("random_low:Q", title=y_title), y2="random_high:Q"
    )
    chance = base.mark_line(color=QUIET, strokeDash=[4, 3], strokeWidth=1.5).encode(x=x, y="random_mean:Q")
    bars = base.mark_rule(color=ACCENT, strokeWidth=1.5).encode(x=x, y="low:Q", y2="high:Q")
    line = base.mark_line(color=ACCENT, strokeWidth=2.5, point=alt.OverlayMarkDef(color=ACCENT, size=45)).encode(
        x=x, y=y
    )
    heading = alt.TitleParams(
        title or f"{effect.vectors[0].name}, layer {plan.layer}, {plan.target} tokens",
        subtitle=[_legend(effect), _words(effect)],
        anchor="start",
        color=INK,
        subtitleColor=QUIET,
        fontSize=14,
        subtitleFontSize=11,
        offset=12,
    )
    beside = (band + chance) if len(effect.vectors) > 1 else base.mark_point(opacity=0).encode(x=x)
    chart = (beside + bars + line).properties(width=_WIDTH, height=_HEIGHT, title=heading)
    return chart.configure_view(stroke=None).configure_axis(
        labelColor=INK, titleColor=INK, titleFontWeight="normal", gridColor="#e4e8ec", domainColor=QUIET
    )


def _row(point: MassAtAlpha) -> dict[str, float]:
    return {name: getattr(point, name) for name in point.__slots__}


def _legend(effect: WordMass) -> str:
    n_random, n_prompts = len(effect.vectors) - 1, effect.n_inputs
    own = (
        f"red: the vector, mean of {n_prompts} prompts, 95 % interval" if n_prompts > 1 else "red: the vector, 1 prompt"
    )
    return f"{own}; grey: {n_random} random directions of equal norm, dashed their mean" if n_random else own


def _words(effect: WordMass) -> str:
    words: Sequence[str] = [word for word in effect.plan.words if word not in effect.left_out]
    shown = ", ".join(words[:6])
    return f"next token is one of {len(words)} words: {shown}{', ...' if len(words) > 6 else ''}"
