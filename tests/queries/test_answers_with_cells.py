"""Sweeps share the ids of equal cells: the view joins each answer to its own sweep's cell, once."""

from pathlib import Path

import pytest

from steercache.cache.handle import open_cache
from steercache.cache.sweeps import save_sweep
from steercache.core.trials import Answer, Cell
from steercache.queries.session import Session, open_session


def cell(alpha: float) -> Cell:
    return Cell(vector_id=None, layer=None, alpha=alpha, target="all", model_fingerprint="f" * 64, prompt_id="p")


@pytest.fixture
def shared(tmp_path: Path) -> Session:
    """Two sweeps with the baseline in common, answered otherwise in each; the second has a cell more."""
    cache = open_cache(tmp_path / "root", create=True)
    for name, alphas, right in (("one", (0.0,), True), ("two", (0.0, 1.0), False)):
        answers = [
            Answer(cell_id=cell(alpha).cell_id, sample_id=sample, split="test", raw="A", correct=right)
            for alpha in alphas
            for sample in "xy"
        ]
        save_sweep(cache, name, manifest={"name": name}, cells=[cell(a) for a in alphas], answers=answers)
    return open_session(tmp_path / "root")


def test_every_answer_stands_once_beside_its_own_cell(shared: Session) -> None:
    found = shared.sql("select sweep, alpha, sample_id, correct from answers_with_cells order by all").fetchall()
    one = [("one", 0.0, sample, True) for sample in "xy"]
    assert found == one + [("two", alpha, sample, False) for alpha in (0.0, 1.0) for sample in "xy"]
    by_cell_alone = shared.sql("select count(*) from answers join cells using (cell_id)").fetchall()
    by_both = shared.sql("select count(*) from answers join cells using (sweep_id, cell_id)").fetchall()
    assert (by_cell_alone, by_both) == ([(10,)], [(6,)])


def test_a_natural_join_gives_every_answer_its_cell_however_each_was_computed(tmp_path: Path) -> None:
    cache = open_cache(tmp_path / "root", create=True)
    answers = [
        Answer(cell_id=cell(0.0).cell_id, sample_id="x", split="test", raw="A", mode="full"),
        Answer(cell_id=cell(0.0).cell_id, sample_id="y", split="test", raw="A", mode="branch"),
        Answer(cell_id=cell(0.0).cell_id, sample_id="z", split="test", status="failed", error="no picture"),
    ]
    for name in ("one", "two"):
        save_sweep(cache, name, manifest={"name": name}, cells=[cell(0.0)], answers=answers)
    session = open_session(tmp_path / "root")
    for sql in ("answers natural join cells", "answers join cells using (sweep_id, cell_id)", "answers_with_cells"):
        assert session.sql(f"select count(*) from {sql}").fetchall() == [(6,)], sql


def test_trials_of_sweeps_that_share_a_cell_are_counted_apart(shared: Session) -> None:
    rows = shared.query("trials_by_alpha").fetchall()
    assert [(row[0], row[5], row[7], row[9]) for row in rows] == [
        ("one", 0.0, 2, 1.0),
        ("two", 0.0, 2, 0.0),
        ("two", 1.0, 2, 0.0),
    ]


def test_the_comments_say_how_to_join(shared: Session) -> None:
    found = shared.sql(
        "select table_name, column_name, comment from duckdb_columns() where column_name in ('cell_id', 'sweep_id')"
    ).fetchall()
    comments = {(table, column): comment for table, column, comment in found}
    assert "answers_with_cells" in comments["answers", "cell_id"]
    assert "(sweep_id, cell_id)" in comments["cells", "sweep_id"]
