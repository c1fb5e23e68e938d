"""What a page says beside a sweep's table: predictions as screening makes them, numbers counted from the answers, and what a
cache lacks."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steercache.analysis.findings import Findings, findings_of
from steercache.api.cache import open_cache_at
from steercache.api.reporting import record_command, write_report
from steercache.benchmarks.pictures import FILE_NAME as PICTURES
from steercache.benchmarks.questions import read_questions
from steercache.cache.sweeps import begin_sweep
from steercache.cells.sweep import SweepJob
from steercache.core.errors import NotFoundError
from steercache.queries.session import Session, open_session
from steercache.screening.gradient_source import ensure_gradients
from steercache.screening.gradient_store import StoredGradients
from steercache.screening.predict import predict_settings, wish_of
from steercache.sweeps.find import read_sweep_and_record
from steercache.sweeps.grid import run_grid
from steercache.sweeps.result import SweepResult
from tests.report.pages import outside_references, text_of
from tests.screening.small_gradients import copied_root, wanted
from tests.sweeps.small_sweep import small_job, stored_answers_of
from tests.world import World

pytest.importorskip("altair", reason="the pictures of a page need the extra `plots`")
pytestmark = pytest.mark.slow  # a grid and its gradients on the tiny model


@dataclass(frozen=True, kw_only=True)
class Swept:
    """A grid that was run on a cache of its own, with gradients of its questions."""

    session: Session
    job: SweepJob
    found: SweepResult
    gradients: StoredGradients
    findings: Findings


@pytest.fixture(scope="module")
def swept(world: World, tmp_path_factory: pytest.TempPathFactory) -> Swept:
    folder = tmp_path_factory.mktemp("findings")
    session = open_session(copied_root(world, folder))
    changes: dict[str, Any] = {"vectors": ["counting", "entity"], "alphas": [0.5, 2, 40], "layers": [1, 3], "n": 10}
    job = small_job(session, world.loaded, folder, **changes)
    asked = job.tasks[0].asked["search"]
    gradients = ensure_gradients(session, asked, wish_of("scenes", job.grid.cells), wanted(world.loaded))
    found = run_grid(job).tasks[0]
    record_command(session, [found.sweep_id], "steercache grid small --nulls 0")
    table, record = read_sweep_and_record(session, found.sweep_id)
    findings = findings_of(session, table, record)
    return Swept(session=session, job=job, found=found, gradients=gradients, findings=findings)


def test_predictions_of_a_page_are_those_of_screening_and_stand_beside_what_the_answers_show(swept: Swept) -> None:
    predicted = swept.findings.predicted
    assert predicted is not None
    assert (predicted.run, predicted.n) == (swept.gradients.document.name, len(swept.gradients.samples))
    cells = swept.job.grid.cells
    peers = {(p.setting.arm.name, p.setting.cell.cell_id): p for p in predict_settings(swept.gradients, cells)}
    assert len(predicted.cells) == len(peers) == 2 * 2 * 3 * 2
    assert sum(one.beyond for one in predicted.cells) > 2
    answers = stored_answers_of(swept.session, swept.found.sweep_id)
    base = swept.job.grid.baseline.cell.cell_id
    shares = {one.accuracy - peers[one.arm, one.cell.cell_id].accuracy for one in predicted.cells}
    assert max(shares) - min(shares) < 1e-6  # changes and shares differ by one number: the unsteered share
    for one in predicted.cells:
        peer = peers[one.arm, one.cell.cell_id]
        assert one.margin == pytest.approx(peer.shift, abs=2e-5)
        assert one.beyond == peer.beyond
        moved = [
            row["margin"] - answers[base, sample]["margin"]
            for (cell, sample), row in answers.items()
            if cell == one.cell.cell_id and row["split"] == "search" and row["margin"] is not None
        ]
        assert one.exact_margin == (pytest.approx(np.mean(moved), abs=1e-5) if moved else None)
        right = [
            float(row["correct"]) - float(answers[base, sample]["correct"])
            for (cell, sample), row in answers.items()
            if cell == one.cell.cell_id and row["split"] == "search"
        ]
        assert one.exact_accuracy == pytest.approx(np.mean(right))


def test_curves_layers_and_cards_are_counted_from_the_cache(swept: Swept) -> None:
    answers = stored_answers_of(swept.session, swept.found.sweep_id)
    base = swept.job.grid.baseline.cell.cell_id
    chosen = {row.name: row for row in swept.found.choices}
    assert [c.arm for c in swept.findings.curves] == list(chosen)
    for curve in swept.findings.curves:
        assert [p.alpha for p in curve.points] == [0, 0.5, 2, 40]
        assert (curve.layer, curve.chosen) == (chosen[curve.arm].cell.layer, chosen[curve.arm].cell.alpha)
    assert [one.name for one in swept.findings.layers] == ["counting", "entity"]
    for one in swept.findings.layers:
        vector = swept.session.vector(one.name)
        np.testing.assert_allclose(one.norm, np.linalg.norm(vector.values, axis=1), rtol=1e-6)
        turned = [
            a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            for a, b in zip(vector.values, vector.values[1:], strict=False)
        ]
        np.testing.assert_allclose(one.turn[1:], turned, rtol=1e-5)
    for cards in swept.findings.cards:
        cell = chosen[cards.arm].cell_id
        of_cell = {sample: row for (c, sample), row in answers.items() if c == cell and row["split"] == "test"}
        pairs = [(answers[base, sample]["correct"], row["correct"]) for sample, row in of_cell.items()]
        assert cards.counts["helped"] == pairs.count((False, True))
        assert cards.counts["hurt"] == pairs.count((True, False))
        assert sum(cards.counts.values()) == len(pairs)
        for card in cards.cards:
            assert card.question is not None
            assert card.question.startswith("How many")
            assert card.picture is not None  # stored beside the answers when the sweep ran
    asked = {q.sample_id: q for q in read_questions(swept.session.cache.paths.sweep(swept.found.sweep_id))}
    for one in swept.job.tasks[0].asked["test"]:
        assert one.encoded is not None
        assert (asked[one.sample_id].question, asked[one.sample_id].image) == (
            one.labels.question,
            one.encoded.image_digests[0],
        )


def test_one_page_and_several_side_by_side_are_whole_and_refer_to_nothing_outside(swept: Swept, tmp_path: Path) -> None:
    begin_sweep(swept.session.cache, "begun", manifest={"kind": "eval"}, cells=[])
    for names in ("small",), ("small", "begun"):
        made = write_report(
            swept.session, names, tmp_path / "p.html", command=f"steercache report html {' '.join(names)}"
        )
        page = made.path.read_text(encoding="utf-8")
        assert outside_references(page) == []
        text = text_of(page)
        for said in (
            "Gain against strength",
            "Predicted against exact",
            "The vectors, layer by layer",
            "Single questions",
            "Provenance",
            "steercache grid small --nulls 0",
            f"steercache report html {' '.join(names)}",
        ):
            assert said in text, said
        ids = [part.split('"')[0] for part in page.split(' id="')[1:]]
        assert len(ids) == len({*ids})
        assert page.count("data:image/jpeg") > 3
        assert len(page) < 5_000_000
    assert "2 sweeps side by side" in text
    assert "No table of right answers" in text
    assert [one.table is None for one in made.sweeps] == [False, True]


Removal = Callable[[Path], None]


@pytest.mark.parametrize(
    ("removed", "said"),
    [
        ("vectors", "cannot be read"),
        ("runs", "No gradients of these questions are in the cache"),
        (PICTURES, "pictures are not in the cache"),
        ("choices.json", "did not say which cells it chose"),
    ],
)
def test_a_cache_that_lacks_something_says_so_and_shows_the_rest(
    swept: Swept, tmp_path: Path, removed: str, said: str
) -> None:
    root = tmp_path / "root"
    shutil.copytree(swept.session.cache.root, root, ignore=shutil.ignore_patterns("models"))
    for path in [root / removed, *root.glob(f"sweeps/*/{removed}")]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    page = write_report(open_session(root), swept.found.sweep_id, tmp_path / "p.html").path.read_text(encoding="utf-8")
    assert said in text_of(page)
    assert "Test split" in page


def test_a_name_that_is_no_sweep_is_an_error_that_names_what_to_do(tmp_path: Path) -> None:
    cache = open_cache_at(tmp_path / "empty", create=True)
    with pytest.raises(NotFoundError, match="no sweep yet"):
        cache.report("small")
