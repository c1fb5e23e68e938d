"""Sections of curves: gain against strength, and the vectors layer by layer."""

import math
from collections.abc import Sequence

from steercache.analysis.dose import DoseCurve
from steercache.analysis.vector_layers import CosineCurve, VectorLayers
from steercache.core.drawing.charts import Axes, Series, line_chart
from steercache.core.shown_text import escaped, visible
from steercache.report.document import figure, section, table

MOST: int = 5  # curves in one chart: as many as there are colours
UNITS = {
    "raw": "alpha",
    "resid_norm": "alpha (median norms)",
    "target_norm": "alpha (median norms of the steered rows)",
    "kl": "alpha (nats of KL on unrelated prompts)",
}


def dose_section(curves: Sequence[DoseCurve]) -> str:
    """Gain against strength for every vector with at least two strengths; empty where there is none."""
    drawn = [_dose(one) for one in curves if len(one.points) > 2]
    if not drawn:
        return ""
    note = (
        "Gain over the baseline in percentage points on the search split, at the layer that the vector took. Band: 95 %"
        " interval of each strength by itself; grey: from the lowest to the highest control at the same layer and strength. At"
        " alpha 0 nothing is added."
    )
    return section("Gain against strength", f'<p class="note">{note}</p><div class="figures">{"".join(drawn)}</div>')


def _dose(one: DoseCurve) -> str:
    alphas = [p.alpha for p in one.points]
    own = Series(
        name=one.arm,
        x=alphas,
        y=[100 * p.gain for p in one.points],
        low=[100 * p.low for p in one.points],
        high=[100 * p.high for p in one.points],
    )
    beside = [p for p in one.points if p.n_controls]
    grey = Series(
        name="controls",
        x=[0.0, *(p.alpha for p in beside)],
        y=[math.nan] * (len(beside) + 1),
        low=[0.0, *(100 * (p.control_low or 0.0) for p in beside)],
        high=[0.0, *(100 * (p.control_high or 0.0) for p in beside)],
        grey=True,
    )
    axes = Axes(
        title=f"{one.arm}, layer {one.layer}, {one.target}",
        x=UNITS.get(one.alpha_unit, "alpha"),
        y="gain, points",
        y_signed=True,
        y_zero=True,
        x_zero=True,
        ticks=alphas,
    )
    svg = line_chart([own, *([grey] if beside else [])], axes)
    rows = [
        (
            f"{p.alpha:g}" + (" (chosen)" if p.alpha == one.chosen else ""),
            f"{100 * p.gain:+.1f}",
            f"{100 * p.low:+.1f} to {100 * p.high:+.1f}",
            str(p.n),
            f"{p.n_controls}: {100 * (p.control_low or 0):+.1f} to {100 * (p.control_high or 0):+.1f}"
            if p.n_controls
            else "–",
        )
        for p in one.points
    ]
    best = max(one.points, key=lambda p: p.gain)
    words = (
        f"Gain of {visible(one.arm)} on {visible(one.target)} tokens at layer {one.layer} against strength,"
        f" {len(alphas)} strengths: highest {100 * best.gain:+.1f} points at alpha {best.alpha:g}; chosen:"
        f" alpha {one.chosen:g}."
    )
    return figure(svg, words, numbers=table(words, ("alpha", "gain", "95 % interval", "questions", "controls"), rows))


def layers_section(layers: Sequence[VectorLayers], cosines: Sequence[CosineCurve]) -> str:
    """AUC, norm and cosines by layer; empty where no vector could be read."""
    several = [one for one in layers if len(one.layers) > 1][:MOST]
    drawn = [_auc(several), _norms(several), _turns(several), _between([c for c in cosines if len(c.layers) > 1])]
    charts = "".join(drawn)
    numbers = "".join(_numbers(one) for one in layers[: 2 * MOST])
    if not layers:
        return ""
    note = (
        "AUC: how well projections on the direction tell held-out rows with the concept from those without (.5: not at all)."
        " Norm: length of the vector over the median norm of the rows it was fitted on. Cosines of 0 are directions that have"
        " nothing in common."
    )
    left_out = f" The first {MOST} of {len(layers)} vectors are drawn." if len(layers) > MOST else ""
    return section(
        "The vectors, layer by layer",
        f'<p class="note">{note}{left_out}</p><div class="figures">{charts}</div>'
        f"<details><summary>the numbers by layer</summary>{numbers}</details>",
    )


def _auc(layers: Sequence[VectorLayers]) -> str:
    known = [one for one in layers if any(math.isfinite(v) for v in one.auc)]
    if not known:
        return ""
    series = [Series(name=one.name, x=one.layers, y=one.auc) for one in known]
    axes = Axes(title="AUC on held-out rows", x="layer", y="AUC", y_span=(0.5, 1.0))
    said = []
    for one in known:
        best = max(range(len(one.layers)), key=lambda i: one.auc[i] if math.isfinite(one.auc[i]) else -1)
        said.append(f"{visible(one.name)}: highest {one.auc[best]:.3f} at layer {one.layers[best]}")
    return figure(line_chart(series, axes), f"AUC by layer. {'; '.join(said)}.")


def _norms(layers: Sequence[VectorLayers]) -> str:
    if not layers:
        return ""
    relative = all(any(math.isfinite(v) for v in one.relative_norm) for one in layers)
    values = [one.relative_norm if relative else one.norm for one in layers]
    series = [Series(name=one.name, x=one.layers, y=y) for one, y in zip(layers, values, strict=True)]
    title = "Norm over that of the rows" if relative else "Norm of the vector"
    axes = Axes(title=title, x="layer", y="share of the rows' median norm" if relative else "norm", y_zero=True)
    said = "; ".join(
        f"{visible(one.name)}: {min(known):.3g} to {max(known):.3g}"
        for one, y in zip(layers, values, strict=True)
        if (known := [v for v in y if math.isfinite(v)])
    )
    return figure(line_chart(series, axes), f"{title} by layer. {said}.")


def _turns(layers: Sequence[VectorLayers]) -> str:
    known = [one for one in layers if any(math.isfinite(v) for v in one.turn)]
    if not known:
        return ""
    series = [Series(name=one.name, x=one.layers, y=one.turn) for one in known]
    axes = Axes(title="Cosine with the layer before", x="layer", y="cosine", y_zero=True)
    said = "; ".join(f"{visible(one.name)}: lowest {min(v for v in one.turn if v == v):.2f}" for one in known)
    return figure(line_chart(series, axes), f"Cosine of each vector's direction with that of the layer before. {said}.")


def _between(cosines: Sequence[CosineCurve]) -> str:
    if not cosines:
        return ""
    series = [Series(name=" and ".join(one.names), x=one.layers, y=one.cosine) for one in cosines]
    title = "Cosine between vectors" if len(series) > 1 else f"Cosine of {series[0].name}"
    axes = Axes(title=title, x="layer", y="cosine", y_zero=True)
    said = "; ".join(
        f"{visible(' and '.join(one.names))}: {min(one.cosine):+.2f} to {max(one.cosine):+.2f}" for one in cosines
    )
    return figure(line_chart(series, axes), f"Cosine between vectors by layer. {said}.")


def _numbers(one: VectorLayers) -> str:
    columns = ("layer", "AUC", "norm", "norm over rows'", "cosine with the layer before")
    rows = [
        (str(layer), *(_plain(v) for v in values))
        for layer, *values in zip(one.layers, one.auc, one.norm, one.relative_norm, one.turn, strict=True)
    ]
    return f"<h3>{escaped(one.name)}</h3>{table(f'{one.name} by layer', columns, rows)}"


def _plain(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "–"
