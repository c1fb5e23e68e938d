"""Reading a page as a browser would, without one: its words, and what it would fetch."""

import re
from html.parser import HTMLParser

_FETCHING = {"src", "href", "xlink:href", "srcset", "data", "action", "poster", "background"}


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "iframe", "object", "embed", "link"):
            self.outside.append(tag)
        for name, value in attrs:
            if name in _FETCHING and not (value or "").startswith(("#", "data:")):
                self.outside.append(f"{tag} {name}={value}")
            if name.startswith("on"):
                self.outside.append(f"{tag} {name}")
            if "url(" in (value or "") and "url(#" not in (value or ""):
                self.outside.append(f"{tag} {name}={value}")

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def _read(page: str) -> _Reader:
    reader = _Reader()
    reader.feed(page)
    return reader


def text_of(page: str) -> str:
    """All text of a page, its pictures' included."""
    return " ".join(" ".join(_read(page).words).split())


def outside_references(page: str) -> list[str]:
    """Everything that would be fetched or run."""
    found = _read(page).outside
    return found + re.findall(r"@import[^;]*|url\((?!#)[^)]*\)", page)
