"""One page about a sweep: a single HTML file with its pictures inside, that asks no network and runs no script."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from types import MappingProxyType

from steercache.analysis.findings import Findings
from steercache.benchmarks.comparison import Comparison
from steercache.core.ids import SHORT_ID
from steercache.core.shown_text import escaped
from steercache.report.about_sections import features_section, missing_section, provenance_section
from steercache.report.card_section import card_section
from steercache.report.chart_words import gain_words, letter_numbers, letter_words, map_numbers, map_words
from steercache.report.curve_sections import dose_section, layers_section
from steercache.report.document import figure, html_document, section, table
from steercache.report.predicted_section import predicted_section
from steercache.report.style import svg_of
from steercache.report.sweep_charts import gain_chart, gain_chart_narrow, letter_chart, map_chart
from steercache.report.tradeoff import tradeoff_section
from steercache.sweeps.gain_maps import GainMap, gain_maps
from steercache.sweeps.table import SplitTable, SweepTable, TableRow
from steercache.sweeps.together import INTERFERENCE_COLUMNS, interference_line

_COLUMNS = (
    "arm",
    "setting",
    "right",
    "unread",
    "gain",
    "95 % interval",
    "wrong way",
    "p",
    "p (Holm)",
    "could show",
    "controls",
    "rank p",
    "KL",
)
_SHOWN = 10  # failures named on the page


def sweep_page(
    report: SweepTable,
    findings: Findings | None = None,
    *,
    commands: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> str:
    """The page as HTML. `findings` is what the cache says beside the table, `commands` are lines that make it again.

    Raises:
        MissingExtraError: altair or vl-convert is not installed.
    """
    return html_document(title_of(report), sweep_body(report, findings, commands=commands))


def title_of(report: SweepTable) -> str:
    """What a page about a sweep is called."""
    return f"{report.model} on {report.benchmark}".strip()


def sweep_body(
    report: SweepTable,
    findings: Findings | None = None,
    *,
    commands: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> str:
    """The content of the page: accuracy with intervals and controls first, then how the settings came about, then questions."""
    found = findings or Findings()
    parts = [_head(report), *(_split(report, split) for split in report.splits)]
    drawn = gain_maps(report)
    if drawn:
        maps = "".join(_map(one, i) for i, one in enumerate(drawn))
        note = "Gain over the baseline in percentage points, search split. The best of many cells is flattered by the choice."
        parts.append(section("Layer and strength", f'<p class="note">{note}</p><div class="figures">{maps}</div>'))
    parts += [dose_section(found.curves), tradeoff_section(report.splits[-1])]
    if found.predicted is not None:
        parts.append(predicted_section(found.predicted))
    parts += [layers_section(found.layers, found.cosines), features_section(found.features)]
    letters = _letters(report.splits[-1])
    if letters:
        note = "A gain that comes from giving one answer more often shows here."
        parts.append(
            section(
                f"Answers before and after, {report.splits[-1].split} split",
                f'<p class="note">{note}</p><div class="figures">{letters}</div>',
            )
        )
    parts += [card_section(found.cards, name="cards"), missing_section(found.missing)]
    parts += [_about(report), provenance_section(report, found.origins, commands)]
    return "".join(parts)


def save_page(
    report: SweepTable,
    path: Path,
    findings: Findings | None = None,
    *,
    commands: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> Path:
    """Write the page; makes its folder."""
    return save_text(sweep_page(report, findings, commands=commands), path)


def save_text(text: str, path: Path) -> Path:
    """Write a page that is HTML already; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def verdict(row: TableRow) -> str:
    """What one row shows, in a sentence; a gain is called one only where its interval and its controls allow it.

    The p value is the one adjusted for all rows of the table.
    """
    c = row.comparison
    points = f"{100 * c.gain.estimate:+.1f} points [{100 * c.gain.low:+.1f}, {100 * c.gain.high:+.1f}]"
    if not c.gain.excludes_zero or row.p_holm > 0.05:
        seen = "" if c.detectable is None else f"; {_of(c)} could have shown {100 * c.detectable:.1f}"
        return f"{row.name}: no change beyond chance ({points}, p = {row.p_holm:.3g}{seen})."
    direction = "more" if c.gain.estimate > 0 else "fewer"
    said = f"{row.name}: {direction} right answers ({points}, p = {row.p_holm:.3g})"
    if row.rank_p is None or c.gain.estimate < 0:
        return f"{said}."
    return f"{said}, {_beside(row)} (rank p = {row.rank_p:.3f})."


def _of(comparison: Comparison) -> str:
    n, n_groups = comparison.clusters.n, comparison.clusters.n_groups
    return f"{n} questions" if n == n_groups else f"{n} questions of {n_groups} pictures"


def _beside(row: TableRow) -> str:
    """How a gain stands to its controls; that few controls can show nothing is not said of the vector."""
    n = len(row.controls)
    as_well = sum(control.gain >= row.comparison.gain.estimate for control in row.controls)
    if row.rank_p is not None and row.rank_p <= 0.05:
        return f"beyond its {n} controls" if not as_well else f"beyond {n - as_well} of its {n} controls"
    if as_well:
        return f"but {as_well} of {n} controls {'does' if as_well == 1 else 'do'} as well"
    return (
        f"beyond all {n} controls, which are too few for p <= .05"
        if n > 1
        else "beyond its one control, too few to tell"
    )


def _head(report: SweepTable) -> str:
    last = report.splits[-1]
    looked = "The test split was not looked at."
    if report.n_looks is not None:
        times = "once" if report.n_looks == 1 else f"{report.n_looks} times"
        looked = f"This test split was looked at {times}, this time included."
    sentences = "".join(f"<li>{escaped(verdict(row))}</li>" for row in last.rows)
    facts = [
        ("model", report.model),
        ("benchmark", f"{report.benchmark}{f', {report.rule} splits' if report.rule else ''}"),
        (
            "questions",
            ", ".join(f"{s.n} {s.split}" + (f" ({s.n_failed} failed)" if s.n_failed else "") for s in report.splits),
        ),
        ("unsteered", ", ".join(f"{s.baseline:.3f} right, {s.unread:.1%} unread ({s.split})" for s in report.splits)),
        ("looks", looked),
        ("answers kept", f"{report.n_answers:,}"),
    ]
    listed = "".join(f"<dt>{escaped(k)}</dt><dd>{escaped(v)}</dd>" for k, v in facts)
    unfinished = "" if report.status == "complete" else f'<p class="warn">This sweep is {escaped(report.status)}.</p>'
    if report.inferred:
        unfinished += (
            '<p class="note">An older steercache wrote this sweep and did not say which cells it chose: they are worked out'
            " from its answers.</p>"
        )
    return (
        f"<header><h1>{escaped(report.model)} on {escaped(report.benchmark)}</h1>"
        f'<p class="note">{escaped(_named(report))}</p>'
        f'{unfinished}<ul class="verdicts">{sentences}</ul><dl>{listed}</dl></header>\n'
    )


def _named(report: SweepTable) -> str:
    saved = "" if report.created_at is None else f", {report.created_at[:19]} UTC"
    return f"{report.name}, sweep {report.sweep_id[:SHORT_ID]}{saved}"


def _split(report: SweepTable, split: SplitTable) -> str:
    if not split.rows:
        return ""
    told = (
        "Chosen here, so flattered by the choice."
        if split.split == "search" and any(row.n_cells > 1 for row in split.rows)
        else "Settings fixed beforehand."
    )
    how = (
        "pictures resampled whole"
        if report.clustered
        else "questions are taken as independent: their pictures are unknown"
    )
    note = (
        f"{split.baseline:.3f} right without a vector, {split.n} questions. {told} Red: gain with its 95 % interval ({how})"
        + ("; grey: what the controls gained, chosen the same way." if any(row.controls for row in split.rows) else ".")
    )
    title = f"{split.split.capitalize()} split"
    chart = figure(
        svg_of(gain_chart(split), prefix=split.split),
        gain_words(split),
        phone=svg_of(gain_chart_narrow(split), prefix=f"{split.split}-narrow"),
    )
    rows = table(f"{title}: every arm", _COLUMNS, [_cells(row) for row in split.rows])
    once = _predictors(split) + _together(report) if split is report.splits[0] else ""
    return section(title, f'<p class="note">{escaped(note)}</p>{chart}{rows}{_side_effects(split)}{once}')


def _together(report: SweepTable) -> str:
    """Combinations of vectors beside the sum of what their parts do alone; empty without any."""
    lines = [interference_line(one) for one in report.interference]
    name = "Several vectors at once: measured, and the sum of what the parts do alone"
    return table(name, INTERFERENCE_COLUMNS, lines) if lines else ""


def _side_effects(split: SplitTable) -> str:
    """What the chosen cells do on unrelated tasks, beside their damage; empty without a panel."""
    lines = [
        [
            row.name,
            one.task,
            f"{one.before:.3f}",
            f"{one.after:.3f}",
            f"{one.change:+.3f} (+{one.helped} −{one.hurt})",
            f"{one.low:+.3f} to {one.high:+.3f}",
            f"{one.n}" + (f", {one.n_failed} failed" if one.n_failed else ""),
            "–" if row.damage is None else str(row.damage),
        ]
        for row in split.rows
        for one in row.side_effects
    ]
    columns = ("", "unrelated task", "before", "after", "change", "95 %", "questions", "KL")
    return table("Side effects of the chosen cells", columns, lines) if lines else ""


def _map(grid: GainMap, number: int) -> str:
    words = map_words(grid)
    numbers = table(words, *map_numbers(grid))
    return figure(svg_of(map_chart(grid), prefix=f"map{number}"), words, kind="map", numbers=numbers)


def _cells(row: TableRow) -> list[str]:
    c = row.comparison
    gains = sorted(control.gain for control in row.controls if not control.ranked.failed)
    return [
        row.name
        + (f" ({row.method.replace('_', ' ')})" if row.method else "")
        + (f", a vector of {row.lineage} lineage" if row.lineage in ("foreign", "unknown") else ""),
        row.setting or "in words",
        f"{c.after:.3f}",
        f"{c.unread_after:.1%}",
        f"{c.gain.estimate:+.3f} (+{c.mcnemar.helped} −{c.mcnemar.hurt})",
        f"{c.gain.low:+.3f} to {c.gain.high:+.3f}",
        str(c.wrong_way).replace("-", "–"),
        f"{c.p_clustered:.3g}",
        f"{row.p_holm:.3g}",
        "nothing" if c.detectable is None else f"{c.detectable:.3f}",
        f"{len(gains)}: mid {median(gains):+.3f}, best {gains[-1]:+.3f}" if gains else "–",
        "–" if row.rank_p is None else f"{row.rank_p:.3f}",
        "–" if row.damage is None else str(row.damage),
    ]


def _predictors(split: SplitTable) -> str:
    """What each vector's fit says beforehand of whether it steers; empty where nothing was measured."""
    lines = [
        [
            row.name,
            "–" if row.cell.layer is None else str(row.cell.layer),
            "–" if known.d_prime is None else f"{known.d_prime:.2f}",
            known.cosine_words or "–",
        ]
        for row in split.rows
        for known in [row.predictors]
        if known is not None
    ]
    return (
        table("What the fits say beforehand", ("vector", "layer", "d′", "cosine of differences"), lines)
        if lines
        else ""
    )


def _letters(split: SplitTable) -> str:
    drawn = [(row, letter_chart(row)) for row in split.rows]
    return "".join(
        figure(
            svg_of(chart, prefix=f"answers{i}"),
            letter_words(row),
            numbers=table(letter_words(row), *letter_numbers(row)),
        )
        for i, (row, chart) in enumerate(drawn)
        if chart is not None
    )


def _about(report: SweepTable) -> str:
    failed = ""
    if report.failures:
        shown = "".join(f"<li>{escaped(one.error)}</li>" for one in report.failures[:_SHOWN])
        n, s = len(report.failures), "" if len(report.failures) == 1 else "s"
        failed = f"<h3>{n} question{s} failed</h3><ul>{shown}</ul>"
    manifest = escaped(json.dumps(report.manifest, indent=1, ensure_ascii=False, default=str))
    words = (
        "Gain: share of right answers minus the unsteered one's on the same questions, with how many became right and wrong."
        " Unread: share of answers that name no option or several; they count as wrong. p: exact test by sign flips of whole"
        " pictures (McNemar's where every picture has one question); p (Holm): the same, adjusted for the rows of the table."
        " 95 % interval: Tango's score interval at the effective number of questions. Could show: the smallest gain that this"
        " test shows with power .8. Rank p: share of vector and controls that gained as much. KL: divergence"
        " of the next-token distribution on unrelated prompts, in nats. Wrong way: share of questions that were right unsteered"
        " and are wrong steered, and of those whose answer margin fell. d′ and cosine of differences are of the vector's fit at"
        " that layer: distance of its two sides in standard deviations, and how alike its training differences point (±"
        " standard deviation); vectors with small values steer less reliably. Strengths in nats of KL: cells of equal alpha do"
        " equal damage."
    )
    return section(
        "How to read this",
        f'<p class="note">{words}</p>{failed}<details><summary>Manifest of the sweep</summary><pre>{manifest}</pre></details>',
    )
