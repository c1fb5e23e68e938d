"""Code blocks and command lines of the README and of the pages of the site."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted((REPOSITORY / "docs").rglob("*.md"))
DOCUMENTS = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *PAGES]
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>[a-z]+)[^\n]*\n(?P<body>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)
INDENTED = re.compile(r"^ {4}((?:steercache|pip|make) .*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A block of code of one language; `place` is file:line."""

    place: str
    language: str
    text: str

    def __str__(self) -> str:
        return self.place


def blocks_of(path: Path) -> Iterator[Block]:
    """The fenced blocks of a document, in order."""
    text = path.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        line = text[: match.start()].count("\n") + 1
        place = f"{path.relative_to(REPOSITORY)}:{line}"
        yield Block(place=place, language=match["language"], text=dedent(match["body"]))


BLOCKS = [block for path in DOCUMENTS for block in blocks_of(path)]


def in_language(*languages: str) -> list[Block]:
    """The blocks of some languages."""
    return [block for block in BLOCKS if block.language in languages]


def command_lines() -> list[tuple[str, str]]:
    """(place, line) of every command that a document shows: in console blocks, and indented by four spaces."""
    found = [(b.place, line.strip()) for b in in_language("console") for line in b.text.splitlines() if line.strip()]
    for path in DOCUMENTS:
        without_fences = FENCE.sub("", path.read_text(encoding="utf-8"))
        found += [(str(path.relative_to(REPOSITORY)), line) for line in INDENTED.findall(without_fences)]
    return found
