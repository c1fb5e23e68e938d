"""A page about a made-up sweep: odd names do no harm, claims are only what the numbers allow, a browser draws it."""

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from steercache.benchmarks.comparison import compare, wrong_way
from steercache.core.trials import Answer, Cell
from steercache.report.page import save_page, sweep_page, verdict
from steercache.stats.paired import Interval
from steercache.sweeps.cell_rows import CellRow
from steercache.sweeps.table import ControlResult, Failure, SplitTable, SweepTable, TableRow
from tests.report.browser import BROWSER, OFFLINE
from tests.report.pages import outside_references, text_of

pytest.importorskip("altair", reason="the pictures of a page need the extra `plots`")

ODD = '<img src=x onerror="alert(1)">&amp; "vector"'


def row(name: str, flipped: int, *, n: int = 60, worse: int = 0, controls: tuple[float, ...] = ()) -> TableRow:
    """A row in which `flipped` answers become right and `worse` become wrong."""
    was = [i < n // 2 for i in range(n)]
    now = [w or n // 2 <= i < n // 2 + flipped for i, w in enumerate(was)]
    now = [v and i >= worse for i, v in enumerate(now)]
    answers = [
        [Answer(cell_id=c, sample_id=str(i), split="test", parsed="AB"[v], correct=v) for i, v in enumerate(some)]
        for c, some in (("base", was), (name, now))
    ]
    comparison = compare(answers[0], answers[1], {str(i): str(i) for i in range(n)})
    rank = (1 + sum(c >= comparison.gain.estimate for c in controls)) / (1 + len(controls)) if controls else None
    kinds = tuple(
        ControlResult(name=f"c{i}", kind="random", cell=cell(3, 2.0), gain=g, n=n, n_failed=0)
        for i, g in enumerate(controls)
    )
    return TableRow(
        name=name,
        role="vector",
        split="test",
        vector_id="v",
        lineage=None,
        cell_id=name,
        rule="exhaustive",
        n_cells=4,
        method="mean_shift",
        concept="counting",
        cell=cell(3, 2.0),
        comparison=comparison,
        p_holm=comparison.p_clustered,
        controls=kinds,
        rank_p=rank,
    )


def cell(layer: int, alpha: float) -> Cell:
    return Cell(vector_id="v", layer=layer, alpha=alpha, target="image", model_fingerprint="m", prompt_id="plain")


def cell_row(name: str, layer: int, alpha: float, gain: float) -> CellRow:
    return CellRow(
        vector=name,
        cell_id=f"{layer} {alpha}",
        cell=cell(layer, alpha),
        n_seen=60,
        n_failed=0,
        right=0.5 + gain,
        unread=0.0,
        gain=Interval(estimate=gain, low=-1.0, high=1.0, level=0.95, n=60, n_groups=60),
        wrong_way=wrong_way(()),
        p_family=None,
        dropped=False,
    )


def report(*rows: TableRow) -> SweepTable:
    name = rows[0].name
    return SweepTable(
        sweep_id="a" * 64,
        name="made",
        kind="eval",
        status="complete",
        created_at=None,
        manifest={"kind": "eval", "note": ODD},
        model="tiny",
        benchmark="scenes",
        rule="grouped",
        splits=(SplitTable(split="test", n=60, n_failed=1, baseline=0.5, unread=0.025, whatsup=None, rows=rows),),
        cells=tuple(cell_row(name, *at) for at in ((2, 1.0, 0.05), (3, 1.0, -0.031), (3, 2.0, 0.117))),
        n_answers=120,
        n_looks=3,
        clustered=True,
        inferred=False,
        failures=(Failure(split="test", place="row 7", error="row 7: no picture"),),
    )


def test_names_and_messages_are_text_and_never_markup() -> None:
    page = sweep_page(report(row(ODD, 3)))
    assert outside_references(page) == []
    assert "<img" not in page
    assert ODD in text_of(page)
    assert "looked at 3 times" in text_of(page)
    assert "row 7: no picture" in text_of(page)
    assert "+11.7" in text_of(page)


def test_a_gain_is_called_one_only_where_interval_and_controls_allow_it() -> None:
    many = tuple(np.linspace(-0.05, 0.05, 20))
    assert "no change beyond chance" in verdict(row("weak", 2, controls=many))
    assert "beyond its 20 controls" in verdict(row("strong", 20, controls=many))
    assert "fewer right answers" in verdict(row("harmful", 0, worse=20, controls=many))
    assert "no change beyond chance" in verdict(replace(row("many rows", 20, controls=many), p_holm=0.2))


@pytest.mark.parametrize(
    ("controls", "said"),
    [  # the vector gains 20 of 60
        ((0.0,) * 19, ", beyond its 19 controls (rank p = 0.050)."),
        ((*[0.0] * 38, 0.4), ", beyond 38 of its 39 controls (rank p = 0.050)."),
        ((*[0.0] * 10, *[0.6] * 10), ", but 10 of 20 controls do as well (rank p = 0.524)."),
        ((*[0.0] * 19, 20 / 60), ", but 1 of 20 controls does as well (rank p = 0.095)."),
        ((0.3,) * 18, ", beyond all 18 controls, which are too few for p <= .05 (rank p = 0.053)."),
        ((0.3,), ", beyond its one control, too few to tell (rank p = 0.500)."),
        ((), ")."),
    ],
)
def test_a_gain_stands_to_as_many_controls_as_are_counted(controls: tuple[float, ...], said: str) -> None:
    assert verdict(row("strong", 20, controls=controls)).endswith(said)


def test_the_controls_middle_is_their_median() -> None:
    assert "2: mid +0.010, best +0.020" in text_of(sweep_page(report(row("even", 9, controls=(0.02, 0.0)))))
    assert "3: mid +0.010, best +0.500" in text_of(sweep_page(report(row("odd", 9, controls=(0.5, 0.0, 0.01)))))


def test_the_same_report_is_the_same_page_and_its_pictures_share_no_id() -> None:
    made = report(row("counting", 9, controls=(0.01, 0.02)), row("entity", 2))
    page = sweep_page(made)
    assert sweep_page(made) == page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids)) > 3
    assert set(re.findall(r"url\(#([^)]+)\)", page)) <= set(ids)


@pytest.mark.slow
def test_a_browser_draws_the_page_without_the_network(tmp_path: Path) -> None:
    path = save_page(report(row("counting", 9, controls=(0.01, 0.02)), row("entity", 2)), tmp_path / "deep" / "r.html")
    assert BROWSER is not None, "no browser: `apt-get install chromium`, as .ci/run does"
    command = [BROWSER, *OFFLINE, f"--user-data-dir={tmp_path}", "--window-size=1100,1400"]
    subprocess.run([*command, f"--screenshot={tmp_path / 'page.png'}", path.as_uri()], check=True, capture_output=True)
    drawn = np.asarray(PIL.Image.open(tmp_path / "page.png").convert("RGB")).reshape(-1, 3)
    accent = np.abs(drawn.astype(int) - (0xB3, 0x44, 0x1E)).max(axis=1) < 8
    assert accent.sum() > 200  # points and intervals of the gains
    assert (drawn == 255).all(axis=1).mean() < 0.97


@pytest.mark.parametrize(
    ("lineage", "said"), [("unknown", True), ("foreign", True), ("backbone", False), (None, False)]
)
def test_a_vector_of_other_or_unknown_lineage_is_named_so_in_the_table(lineage: str | None, said: bool) -> None:
    text = text_of(sweep_page(report(replace(row("counting", 12), lineage=lineage))))
    assert (f"a vector of {lineage} lineage" in text) == said
