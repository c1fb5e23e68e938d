"""The page that a demo ends with: every step's commands, output, meaning and pictures in one file, which asks no network."""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from steercache.core.shown_text import escaped
from steercache.report.document import MAIN_TAG, body_of, html_document, nested

_TYPES: Final = {".png": "image/png", ".svg": "image/svg+xml"}
_WIDTH: Final = 560  # pixels on the page of a picture that does not say its size
_PNG_SCALE: Final = 2  # pixels of our PNG files for each pixel on the page, so that their labels have one size
_HEIGHT: Final = 720  # of an embedded page
_STYLE: Final = (
    "<style>img { max-width: 100%; height: auto; } iframe { width: 100%; border: 1px solid var(--line); }"
    " code { color: var(--accent); } .inside { border-left: 1px solid var(--line); padding-left: 18px; }"
    " .inside header, .inside section { break-before: auto; }"
    " @media screen and (max-width: 860px) { .inside { border: 0; padding: 0; } }</style>"
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
        f'<li><a href="#step{i}">{escaped(step.title)}</a>: {escaped(step.meaning)}</li>'
        for i, step in enumerate(steps, start=1)
    )
    head = (
        f"{_STYLE}<header><h1>{escaped(title)}</h1>"
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
        f"<p><code>$ {escaped(command)}</code></p><pre>{escaped(output.strip())}</pre>"
        for command, output in zip(step.commands, step.outputs, strict=True)
    )
    pictures = "".join(_picture(path, step) for path in step.pictures if path.is_file())
    return (
        f'<section id="step{number}"><h2>{number}. {escaped(step.title)}</h2>'
        f'<p>{escaped(step.meaning)} <span class="note">({step.seconds:.1f} s)</span></p>'
        f'<div class="figures">{pictures}</div><details><summary>commands and what they print</summary>{runs}</details>'
        f"{_embedded(step.page, number)}</section>\n"
    )


def _picture(path: Path, step: PageStep) -> str:
    content = path.read_bytes()
    data = base64.b64encode(content).decode()
    kind = _TYPES[path.suffix.lower()]
    name = escaped(f"{path.stem}. {step.meaning}")
    return f'<figure><img alt="{name}" width="{_width(content)}" src="data:{kind};base64,{data}"></figure>'


def _width(picture: bytes) -> int:
    """Width of a picture on the page, in pixels: a PNG file's own, which its header says at byte 16."""
    if picture[:8] == b"\x89PNG\r\n\x1a\n" and picture[12:16] == b"IHDR":
        return max(1, int.from_bytes(picture[16:20], "big") // _PNG_SCALE)
    return _WIDTH


def _embedded(page: Path | None, number: int) -> str:
    """Another page inside this one, and a link to its file beside it."""
    if page is None or not page.is_file():
        return ""
    name, text = escaped(page.name), page.read_text(encoding="utf-8")
    link = f'<p><a href="{name}">{name}</a></p>'
    if MAIN_TAG in text:  # ours: its content goes into this page, so that it is printed whole
        return f'{link}<div class="inside">{nested(body_of(text), prefix=f"step{number}", levels=2)}</div>'
    return f'{link}<iframe title="{name}" height="{_HEIGHT}" srcdoc="{html.escape(text)}"></iframe>'
