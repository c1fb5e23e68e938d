"""A small cache behind the explorer, with what hostile data sets may hold, and how tests ask it."""

import re
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from starlette.testclient import TestClient

from steercache.api.cache import open_cache_at
from steercache.cache.sweeps import save_sweep
from steercache.core.trials import Answer
from steercache.core.vectors import SteeringVector
from steercache.explorer.app import create_app
from tests.index.small import Sentence, span
from tests.queries.conftest import PICTURE_RUN, TEXT_RUN, add_vectors, cell
from tests.queries.small_cache import LAYERS, add_run
from tests.queries.small_features import PICTURE_FEATURES, TEXT_FEATURES, plant_features

TOKEN = "key-of-the-tests"
HOST = "127.0.0.1:8765"
EVIL = "</title></script><script>window.hurt=1</script><img src=x onerror=window.hurt=1>"
SVG = '"><svg onload=window.hurt=1><a href="javascript:window.hurt=1">x</a></svg>'
BIDI = "user\u202egnp.exe\u2066 zero\u200bwidth \x1b[31mred\x00"
TEMPLATE = "{{ 7 * 191 }} {% raw %} ${1337}"
HOSTILE_TEXT = f"{EVIL} {SVG} {BIDI} {TEMPLATE}"


@dataclass(frozen=True, kw_only=True)
class Small:
    """A cache, and the ids of what is in it."""

    root: Path
    text: str
    pictures: str
    hostile: str
    east: str
    sweep: str


def make_small(root: Path) -> Small:
    """Runs `text` and `pictures` of tests/queries, two vectors, features, a sweep, and a run named by an attacker."""
    text = add_run(root, "text", TEXT_RUN)
    pictures = add_run(
        root, "pictures", PICTURE_RUN, modality="multimodal", model="seer", created_at="2026-05-01T00:00:00+00:00"
    )
    first = HOSTILE_TEXT.split(" ", 1)[0]
    hostile = [
        Sentence(text=HOSTILE_TEXT, labels={"concept": EVIL, "split": SVG, "question": SVG, "answer": BIDI}),
        Sentence(text="a", labels={"concept": BIDI, "anchors": [span("a", "a")], "choices": [EVIL, first]}),
    ]
    attacked = add_run(root, EVIL, [hostile], model=SVG, created_at="2026-06-01T00:00:00+00:00")
    plant_features(root, text, TEXT_FEATURES)
    plant_features(root, pictures, PICTURE_FEATURES)
    cache = open_cache_at(root)
    east, _ = add_vectors(cache.session, text)
    named = SteeringVector(
        name=SVG,
        method="mean_shift",
        concept=EVIL,
        site="resid_post",
        layers=LAYERS,
        values=np.ones((3, 4), dtype=np.float32),
        provenance={"run_id": attacked, "query": {"text": EVIL}},
    )
    cache.save(named)
    base, steered = cell(None, 0.0), cell(east, 0.5)
    answers = [
        Answer(cell_id=c.cell_id, sample_id=f"q{i}", split="test", raw=EVIL, parsed="a", correct=i % 2 == k)
        for k, c in enumerate((base, steered))
        for i in range(8)
    ]
    sweep = save_sweep(cache.folder, EVIL, manifest={"alphas": [0, 0.5]}, cells=[base, steered], answers=answers)
    return Small(
        root=root,
        text=text,
        pictures=pictures,
        hostile=attacked,
        east=east.vector_id,
        sweep=str(getattr(sweep, "sweep_id", sweep)),
    )


class Site(TestClient):
    """A client of the explorer: `at` asks for a page below the key."""

    def __init__(self, root: Path, **options: Any) -> None:
        app = create_app(open_cache_at(root), token=TOKEN, **options)
        super().__init__(app, base_url=f"http://{HOST}", raise_server_exceptions=False, follow_redirects=False)

    def at(self, path: str, **params: Any) -> Any:
        return self.get(f"/{TOKEN}{path}", params=params or None)

    def page(self, path: str, **params: Any) -> "Page":
        answer = self.at(path, **params)
        assert answer.status_code == 200, answer.text
        return Page(answer.text)

    def sql(self, text: str, **more: Any) -> Any:
        return self.post(f"/{TOKEN}/sql", data={"sql": text, **more}, headers={"origin": f"http://{HOST}"})


class Page(HTMLParser):
    """A page as a parser sees it: its elements, its text, and everything that would run or be fetched."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.source = text
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self._in_data = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self._in_data = tag == "script"

    def handle_endtag(self, tag: str) -> None:
        self._in_data = self._in_data and tag != "script"

    def handle_data(self, data: str) -> None:
        if not self._in_data:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str, **wanted: str) -> list[dict[str, str]]:
        wanted = {name.rstrip("_"): value for name, value in wanted.items()}
        return [
            attrs
            for name, attrs in self.elements
            if name == tag and all(value in attrs.get(key, "") for key, value in wanted.items())
        ]

    def dangers(self) -> list[str]:
        """Everything that runs, or is fetched from elsewhere, beside the explorer's own script and style."""
        found = []
        ours = {f"/{TOKEN}/static/app.js", f"/{TOKEN}/static/style.css", f"/{TOKEN}/static/icon.svg"}
        for tag, attrs in self.elements:
            if tag in ("iframe", "object", "embed", "base", "meta", "style", "script", "link", "foreignobject"):
                known = attrs.get("src", attrs.get("href", "")) in ours or attrs.get("type") == "application/json"
                known = known or (tag == "meta" and "http-equiv" not in attrs)
                found += [] if known else [f"<{tag} {attrs}>"]
            for name, value in attrs.items():
                if (
                    name.startswith("on")
                    or name == "style"
                    or ("javascript:" in value.lower() and name in ("href", "src", "action"))
                ):
                    found.append(f"{tag} {name}={value}")
                if name in ("href", "src", "action", "xlink:href") and not value.startswith((f"/{TOKEN}/", "?", "#")):
                    found.append(f"{tag} {name}={value}")
        return found


def tokens_of(page: Page) -> dict[int, str]:
    """The class of the colour of every token by its place."""
    found = {}
    for tag, attrs in page.elements:
        if tag in ("span", "rect") and "data-i" in attrs:
            (level,) = re.findall(r"\b(?:v-?\d+|none)\b", attrs["class"].replace("v-", "v-"))[-1:]
            found[int(attrs["data-i"])] = level
    return found
