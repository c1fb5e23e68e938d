"""Objects in a notebook: what a person looks for is there, names are text, it is quick, and no model is loaded."""

import subprocess
import sys
import time
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import steercache
from steercache.api.notebook import sweep_html
from steercache.api.runs import Run
from steercache.core.selection import QueryRecord, Selection
from steercache.core.vectors import SteeringVector
from steercache.manifests.load import find_manifest, read_manifest
from steercache.queries.session import open_session
from steercache.sae.health import Health, KindHealth
from tests.report.test_page import report, row

HOSTILE = '</svg></text><script>alert(1)</script><img src=x onerror="alert(1)"> \u202ednuora\x1b[31m'


class Reader(HTMLParser):
    """The words of HTML, its tags, and what would run or be fetched."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words, self.tags, self.bad = "", set[str](), list[str]()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.bad += [name for name, _ in attrs if name.startswith("on") or "href" in name or name == "src"]

    def handle_data(self, data: str) -> None:
        self.words += data


@dataclass(frozen=True)
class Rows:
    """A run without rows, for a selection that is only looked at."""

    run_id: str = "r" * 64
    generation: str = "g0001"
    lossy: bool = False

    def layers(self, site: str) -> tuple[int, ...]:
        return (0,)

    def gather(self, site: str, layer: int, rows: Any) -> Any:
        raise AssertionError("a notebook reads no activations")


def vector(name: str, n_layers: int = 4) -> SteeringVector:
    values = np.arange(1, 1 + 3 * n_layers, dtype=np.float32).reshape(n_layers, 3)
    said = tuple({"layer": i, "auc": 0.6 + i / 10} for i in range(n_layers))
    return SteeringVector(
        name=name,
        method="mean_shift",
        concept=name,
        site="resid_post",
        layers=tuple(range(n_layers)),
        values=values,
        diagnostics=said,
    )


def selection(name: str) -> Selection:
    n = 9
    return Selection(
        source=Rows(),
        query=QueryRecord(name=name, text="", bindings={}),
        rows=np.arange(n),
        sample_idx=np.arange(n) // 3,
        position=(np.arange(n) % 3).astype(np.int32),
        token_id=np.zeros(n, dtype=np.int32),
        label=(np.arange(n) % 2).astype(np.int8),
        concept=name,
    )


def health(name: str) -> Health:
    kind = KindHealth(
        kind=name,
        n_rows=9,
        n_non_finite=0,
        explained_variance=0.9,
        cosine=0.95,
        mse=0.1,
        l0_mean=3.0,
        l0_median=3.0,
        n_dead=1,
        n_dense=0,
    )
    return Health(
        sae_id="s" * 64,
        sae=name,
        run_id="r" * 64,
        site="resid_post",
        layer=3,
        generation="g",
        lossy=False,
        n_features=8,
        kinds=(kind,),
    )


def run(name: str) -> Run:
    return Run(
        run_id="r" * 64,
        name=name,
        model=name,
        dtype="float32",
        modality="text",
        sites={name: (0, 2)},
        hidden_size=3,
        n_samples=2,
        n_rows=9,
        notes=(name,),
    )


MAKERS = {
    "vector": (vector, "Norm by layer"),
    "one layer": (lambda name: vector(name, 1), "norm"),
    "selection": (selection, "Rows by position"),
    "health": (health, "Explained variance"),
    "run": (run, "Layers kept"),
    "table": (lambda name: replace(report(row(name, 12, controls=(0.0, 0.1))), name=name, model=name), "95 % interval"),
}


@pytest.mark.parametrize("of", MAKERS)
def test_an_object_shows_what_one_looks_for_and_a_hostile_name_as_text(of: str) -> None:
    make, wanted = MAKERS[of]
    plain, hostile = (Reader(make(name)._repr_html_()) for name in ("counting", HOSTILE))
    assert wanted in plain.words
    assert "counting" in plain.words
    assert hostile.tags == plain.tags
    assert hostile.bad == []
    assert "[U+202E]" in hostile.words
    assert not set(hostile.words) & {"\x1b", "\u202e"}
    if of != "one layer":
        assert "svg" in plain.tags
    assert repr(make("counting")).startswith(("<", "SweepTable(", "Health("))  # the plain text beside it
    made = make("counting")
    started = time.process_time()
    made._repr_html_()
    assert time.process_time() - started < 0.1


def test_a_cache_and_a_sweep_that_was_not_run_say_what_there_is(tmp_path: Path) -> None:
    cache = steercache.open(tmp_path / "root", create=True)
    words = Reader(cache._repr_html_()).words
    for said in ("Cache root", "runs 0", "vectors 0", "sweeps 0"):
        assert said in words
    cache.save(vector("first"))
    words = Reader(cache._repr_html_()).words
    assert "vectors 1" in words
    assert "first" in words
    manifest: Any = read_manifest(find_manifest("demo-count", kind="sweep"))
    assert "none yet" in Reader(sweep_html(open_session(tmp_path / "root"), manifest)).words


def test_a_cache_shows_itself_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys, steercache; c = steercache.open(sys.argv[1], create=True); c._repr_html_();"
        " assert not {'torch', 'altair', 'transformers'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "root")], check=True)
