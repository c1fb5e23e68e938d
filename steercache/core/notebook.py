"""How an object shows itself in a notebook: a few facts, a small picture, a table. HTML with its styles inline, and no script.

Everything is escaped, and drawn in the colours of the notebook's own theme.
"""

from collections.abc import Sequence

from steercache.core.shown_text import escaped

_CELL = "text-align:left;padding:2px 12px 2px 0;border-bottom:1px solid rgba(128,128,128,.25)"
MAX_ROWS = 12


def notebook_html(
    title: str,
    facts: Sequence[tuple[str, object]],
    *,
    pictures: Sequence[str] = (),
    tables: Sequence[str] = (),
) -> str:
    """The whole: `facts` as name and value, `pictures` as SVG, `tables` as `notebook_table` makes them."""
    said = "".join(
        f'<span style="margin-right:16px"><span style="opacity:.75">{escaped(name)}</span> {escaped(str(value))}</span>'
        for name, value in facts
        if value is not None
    )
    drawn = "".join(f'<div style="margin:4px 18px 4px 0">{one}</div>' for one in pictures if one)
    shown = f'<div style="display:flex;flex-wrap:wrap">{drawn}</div>' if drawn else ""
    return (
        f'<div style="font-size:13px;line-height:1.5;overflow-x:auto"><strong>{escaped(title)}</strong>'
        f"<div>{said}</div>{shown}{''.join(tables)}</div>"
    )


def notebook_table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, name: str = "", n_rows: int | None = None
) -> str:
    """A table of at most `MAX_ROWS` rows; `n_rows` says how many there are in all."""
    whole = len(rows) if n_rows is None else n_rows
    head = "".join(f'<th scope="col" style="{_CELL}">{escaped(column)}</th>' for column in columns)
    body = "".join(
        "<tr>" + "".join(f'<td style="{_CELL}">{escaped(_plain(value))}</td>' for value in row) + "</tr>"
        for row in rows[:MAX_ROWS]
    )
    shown = min(len(rows), MAX_ROWS)
    more = f'<div style="opacity:.75">{whole - shown:,} more</div>' if whole > shown else ""
    caption = f'<div style="margin-top:8px">{escaped(name)}</div>' if name else ""
    look = "border-collapse:collapse;font-size:inherit"
    whole_table = f'<table style="{look}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f"{caption}{whole_table}{more}"


def _plain(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
