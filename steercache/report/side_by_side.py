"""Several sweeps on one page: one table and one picture of all their arms, then each sweep by itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from steercache.core.drawing.intervals import Estimate, interval_chart
from steercache.core.shown_text import escaped, visible
from steercache.report.document import figure, html_document, nested, section, table
from steercache.report.tradeoff import priced, tradeoff
from steercache.sweeps.table import SweepTable

_DRAWN = 40  # arms in the chart
_WIDE = 680  # pixels
_COLUMNS = (
    "sweep",
    "arm",
    "setting",
    "questions",
    "before",
    "after",
    "gain",
    "95 % interval",
    "p (Holm)",
    "rank p",
    "KL",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPart:
    """One sweep of the page: its name, its table (None: it has none), its content as HTML."""

    name: str
    table: SweepTable | None
    body: str = field(repr=False)


def side_by_side(parts: Sequence[SweepPart], *, commands: Mapping[str, Sequence[str]]) -> str:
    """The page as HTML; ids of each part get a prefix of their own. `commands` made the page."""
    title = f"{len(parts)} sweeps side by side"
    tables = [(part.name, part.table) for part in parts if part.table is not None]
    listed = "".join(f'<li><a href="#sweep{i}">{escaped(part.name)}</a></li>' for i, part in enumerate(parts, start=1))
    head = f"<header><h1>{title}</h1><ol>{listed}</ol></header>\n"
    bodies = "".join(
        f'<div class="sweep" id="sweep{i}">{nested(part.body, prefix=f"sweep{i}", levels=1)}</div>\n'
        for i, part in enumerate(parts, start=1)
    )
    lines = "".join(
        f"<h3>{escaped(what)}</h3><pre>{escaped(chr(10).join(some))}</pre>" for what, some in commands.items()
    )
    return html_document(
        title, head + _all_arms(tables) + _all_prices(tables) + bodies + section("Provenance of the page", lines)
    )


def _all_arms(tables: Sequence[tuple[str, SweepTable]]) -> str:
    rows, drawn = [], []
    for name, one in tables:
        split = one.splits[-1]
        for row in split.rows:
            c = row.comparison
            drawn.append(
                Estimate(
                    name=f"{row.name} ({name})",
                    value=100 * c.gain.estimate,
                    low=100 * c.gain.low,
                    high=100 * c.gain.high,
                    controls=[100 * k.gain for k in row.controls if not k.ranked.failed],
                )
            )
            rows.append(
                (
                    name,
                    row.name,
                    row.setting or "in words",
                    f"{split.n:,} {split.split}",
                    f"{c.before:.3f}",
                    f"{c.after:.3f}",
                    f"{c.gain.estimate:+.3f}",
                    f"{c.gain.low:+.3f} to {c.gain.high:+.3f}",
                    f"{row.p_holm:.3g}",
                    "–" if row.rank_p is None else f"{row.rank_p:.3f}",
                    "–" if row.damage is None else str(row.damage),
                )
            )
    if not rows:
        return section("All arms", '<p class="note">None of these sweeps has a table of right answers.</p>')
    shown = drawn[:_DRAWN]
    said = "; ".join(f"{visible(e.name)}: {e.value:+.1f}, {e.low:+.1f} to {e.high:+.1f}" for e in shown[:12])
    words = (
        f"Gain over each sweep's own baseline in percentage points with its 95 % interval, {len(shown)} arms. {said}."
    )
    x = "gain over the baseline, points"
    chart = figure(
        interval_chart(shown, title="Gain of every arm", x=x, width=_WIDE),
        words,
        phone=interval_chart(shown, title="Gain of every arm", x=x),
    )
    note = (
        "Each sweep against its own baseline, on the last split that it asked. p values are adjusted within a sweep, not across"
        " these sweeps. Grey: controls."
    )
    more = f" The chart has the first {_DRAWN} of {len(drawn)}." if len(drawn) > _DRAWN else ""
    return section(
        "All arms", f'<p class="note">{note}{more}</p>{chart}{table("All arms of all sweeps", _COLUMNS, rows)}'
    )


def _all_prices(tables: Sequence[tuple[str, SweepTable]]) -> str:
    points = [point for name, one in tables for point in priced(one.splits[-1], of=name)]
    return tradeoff(points, title="Gain against damage, all sweeps", split="last")
