"""The page that a demo ends with: every step's commands, output, meaning and pictures in one file, which asks no network."""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from steercache.report.page import html_document

_TYPES: Final = {".png": "image/png", ".svg": "image/svg+xml"}
_WIDTH: Final = 560  # pixels of a picture on the page
_HEIGHT: Final = 720  # of an embedded page
_STYLE: Final = (
    "<style>img { max-width: 100%; height: auto; } iframe { width: 100%; border: 1px solid var(--line); }"
    " code { color: var(--accent); }</style>"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PageStep:
    """One step as it ran: its command lines, what each printed, what that means. Files that are not there are left out."""

    title: str
    commands: tuple[str, ...]
    outputs: tuple[str, ...]
    meaning: str
    seconds: float
    pictures: tuple[Path, ...] = ()
    page: Path | None = None


def demo_page(steps: Sequence[PageStep], *, title: str = "steercache demo") -> str:
    """The page as HTML; pictures and pages are inside it."""
    whole = sum(step.seconds for step in steps)
    names = "".join(
        f'<li><a href="#step{i}">{html.escape(step.title)}</a>: {html.escape(step.meaning)}</li>'
        for i, step in enumerate(steps, start=1)
    )
    head = (
        f"{_STYLE}<header><h1>{html.escape(title)}</h1>"
        f'<p class="note">{len(steps)} steps in {whole:.0f} s, on this machine. Each is a command that you can type.</p>'
        f'<ul class="verdicts">{names}</ul></header>\n'
    )
    return html_document(title, head + "".join(_section(i, step) for i, step in enumerate(steps, start=1)))


def save_demo_page(steps: Sequence[PageStep], path: Path) -> Path:
    """Write the page; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(demo_page(steps), encoding="utf-8")
    return path


def _section(number: int, step: PageStep) -> str:
    runs = "".join(
        f"<p><code>$ {html.escape(command)}</code></p><pre>{html.escape(output.strip())}</pre>"
        for command, output in zip(step.commands, step.outputs, strict=True)
    )
    pictures = "".join(_picture(path) for path in step.pictures if path.is_file())
    return (
        f'<section id="step{number}"><h2>{number}. {html.escape(step.title)}</h2>'
        f'<p>{html.escape(step.meaning)} <span class="note">({step.seconds:.1f} s)</span></p>'
        f'<div class="figures">{pictures}</div><details><summary>commands and what they print</summary>{runs}</details>'
        f"{_embedded(step.page)}</section>\n"
    )


def _picture(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    kind = _TYPES[path.suffix.lower()]
    name = html.escape(path.stem)
    return f'<figure><img alt="{name}" width="{_WIDTH}" src="data:{kind};base64,{data}"></figure>'


def _embedded(page: Path | None) -> str:
    """Another page inside this one, and a link to its file beside it."""
    if page is None or not page.is_file():
        return ""
    name, inside = html.escape(page.name), html.escape(page.read_text(encoding="utf-8"))
    return f'<p><a href="{name}">{name}</a></p><iframe title="{name}" height="{_HEIGHT}" srcdoc="{inside}"></iframe>'
