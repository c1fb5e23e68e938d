"""What gradients predict of every cell, beside what the answers show."""

import math
from collections.abc import Sequence

import numpy as np

from steercache.analysis.predicted import PredictedCell, PredictedSweep
from steercache.core.drawing.charts import Axes, Point, scatter
from steercache.core.drawing.frame import Key
from steercache.core.drawing.heat import heat_map
from steercache.core.shown_text import escaped, visible
from steercache.report.document import figure, section, table
from steercache.stats.ranks import spearman

_COLOURS, _MAPS = 5, 12


def predicted_section(found: PredictedSweep) -> str:
    """Maps of predictions, and a scatter of predicted against exact where cells were run."""
    arms = list(dict.fromkeys(one.arm for one in found.cells))
    maps = "".join(_map(found, arm, t) for arm in arms for t in _targets(found, arm))
    charts = "".join(
        _pairs([one for one in found.pairs if _exact(one, of) is not None], arms, of) for of in ("margin", "accuracy")
    )
    n_beyond = sum(one.beyond for one in found.cells)
    beyond = (
        f" {n_beyond} of {len(found.cells)} cells are stronger than predictions hold for: they stand at the limit."
        if n_beyond
        else ""
    )
    note = (
        f"Predicted from the gradients of {escaped(found.run)} over {found.n} questions of the search split, to first order and"
        f" without a pilot.{beyond} The answer margin is log p(right) less that of the likeliest wrong option."
    )
    body = f'<p class="note">{note}</p><div class="figures">{charts}{maps}</div>'
    return section("Predicted against exact" if charts else "Predicted from gradients", body)


def _targets(found: PredictedSweep, arm: str) -> list[str]:
    return list(dict.fromkeys(str(one.cell.target) for one in found.cells if one.arm == arm))[:_MAPS]


def _exact(one: PredictedCell, of: str) -> float | None:
    return one.exact_margin if of == "margin" else one.exact_accuracy


def _predicted(one: PredictedCell, of: str) -> float:
    return one.margin if of == "margin" else one.accuracy


def _pairs(pairs: Sequence[PredictedCell], arms: Sequence[str], of: str) -> str:
    if not pairs:
        return ""
    scale, unit = (1.0, "margin, nats") if of == "margin" else (100.0, "right answers, points")
    points = [
        Point(
            name=one.arm,
            x=scale * _predicted(one, of),
            y=scale * (_exact(one, of) or 0.0),
            series=arms.index(one.arm) % _COLOURS,
            words=f"{one.arm}, layer {one.cell.layer}, alpha {one.cell.alpha:g}, {one.cell.target}",
        )
        for one in pairs
    ]
    keys = [Key(name=arm, series=i, kind="dot") for i, arm in enumerate(arms[:_COLOURS])]
    axes = Axes(
        title=f"Change of {unit}", x="predicted", y="exact", x_signed=True, y_signed=True, x_zero=True, y_zero=True
    )
    rho = spearman([p.x for p in points], [p.y for p in points]) if len(points) > 2 else math.nan
    agreed = f" Rank correlation {rho:.2f}." if math.isfinite(rho) else ""
    words = f"Predicted against exact change of {unit}, {len(points)} cells.{agreed}"
    rows = [
        (
            f"{one.arm}, layer {one.cell.layer}, alpha {one.cell.alpha:g}, {one.cell.target}",
            f"{p.x:+.3g}",
            f"{p.y:+.3g}",
            str(one.n),
            "yes" if one.beyond else "no",
        )
        for one, p in list(zip(pairs, points, strict=True))[:200]
    ]
    numbers = table(words, ("cell", "predicted", "exact", "questions", "beyond the limit"), rows)
    return figure(scatter(points, axes, keys=keys, diagonal=True), words, numbers=numbers)


def _map(found: PredictedSweep, arm: str, target: str) -> str:
    cells = {
        (int(one.cell.layer or 0), one.cell.alpha): one
        for one in found.cells
        if one.arm == arm and one.cell.target == target
    }
    layers, alphas = sorted({key[0] for key in cells}, reverse=True), sorted({key[1] for key in cells})
    if len(cells) < 2:
        return ""
    grid = np.array([[cells[la, a].margin if (la, a) in cells else np.nan for a in alphas] for la in layers])
    i, j = np.unravel_index(int(np.nanargmax(grid)), grid.shape)
    columns = [f"{a:g}" for a in alphas]
    svg = heat_map(
        grid.tolist(),
        rows=[str(la) for la in layers],
        columns=columns,
        title=f"{arm}, {target}",
        x_title="alpha",
        y_title="layer; predicted change of the margin, nats",
        chosen=(int(i), int(j)),
        n_digits=2,
    )
    words = (
        f"Predicted change of the mean answer margin of {visible(arm)} on {visible(target)} tokens, in nats: highest"
        f" {grid[i, j]:+.2f} at layer {layers[i]}, alpha {alphas[j]:g} (frame); {found.n} questions behind every cell."
    )
    rows = [
        (str(la), *("–" if math.isnan(v) else f"{v:+.3f}" for v in line)) for la, line in zip(layers, grid, strict=True)
    ]
    return figure(svg, words, numbers=table(words, ("layer", *(f"alpha {c}" for c in columns)), rows))
