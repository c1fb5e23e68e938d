"""Columns of a table recomputed from what is stored: samples moved the wrong way, numbers of the fit, side effects."""

import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from steercache.cells.sweep import prepare_sweep
from steercache.cli.sweep_tables import print_cells, print_notes, print_splits, sweep_json
from steercache.core.predictors import Predictors
from steercache.data.benchmarks import open_benchmark
from steercache.queries.session import Session, open_session
from steercache.report.page import sweep_page
from steercache.sweeps.evaluation import evaluate
from steercache.sweeps.find import read_sweep
from steercache.sweeps.grid import GridOptions, run_grid
from steercache.sweeps.result import SweepResult
from tests.report.pages import text_of
from tests.sweeps.small_run import options
from tests.sweeps.small_sweep import stored_answers_of, write_sweep
from tests.world import World

QUIET = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # transformers' processor
COUNT = {"benchmark": "scenes", "task": "Count"}
MEASURED = {"d_prime": 1.5, "difference_cosine": 0.25, "difference_cosine_std": 0.5}
ASKED = options(
    alphas=(9.0,), layers=(1, 3), targets=("image",), controls=1, control_kinds=("random",), n=8, panel=4, damage=True
)


@pytest.fixture(scope="module")
def session(world: World, tmp_path_factory: pytest.TempPathFactory) -> Session:
    root = tmp_path_factory.mktemp("columns") / "root"
    shutil.copytree(world.session.cache.root, root, ignore=shutil.ignore_patterns("models", "sweeps", "ledger*"))
    own = open_session(root)
    vector = own.vector("counting")
    own.save(replace(vector, diagnostics=tuple({"layer": layer, **MEASURED} for layer in vector.layers[1:])))
    return own


@pytest.fixture(scope="module")
def found(session: Session, world: World) -> SweepResult:
    return evaluate(
        session,
        world.loaded,
        open_benchmark("scenes", task="Count"),
        vectors=[session.vector("counting")],
        options=ASKED,
    )


def shares(session: Session, sweep_id: str, split: str, before: str, after: str) -> tuple[float, float]:
    """Shares of wrong answers that were right, and of margins that fell (a tie: half), by numpy from the stored answers."""
    stored = {key: one for key, one in stored_answers_of(session, sweep_id).items() if one["split"] == split}
    samples = [sample for cell, sample in stored if cell == after]
    right = np.array([[bool(stored[cell, s]["correct"]) for cell in (before, after)] for s in samples])
    margin = np.array([[stored[cell, s]["margin"] for cell in (before, after)] for s in samples])
    assert len(samples) == ASKED.n
    falls = np.sign(margin[:, 1] - margin[:, 0])
    return float((right[:, 0] > right[:, 1]).mean()), float(((falls < 0) + (falls == 0) / 2).mean())


@QUIET
def test_the_share_moved_the_wrong_way_is_that_of_the_stored_answers_everywhere(
    session: Session, found: SweepResult, capsys: pytest.CaptureFixture[str]
) -> None:
    table = read_sweep(session, found.sweep_id)
    assert repr(table.rows) == repr(found.rows)
    assert table.cells == found.cells
    baseline = next(
        cell for cell, vector, prompt in _cells(session, found.sweep_id) if vector is None and prompt == "plain"
    )
    seen = {}
    for row in table.rows:
        wanted = shares(session, found.sweep_id, row.split, baseline, row.cell_id)
        got = row.comparison.wrong_way
        assert (got.share, got.margin_share) == pytest.approx(wanted)
        assert got.share == row.comparison.mcnemar.hurt / row.comparison.n
        seen[row.split, row.cell_id] = wanted
    for one in table.cells:
        wanted = shares(session, found.sweep_id, "search", baseline, one.cell_id)
        assert (one.wrong_way.share, one.wrong_way.margin_share) == pytest.approx(wanted)
        seen["search", one.cell_id] = wanted
    rows = session.sql(
        "select split, cell_id, wrong_way, margin_wrong_way from trials_with_baseline where sweep_id = $s",
        s=found.sweep_id,
    ).fetchall()
    in_sql = {(split, cell): (share, margin) for split, cell, share, margin in rows}
    for key, wanted in seen.items():
        if key in in_sql:  # the prompting baseline has another prompt, and no row
            assert in_sql[key] == pytest.approx(wanted)
    assert in_sql.keys() >= {(row.split, row.cell_id) for row in table.rows if row.role == "vector"}
    assert max(margin for _, margin in seen.values()) > 0  # something fell
    records = table.records()
    for record, row in zip(records, table.rows, strict=True):
        wanted = seen[row.split, row.cell_id]
        assert (record["wrong_way"], record["margin_wrong_way"]) == pytest.approx(wanted)
    in_json = [row for split in sweep_json(found)["splits"] for row in split["rows"]]
    assert [row["comparison"]["wrong_way"]["share"] for row in in_json] == [one["wrong_way"] for one in records]
    print_splits(found.table)
    print_cells(found.table, 10)
    printed, page = capsys.readouterr().out, sweep_page(table)
    assert printed.replace("\n", " ").count("wrong way") == 3
    shown = {str(row.comparison.wrong_way) for row in table.rows}
    assert all(one.split()[0] in printed and f">{one}<" in page for one in shown)


@QUIET
def test_numbers_of_the_fit_stand_beside_every_vector(
    session: Session, found: SweepResult, capsys: pytest.CaptureFixture[str]
) -> None:
    for row in found.rows:
        if row.role == "prompting":
            assert row.predictors is None
            continue
        assert row.predictors == Predictors(**MEASURED)
        (stored,) = session.sql(
            f"select {', '.join(MEASURED)} from vectors where vector_id = $v and layer = $l",
            v=row.vector_id,
            l=row.cell.layer,
        ).fetchall()
        assert stored == tuple(MEASURED.values())
    records = [one for one in found.table.records() if one["role"] == "vector"]
    assert [{name: one[name] for name in MEASURED} for one in records] == [MEASURED] * 2
    print_splits(found.table)
    assert "d' 1.50, cosine of differences 0.25 ± 0.50" in capsys.readouterr().out
    page = text_of(sweep_page(found.table))
    assert "0.25 ± 0.50" in page


def _cells(session: Session, sweep_id: str) -> list[tuple[str, str | None, str]]:
    return session.sql("select cell_id, vector_id, prompt_id from cells where sweep_id = $s", s=sweep_id).fetchall()


@QUIET
def test_an_evaluation_has_the_side_effects_that_a_grid_has(
    session: Session, found: SweepResult, world: World, tmp_path: Path
) -> None:
    by_split = {row.split: row for row in found.rows if row.role == "vector"}
    (row,) = found.choices
    assert [one.task for one in row.side_effects] == ["scenes Relation", "scenes Attribute", "scenes Entity"]
    assert by_split["test"].side_effects == row.side_effects
    assert [one.side_effects for one in found.rows if one.role != "vector"] == [(), ()]
    panels = session.sql("select sweep_id from sweeps where name like '%side effects on scenes Relation'").fetchall()
    ((panel_id,),) = panels
    answers = stored_answers_of(session, panel_id)
    assert {cell for cell, _ in answers} == {row.cell_id, _baseline(session, panel_id)}  # no control
    mine = [one["correct"] for (cell, _), one in answers.items() if cell == row.cell_id]
    assert (row.side_effects[0].n, row.side_effects[0].after) == (4, sum(mine) / 4)
    again = evaluate(
        session,
        world.loaded,
        open_benchmark("scenes", task="Count"),
        vectors=[session.vector("counting")],
        options=ASKED,
    )
    assert (again.n_computed, again.choices[0].side_effects) == (0, row.side_effects)
    sweep = write_sweep(
        tmp_path, layers=[row.cell.layer], alphas=[9], targets=["image"], tasks=[COUNT], n=8, splits=["search"]
    )
    (grid,) = run_grid(prepare_sweep(session, world.loaded, sweep, panel=4), GridOptions()).tasks
    assert grid.choices[0].cell_id == row.cell_id
    assert [asdict(one) for one in grid.choices[0].side_effects] == [asdict(one) for one in row.side_effects]


def _baseline(session: Session, sweep_id: str) -> str:
    return next(cell for cell, vector, _ in _cells(session, sweep_id) if vector is None)


@QUIET
def test_strengths_at_a_given_kl_say_so(session: Session, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    asked = options(
        alphas=(0.01,), alpha_unit="kl", layers=(3,), targets=("image",), controls=0, n=4, prompting="", damage=True
    )
    vectors = [session.vector(name) for name in ("counting", "entity")]
    found = evaluate(session, world.loaded, open_benchmark("scenes", task="Count"), vectors=vectors, options=asked)
    print_splits(found.table)
    print_notes(found)
    printed = capsys.readouterr()
    assert "cells of equal alpha do equal damage" in printed.err
    assert " ".join(printed.out.split()).count("nats of KL") >= 1
    words = {row.name: row for row in found.choices}
    raw = {name: row.cell.alpha * (row.cell.unit_norm or 0) for name, row in words.items()}
    assert raw["counting"] != raw["entity"]
    page = text_of(sweep_page(found.table))
    for name, row in words.items():
        assert f"layer 3, alpha 0.01 nats of KL ({raw[name]:.4g} raw), image" in page
        assert row.damage is not None
        assert row.damage.mean_nats == pytest.approx(0.01, rel=0.03)
