"""A page that asks no network and runs no script: its frame, its sections, its tables and its charts."""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from steercache.core.shown_text import escaped
from steercache.report.document_style import STYLE

MAIN_TAG: Final = '<main id="main" tabindex="-1">'


def html_document(title: str, body: str) -> str:
    """A whole page in the style of this package around a body that is HTML already."""
    return (
        '<!doctype html>\n<html lang="en" dir="ltr">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escaped(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f'<body>\n<a class="skip" href="#main">Skip to the results</a>\n{MAIN_TAG}\n{body}</main>\n</body>\n</html>\n'
    )


def body_of(page: str) -> str:
    """The content of a whole page of ours."""
    return page.split(MAIN_TAG, 1)[1].rsplit("</main>", 1)[0]


def nested(body: str, *, prefix: str, levels: int) -> str:
    """Content of ours so that it can stand inside another page: its headings `levels` down, at most to `h6`, and its ids and
    names of controls with a prefix of their own."""

    def moved(tag: re.Match[str]) -> str:
        below = re.sub(r"^(</?h)([1-6])>", lambda found: f"{found[1]}{min(int(found[2]) + levels, 6)}>", tag[0])
        return re.sub(r'(\b(?:id|name)="|href="#|url\(#)', rf"\g<1>{prefix}-", below)

    return re.sub(r"<[^>]*>", moved, body)


def section(title: str, body: str) -> str:
    """A section with its heading; `body` is HTML."""
    return f"<section><h2>{escaped(title)}</h2>{body}</section>\n"


def table(name: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of texts whose first column names the rows. Where it is wider than the page it scrolls by itself."""
    head = "".join(f'<th scope="col">{escaped(column)}</th>' for column in columns)
    body = "".join(
        f'<tr><th scope="row">{escaped(cells[0])}</th>' + "".join(map(_cell, cells[1:])) + "</tr>" for cells in rows
    )
    return (
        f'<div class="table" role="region" tabindex="0" aria-label="{escaped(name)}"><table>'
        f'<caption class="unseen">{escaped(name)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _cell(text: str) -> str:
    kind = "number" if len(text) <= 10 and " " not in text else "line" if len(text) <= 18 else ""
    return f'<td class="{kind}">{escaped(text)}</td>' if kind else f"<td>{escaped(text)}</td>"


def figure(svg: str, words: str, *, kind: str = "", phone: str = "", numbers: str = "") -> str:
    """A chart, and what it shows in words for those who do not see it.

    Args:
        svg: The chart, as `style.svg_of` makes it.
        words: What it shows.
        kind: "map" where colours are values.
        phone: The same chart for a narrow screen, an SVG; without it, `svg` serves there as well.
        numbers: A table of what it shows, as HTML; without it, the words say everything.
    """
    label = f'<svg role="img" aria-label="{escaped(words)}"'
    drawn = [("chart wide" if phone else "chart", svg), *([("chart narrow", phone)] if phone else [])]
    charts = "".join(
        f'<div class="{name}" role="group" tabindex="0" aria-label="chart">{one.replace("<svg", label, 1)}</div>'
        for name, one in drawn
    )
    told = f"<details><summary>the numbers of this chart</summary>{numbers}</details>" if numbers else ""
    opening = f'<figure class="{kind}">' if kind else "<figure>"
    return f"{opening}{charts}{told}</figure>"
