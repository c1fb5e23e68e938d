"""A sweep's table made again from its answers: the numbers of the evaluation that wrote them, and counts done by hand."""

import json
import os
import shlex
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

import steercache
from steercache.analysis.origins import compare_origins, find_origins, vector_cosines
from steercache.benchmarks.questions import FILE_NAME
from steercache.cache.handle import open_cache
from steercache.cache.rebuild import rebuild_index
from steercache.cache.sweeps import save_sweep
from steercache.cli.main import run
from steercache.core.errors import DamagedError, NotFoundError, UsageError
from steercache.core.trials import Answer, Cell
from steercache.data.benchmarks import open_benchmark
from steercache.manifests.sweep import Race
from steercache.queries.session import Session, open_session
from steercache.report.page import sweep_page, verdict
from steercache.sweeps.evaluation import evaluate
from steercache.sweeps.find import count_namesakes, read_sweep
from steercache.sweeps.gain_maps import gain_maps
from steercache.sweeps.grid import GridOptions
from steercache.sweeps.result import SweepResult
from steercache.sweeps.table import SweepTable
from tests.report.pages import outside_references, text_of
from tests.sweeps.small_run import options
from tests.sweeps.small_sweep import small_grid
from tests.world import World

COUNTS = open_benchmark("scenes", task="Count", form="number", limit=60)


@pytest.fixture(scope="module")
def session(world: World, tmp_path_factory: pytest.TempPathFactory) -> Session:
    root = tmp_path_factory.mktemp("pages") / "root"
    shutil.copytree(world.session.cache.root, root, ignore=shutil.ignore_patterns("models", "sweeps", "ledger*"))
    return open_session(root)


@pytest.fixture(scope="module")
def found(session: Session, world: World) -> SweepResult:
    asked = options(alphas=(3.0, 9.0), layers=(1, 3), controls=3, n=12, damage=True)
    vectors = [session.vector("counting"), session.vector("entity")]
    return evaluate(session, world.loaded, COUNTS, vectors=vectors, options=asked)


@pytest.fixture(scope="module")
def report(session: Session, found: SweepResult) -> SweepTable:
    return read_sweep(session, found.sweep_id[:12])


def test_the_table_is_the_one_that_the_evaluation_printed(report: SweepTable, found: SweepResult) -> None:
    rows = {(split.split, row.name): row for split in report.splits for row in split.rows}
    assert rows.keys() == {(row.split, row.name) for row in found.rows}
    for wanted in found.rows:
        row = rows[wanted.split, wanted.name]
        assert row.comparison == wanted.comparison
        assert (row.p_holm, row.rank_p, row.role) == (wanted.p_holm, wanted.rank_p, wanted.role)
        assert repr(row) == repr(wanted)  # with controls, bias and damage
    assert {split.split: split.baseline for split in report.splits} == found.baseline
    assert report.cells == found.cells
    assert not report.inferred
    page = sweep_page(report)
    assert all(f"{share:.1%} unread ({split})" in page for split, share in ((s.split, s.unread) for s in report.splits))
    assert all(f">{row.comparison.unread_after:.1%}</td>" in page for row in found.rows)
    assert (report.n_looks, report.clustered, report.failures) == (found.n_looks, True, ())


def test_records_are_the_rows_as_plain_values(report: SweepTable, session: Session) -> None:
    table = steercache.open(session.cache.root).table(report.sweep_id)
    assert repr(table.rows) == repr(report.rows)
    records = table.records()
    assert [(one["split"], one["arm"]) for one in records] == [(row.split, row.name) for row in table.rows]
    for one, row in zip(records, table.rows, strict=True):
        assert one["gain"] == pytest.approx(one["after"] - one["before"]) == pytest.approx(row.comparison.gain.estimate)
        assert (one["cell_id"], one["n_controls"]) == (row.cell_id, len(row.controls))
    assert json.loads(json.dumps(records)) == records


def test_choices_are_read_from_the_sweep_and_worked_out_where_an_older_one_has_none(
    report: SweepTable, session: Session, tmp_path: Path
) -> None:
    shutil.copytree(session.cache.root, tmp_path / "root")
    own = open_session(tmp_path / "root")
    asked = "select arm, role, cell_id, n_cells from choices where sweep_id = $s order by place"
    stored = own.sql(asked, s=report.sweep_id).fetchall()
    assert [row[0] for row in stored[:3]] == ["baseline", "prompting", "counting"]
    assert [row[1] for row in stored].count("control") == 2 * 3
    assert {row.cell_id for row in report.rows} == {
        cell for _, role, cell, _ in stored if role in ("prompting", "vector")
    }
    path = own.cache.paths.sweep(report.sweep_id) / "choices.json"
    written = json.loads(path.read_bytes())
    path.unlink()
    again = read_sweep(open_session(tmp_path / "root"), report.sweep_id)
    assert (report.inferred, again.inferred) == (False, True)
    assert "did not say which cells it chose" in text_of(sweep_page(again))
    without_damage = [replace(row, damage=None, controls=()) for row in report.rows]
    assert repr([replace(row, controls=()) for row in again.rows]) == repr(without_damage)
    (changed,) = [one for one in written["choices"] if one["arm"] == "counting"]
    others = [one.cell_id for one in report.cells if one.vector == "counting" and one.cell_id != changed["cell_id"]]
    changed["cell_id"] = others[0]  # what is stored is shown, not what would be chosen again
    path.write_text(json.dumps(written))
    row = read_sweep(open_session(tmp_path / "root"), report.sweep_id).row("search", "counting")
    assert row is not None
    assert row.cell_id == others[0]


def test_the_map_of_gains_is_counted_from_the_answers(report: SweepTable, session: Session) -> None:
    sql = (
        "select v.name, c.layer, c.alpha, avg(a.correct::int) from answers a join cells c using (sweep_id, cell_id)"
        " left join (select distinct vector_id, name, control_kind from vectors) v using (vector_id)"
        " where a.sweep_id = $s and a.split = 'search' and c.prompt_id = 'plain' and control_kind is null group by all"
    )
    shares = {(n, k, a): share for n, k, a, share in session.sql(sql, s=report.sweep_id).fetchall()}
    baseline = shares[None, None, 0.0]
    assert [m.vector for m in gain_maps(report)] == ["counting", "entity"]
    for one in gain_maps(report):
        assert (one.layers, one.alphas) == ((1, 3), (3.0, 9.0))
        wanted = [[shares[one.vector, k, a] - baseline for a in one.alphas] for k in one.layers]
        np.testing.assert_allclose(one.gain_la, wanted, atol=1e-12)


def test_without_questions_every_sample_stands_for_itself(report: SweepTable, session: Session, tmp_path: Path) -> None:
    shutil.copytree(session.cache.root, tmp_path / "root")
    (tmp_path / "root" / "sweeps" / report.sweep_id / FILE_NAME).unlink()
    again = read_sweep(open_session(tmp_path / "root"), report.sweep_id)
    assert not again.clustered
    for old, new in zip(report.splits, again.splits, strict=True):
        for a, b in zip(old.rows, new.rows, strict=True):
            assert a.comparison.gain.estimate == pytest.approx(b.comparison.gain.estimate)
            assert a.comparison.mcnemar == b.comparison.mcnemar
            assert not any(b.comparison.letters.right)
    assert "questions are taken as independent" in text_of(sweep_page(again))


def test_the_page_has_the_tables_numbers_and_refers_to_nothing_outside(report: SweepTable) -> None:
    page = sweep_page(report)
    text = text_of(page)
    assert len(page.encode()) < 1_500_000
    assert outside_references(page) == []
    for split in report.splits:
        for row in split.rows:
            gain = row.comparison.gain
            assert f"{gain.estimate:+.3f}" in text
            assert f"{gain.low:+.3f} to {gain.high:+.3f}" in text
            assert f"{row.comparison.after:.3f}" in text
        assert f"{split.baseline:.3f} right" in text
    n_charts = 2 + len(gain_maps(report)) + len(report.splits[-1].rows) + 1  # the last: gain against damage
    assert page.count("<figure") == n_charts
    assert "looked at once" in text
    for row in report.splits[-1].rows:
        assert verdict(row) in text


@pytest.mark.parametrize("race", [None, Race(tolerance=0.1)], ids=["exact", "raced"])
def test_a_grids_page_has_its_choices_and_its_gains(
    session: Session, world: World, tmp_path: Path, race: Race | None
) -> None:
    (task,) = small_grid(
        session,
        world.loaded,
        tmp_path,
        options=GridOptions(race=race),
        targets=["text"],
        vectors=["counting", "entity"],
    ).tasks
    page = read_sweep(session, task.sweep_id)
    gains = {(r.vector, r.cell.layer, r.cell.alpha): r for r in task.cells}
    rows = {(split.split, row.name): row for split in page.splits for row in split.rows}
    for choice in task.choices:
        assert repr(rows["search", choice.name]) == repr(choice)
        assert repr(rows["test", choice.name]) == repr(task.table.row("test", choice.name))
        assert rows["test", choice.name].cell_id == choice.cell_id
    for one in gain_maps(page):
        assert one.chosen == next((c.cell.layer, c.cell.alpha) for c in task.choices if c.name == one.vector)
        for i, layer in enumerate(one.layers):
            for j, alpha in enumerate(one.alphas):
                row = gains[one.vector, layer, alpha]
                if row.n_seen == task.n_samples["search"]:
                    assert row.gain is not None
                    assert one.gain_la[i, j] == pytest.approx(row.gain.estimate)
                else:
                    assert np.isnan(one.gain_la[i, j])
    assert page.n_looks == task.n_looks
    assert page.cells == task.cells
    assert outside_references(sweep_page(page)) == []


def test_a_sweep_that_is_no_table_or_not_there_says_so(session: Session) -> None:
    save_sweep(session.cache, "empty", manifest={"kind": "colours"}, cells=[], answers=[])
    with pytest.raises(NotFoundError, match="none-such"):
        read_sweep(session, "none-such")
    with pytest.raises(UsageError, match="neither right nor wrong"):
        read_sweep(session, "empty")


def save_named(session: Session, name: str, seed: int) -> str:
    """A sweep of two answers; those of other seeds have the same name and another id."""
    cell = Cell(vector_id=None, layer=None, alpha=0.0, target="image", model_fingerprint="m", prompt_id="plain")
    answers = [
        Answer(cell_id=cell.cell_id, sample_id=f"q{i}", split="search", raw="A", parsed="A", correct=i == 0)
        for i in range(2)
    ]
    return save_sweep(session.cache, name, manifest={"kind": "eval", "seed": seed}, cells=[cell], answers=answers)


@pytest.fixture
def own(tmp_path: Path) -> Session:
    open_cache(tmp_path / "own", create=True)
    return open_session(tmp_path / "own")


def test_of_several_sweeps_of_one_name_the_one_saved_last_is_shown(
    own: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    for seeds in ((0, 1, 2, 3), (2, 0), (3, 1)):  # the last of each is saved last; ids are digests, in no such order
        ids = {seed: save_named(own, "twice", seed) for seed in seeds}
        shown = read_sweep(own, "twice")
        assert (shown.sweep_id, count_namesakes(own, shown)) == (ids[seeds[-1]], 3)
    save_named(own, "once", 0)
    at_root = ["--root", str(own.cache.root)]
    assert run(["report", "html", "twice", *at_root]) == 0
    said = capsys.readouterr().err
    assert f"this is the newest 'twice', sweep {shown.sweep_id[:12]}, saved {str(shown.created_at)[:19]} UTC" in said
    assert "3 others have that name" in said
    for wanted in (shown.sweep_id, "once"):  # said by its id, or alone: no doubt which
        assert run(["report", "html", wanted, *at_root]) == 0
        assert "newest" not in capsys.readouterr().err


def test_a_sweep_manifests_name_means_its_newest_grid(own: Session) -> None:
    cell = Cell(vector_id=None, layer=None, alpha=0.0, target="image", model_fingerprint="m", prompt_id="plain")
    answer = Answer(cell_id=cell.cell_id, sample_id="q", split="search", raw="A", parsed="A", correct=True)

    def save(task: str, seed: int, **manifest: object) -> str:
        stored = {"kind": "grid", "sweep": "mine", "seed": seed, **manifest}
        return save_sweep(own.cache, f"mine: {task}", manifest=stored, cells=[cell], answers=[answer])

    save("scenes Count", 0)
    newest = save("scenes Count", 1)
    save("scenes Count: nulls of x", 2, kind="nulls")
    save("scenes Count: pilot", 2, how={"pilot": 8, "trust": 0.55})
    assert read_sweep(own, "mine").sweep_id == newest
    save("scenes Relation", 3)
    with pytest.raises(UsageError, match="'mine: scenes Count', 'mine: scenes Relation'") as caught:
        read_sweep(own, "mine")
    words = shlex.split(str(caught.value.hint))
    assert words[:3] == ["steercache", "report", "html"]
    assert read_sweep(own, words[3]).sweep_id == newest
    assert read_sweep(own, newest[:12]).sweep_id == newest


def test_when_a_sweep_was_saved_is_no_part_of_its_id_and_a_rebuild_finds_the_same(own: Session) -> None:
    asked = "select * from sweeps order by sweep_id"
    before = datetime.now(UTC).replace(tzinfo=None)
    ids = [save_named(own, "same", 0), save_named(own, "same", 0), save_named(own, "same", 1)]
    assert ids[0] == ids[1] != ids[2]
    rows = own.sql(asked).fetchall()
    saved = [at for (at,) in own.sql("select created_at from sweeps").fetchall()]
    assert len(saved) == 2
    assert all(before <= at <= datetime.now(UTC).replace(tzinfo=None) for at in saved)
    rebuild_index(own.cache)
    assert open_session(own.cache.root).sql(asked).fetchall() == rows


def test_an_older_sweep_was_saved_when_its_file_was_written(own: Session) -> None:
    path = own.cache.paths.sweep(save_named(own, "old", 0)) / "manifest.json"
    document = json.loads(path.read_bytes())
    path.write_text(json.dumps({key: value for key, value in document.items() if key != "created_at"}))
    os.utime(path, (1_700_000_000, 1_700_000_000))
    for _ in ("caught up", "rebuilt"):
        assert own.sql("select created_at from sweeps").fetchall() == [(datetime(2023, 11, 14, 22, 13, 20),)]
        rebuild_index(own.cache)
    path.write_text(json.dumps(document | {"created_at": "yesterday"}))
    with pytest.raises(DamagedError, match="yesterday"):
        own.sql("select 1")


def test_an_own_vector_is_compared_with_the_backbones_on_the_same_questions(session: Session, world: World) -> None:
    backbone = session.vector("counting")
    with pytest.raises(NotFoundError, match="tiny itself"):
        find_origins(session, world.loaded.spec, concept="counting")
    own = replace(backbone, name="counting-own", values=backbone.values[:, ::-1].copy())
    found = compare_origins(
        session,
        world.loaded,
        COUNTS,
        own=replace(own, provenance={}),
        backbone=backbone,
        options=options(n=10, controls=0, prompting="", allow_foreign=True, layers=(3,), alphas=(9.0,)),
    )
    for split, direct in found.direct.items():
        rows = {row.name: row for row in found.evaluation.rows if row.split == split}
        assert (direct.before, direct.after) == (
            rows["counting"].comparison.after,
            rows["counting-own"].comparison.after,
        )
        assert direct.gain.estimate == pytest.approx(direct.after - direct.before)
    a, b = own.at(2).astype(float), backbone.at(2).astype(float)
    (cosine,) = [c.cosine for c in vector_cosines(own, backbone) if c.layer == 2]
    assert cosine == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_the_command_writes_the_page(
    report: SweepTable, session: Session, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at_root = ["--root", str(session.cache.root)]
    report = read_sweep(session, report.sweep_id)  # other tests have looked at the test split since
    assert run(["report", "html", report.sweep_id[:10], "--out", str(tmp_path / "r.html"), *at_root]) == 0
    assert verdict(report.splits[-1].rows[0]) in capsys.readouterr().out
    written = (tmp_path / "r.html").read_text()
    first, _, _ = sweep_page(report).partition("<section><h2>Gain against damage")
    assert written.startswith(first)  # accuracy first; what comes after stands in tests/screening/test_findings.py
    assert "steercache report html" in text_of(written)
    assert run(["report", "html", report.sweep_id[:10], "--json", *at_root]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["report"]["splits"][0]["n"] == report.splits[0].n
    assert run(["report", "html", report.sweep_id[:10], "--out", "r.pdf", *at_root]) == 2
