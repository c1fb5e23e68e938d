"""One page about a sweep: a single HTML file with its pictures inside, that asks no network and runs no script."""

import html
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median

from steercache.benchmarks.comparison import Comparison
from steercache.core.ids import SHORT_ID
from steercache.report.style import svg_of
from steercache.report.sweep_charts import gain_chart, letter_chart, map_chart
from steercache.sweeps.gain_maps import gain_maps
from steercache.sweeps.table import SplitTable, SweepTable, TableRow

_COLUMNS = (
    "",
    "setting",
    "right",
    "unread",
    "gain",
    "95 % interval",
    "p",
    "p (Holm)",
    "could show",
    "controls",
    "rank p",
    "KL",
)
_SHOWN = 10  # failures named on the page


def sweep_page(report: SweepTable) -> str:
    """The page as HTML.

    Raises:
        MissingExtraError: altair or vl-convert is not installed.
    """
    parts = [_head(report), *(_split(report, split) for split in report.splits)]
    drawn = gain_maps(report)
    if drawn:
        maps = "".join(f"<figure>{svg_of(map_chart(one), prefix=f'map{i}')}</figure>" for i, one in enumerate(drawn))
        note = "Gain over the baseline in percentage points, search split. The best of many cells is flattered by the choice."
        parts.append(_section("Layer and strength", f'<p class="note">{note}</p><div class="figures">{maps}</div>'))
    letters = _letters(report.splits[-1])
    if letters:
        note = "A gain that comes from giving one answer more often shows here."
        parts.append(
            _section(
                f"Answers before and after, {report.splits[-1].split} split",
                f'<p class="note">{note}</p><div class="figures">{letters}</div>',
            )
        )
    parts.append(_about(report))
    return html_document(f"{report.model} on {report.benchmark}", "".join(parts))


def html_document(title: str, body: str) -> str:
    """A whole page in the style of this package around a body that is HTML already."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )


def save_page(report: SweepTable, path: Path) -> Path:
    """Write the page; makes its folder."""
    text = sweep_page(report)
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
    sentences = "".join(f"<li>{html.escape(verdict(row))}</li>" for row in last.rows)
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
    listed = "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in facts)
    unfinished = (
        "" if report.status == "complete" else f'<p class="warn">This sweep is {html.escape(report.status)}.</p>'
    )
    if report.inferred:
        unfinished += (
            '<p class="note">An older steercache wrote this sweep and did not say which cells it chose: they are worked out'
            " from its answers.</p>"
        )
    return (
        f"<header><h1>{html.escape(report.model)} on {html.escape(report.benchmark)}</h1>"
        f'<p class="note">{html.escape(_named(report))}</p>'
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
    table = _table(_COLUMNS, [_cells(row) for row in split.rows])
    chart = f"<figure>{svg_of(gain_chart(split), prefix=split.split)}</figure>"
    return _section(f"{split.split.capitalize()} split", f'<p class="note">{html.escape(note)}</p>{chart}{table}')


def _cells(row: TableRow) -> list[str]:
    c, cell = row.comparison, row.cell
    gains = sorted(control.gain for control in row.controls if not control.ranked.failed)
    unit = "" if cell.alpha_unit == "raw" else " norms"
    return [
        row.name
        + (f" ({row.method.replace('_', ' ')})" if row.method else "")
        + (f", a vector of {row.lineage} lineage" if row.lineage in ("foreign", "unknown") else ""),
        "in words" if cell.layer is None else f"layer {cell.layer}, alpha {cell.alpha:g}{unit}, {cell.target}",
        f"{c.after:.3f}",
        f"{c.unread_after:.1%}",
        f"{c.gain.estimate:+.3f} (+{c.mcnemar.helped} −{c.mcnemar.hurt})",
        f"{c.gain.low:+.3f} to {c.gain.high:+.3f}",
        f"{c.p_clustered:.3g}",
        f"{row.p_holm:.3g}",
        "nothing" if c.detectable is None else f"{c.detectable:.3f}",
        f"{len(gains)}: mid {median(gains):+.3f}, best {gains[-1]:+.3f}" if gains else "–",
        "–" if row.rank_p is None else f"{row.rank_p:.3f}",
        "–" if row.damage is None else str(row.damage),
    ]


def _letters(split: SplitTable) -> str:
    charts = [letter_chart(row) for row in split.rows]
    return "".join(
        f"<figure>{svg_of(chart, prefix=f'answers{i}')}</figure>" for i, chart in enumerate(charts) if chart is not None
    )


def _about(report: SweepTable) -> str:
    failed = ""
    if report.failures:
        shown = "".join(f"<li>{html.escape(one.error)}</li>" for one in report.failures[:_SHOWN])
        failed = f"<h3>{len(report.failures)} questions failed</h3><ul>{shown}</ul>"
    manifest = html.escape(json.dumps(report.manifest, indent=1, ensure_ascii=False, default=str))
    words = (
        "Gain: share of right answers minus the unsteered one's on the same questions, with how many became right and wrong."
        " Unread: share of answers that name no option or several; they count as wrong. p: exact test by sign flips of whole"
        " pictures (McNemar's where every picture has one question); p (Holm): the same, adjusted for the rows of the table."
        " 95 % interval: Tango's score interval at the effective number of questions. Could show: the smallest gain that this"
        " test shows with power .8. Rank p: share of vector and controls that gained as much. KL: divergence"
        " of the next-token distribution on unrelated prompts, in nats."
    )
    return _section(
        "How to read this",
        f'<p class="note">{words}</p>{failed}<details><summary>Manifest of the sweep</summary><pre>{manifest}</pre></details>',
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>{body}</section>\n"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


_STYLE = """
:root { color-scheme: light; --ink: #1f2933; --quiet: #66727f; --line: #e4e8ec; --accent: #b3441e; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); font: 15px/1.5 system-ui, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 40px 28px 64px; }
h1 { font-size: 26px; line-height: 1.2; margin: 0 0 4px; letter-spacing: -.01em; }
h2 { font-size: 17px; margin: 44px 0 6px; padding-top: 14px; border-top: 1px solid var(--line); }
h3 { font-size: 15px; margin: 20px 0 4px; }
.note { color: var(--quiet); margin: 0 0 14px; max-width: 80ch; }
.warn { color: var(--accent); font-weight: 600; }
.verdicts { list-style: none; margin: 18px 0; padding: 0; }
.verdicts li { padding: 7px 14px; border-left: 3px solid var(--accent); margin: 6px 0; background: #faf8f6; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 3px 18px; margin: 16px 0 0; }
dt { color: var(--quiet); }
dd { margin: 0; }
.table { overflow-x: auto; margin-top: 14px; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; white-space: nowrap; }
th { text-align: left; font-weight: 500; color: var(--quiet); }
th, td { padding: 6px 13px 6px 0; border-bottom: 1px solid var(--line); }
td:first-child { font-weight: 600; }
td:nth-child(9) { white-space: normal; min-width: 11ch; }
figure { margin: 10px 0; }
figure svg { max-width: 100%; height: auto; }
.figures { display: flex; flex-wrap: wrap; gap: 18px 40px; align-items: flex-start; }
details { margin-top: 14px; }
summary { cursor: pointer; color: var(--quiet); }
pre { font-size: 12px; line-height: 1.4; overflow-x: auto; background: #f7f8f9; padding: 12px; white-space: pre-wrap;
  overflow-wrap: anywhere; }
@media print { main { padding: 0; } section { break-inside: avoid-page; } }
"""
