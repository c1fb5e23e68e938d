"""A page about a sweep that has no table of right answers: an analysis, or a sweep that has only begun."""

import json
import math
from collections.abc import Mapping, Sequence

from steercache.core.drawing.charts import Axes, Series, line_chart
from steercache.core.excerpts import shortened
from steercache.core.ids import SHORT_ID
from steercache.core.shown_text import escaped, visible
from steercache.report.about_sections import missing_section
from steercache.report.document import figure, html_document, section, table
from steercache.sweeps.stored_cells import StoredCell, StoredSweep

_ROWS, _TEXTS, _CHARS = 200, 40, 300


def plain_page(sweep: StoredSweep, *, why: str, commands: Mapping[str, Sequence[str]]) -> str:
    """The page as HTML; `why` says why there is no table."""
    return html_document(sweep.name, plain_body(sweep, why=why, commands=commands))


def plain_body(sweep: StoredSweep, *, why: str, commands: Mapping[str, Sequence[str]]) -> str:
    """What is stored: cells with their scores, texts, and the manifest."""
    saved = f", {sweep.created_at[:19]} UTC" if sweep.created_at else ""
    status = "" if sweep.status == "complete" else f'<p class="warn">This sweep is {escaped(sweep.status)}.</p>'
    counts = ", ".join(f"{n:,} {split}" for split, n in sweep.n_by_split.items()) or "none yet"
    facts = [("kind", sweep.kind or "–"), ("cells", f"{len(sweep.cells):,}"), ("answers", counts)]
    listed = "".join(f"<dt>{escaped(k)}</dt><dd>{escaped(v)}</dd>" for k, v in facts)
    head = (
        f"<header><h1>{escaped(sweep.name)}</h1>"
        f'<p class="note">{escaped(f"sweep {sweep.sweep_id[:SHORT_ID]}{saved}")}</p>{status}<dl>{listed}</dl></header>\n'
    )
    lines = "".join(
        f"<h3>{escaped(what)}</h3><pre>{escaped(chr(10).join(some))}</pre>" for what, some in commands.items() if some
    )
    manifest = escaped(json.dumps(sweep.manifest, indent=1, ensure_ascii=False, default=str))
    about = section(
        "Provenance", f"{lines}<details><summary>Manifest of the sweep</summary><pre>{manifest}</pre></details>"
    )
    return head + missing_section([why]) + _scores(sweep.cells) + _cells(sweep) + _texts(sweep) + about


def _scores(cells: Sequence[StoredCell]) -> str:
    """Mean score against strength, the vectors' beside the range of their controls."""
    scored = [one for one in cells if one.mean_score is not None]
    own = list(dict.fromkeys((one.vector, one.layer) for one in scored if one.vector and not one.control))[:5]
    base = [one.mean_score for one in scored if one.vector is None and one.mean_score is not None]
    if not own:
        return ""
    start = base[0] if base else math.nan
    series = []
    for name, layer in own:
        some = {c.alpha: c.mean_score or 0.0 for c in scored if (c.vector, c.layer) == (name, layer) and not c.control}
        alphas = sorted(some)
        series.append(Series(name=f"{name}, layer {layer}", x=[0.0, *alphas], y=[start, *(some[a] for a in alphas)]))
    controls: dict[float, list[float]] = {}
    for one in scored:
        if one.control and one.mean_score is not None:
            controls.setdefault(one.alpha, []).append(one.mean_score)
    if controls:
        at = sorted(controls)
        low, high = [min(controls[a]) for a in at], [max(controls[a]) for a in at]
        series.append(
            Series(
                name="controls",
                x=[0.0, *at],
                y=[math.nan] * (len(at) + 1),
                low=[start, *low],
                high=[start, *high],
                grey=True,
            )
        )
    axes = Axes(title="Mean score against strength", x="alpha", y="mean score", y_zero=True, x_zero=True)
    said = "; ".join(
        f"{visible(s.name)}: {min(k):.3g} to {max(k):.3g}" for s in series if (k := [v for v in s.y if v == v])
    )
    words = f"Mean score against strength. {said}."
    return section("Scores", f'<div class="figures">{figure(line_chart(series, axes), words)}</div>')


def _cells(sweep: StoredSweep) -> str:
    """The cells of the vectors, and those of their controls folded."""
    if not sweep.cells:
        return ""
    own, controls = ([one for one in sweep.cells if one.control is control] for control in (False, True))
    shown = _listed(own, "Cells of the sweep")
    if controls:
        summary = f"<summary>{len(controls):,} cells of controls</summary>"
        shown += f"<details>{summary}{_listed(controls, 'Cells of controls')}</details>"
    return section("Cells", shown)


def _listed(cells: Sequence[StoredCell], name: str) -> str:
    columns = ("vector", "setting", "answers", "failed", "right", "mean score", "mean margin")
    rows = [
        (
            one.vector or "no vector",
            "–" if one.layer is None else f"layer {one.layer}, alpha {one.alpha:g}, {one.target}",
            f"{one.n:,}",
            f"{one.n_failed:,}",
            "–" if one.n_right is None else f"{one.n_right:,}",
            "–" if one.mean_score is None else f"{one.mean_score:.4g}",
            "–" if one.mean_margin is None else f"{one.mean_margin:.4g}",
        )
        for one in cells[:_ROWS]
    ]
    more = f'<p class="note">The first {_ROWS} of {len(cells):,} cells.</p>' if len(cells) > _ROWS else ""
    return more + table(name, columns, rows)


def _texts(sweep: StoredSweep) -> str:
    if not sweep.texts:
        return ""
    rows = [(setting, shortened(text, _CHARS)) for setting, text in sweep.texts[:_TEXTS]]
    return section("Texts", table("Texts stored with the answers", ("setting", "text"), rows))
