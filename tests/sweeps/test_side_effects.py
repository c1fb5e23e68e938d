"""The panel of side effects: right answers of a chosen cell on other tasks, counted by hand, in the table, JSON and page."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from steercache.cells.sweep import PanelRequest, panel_of, prepare_sweep
from steercache.core.errors import UsageError
from steercache.queries.session import Session
from steercache.report.page import _side_effects
from steercache.sweeps.find import read_sweep
from steercache.sweeps.grid import GridOptions, run_grid
from tests.sweeps.small_sweep import stored_answers_of, write_sweep
from tests.world import World

QUIET = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # transformers' processor
SWEEP: dict[str, Any] = {"layers": [3], "alphas": [9], "targets": ["image"], "n": 4, "splits": ["search"]}


@QUIET
def test_the_panel_counts_right_answers_of_the_chosen_cell_on_tasks_that_it_was_not_chosen_for(
    own_session: Session, world: World, tmp_path: Path
) -> None:
    panel = [{"benchmark": "scenes", "task": "Relation"}, {"benchmark": "scenes", "task": "Count"}]
    resolved = write_sweep(tmp_path, **SWEEP, panel=panel)
    job = prepare_sweep(own_session, world.loaded, resolved, panel=6)
    assert [(task.name, len(task.asked["search"])) for task in job.panel] == [
        ("scenes Relation", 6),
        ("scenes Count", 6),
    ]
    (found,) = run_grid(job, GridOptions()).tasks
    (row,) = found.table.choices
    (relation,) = (one for one in row.side_effects if one.task == "scenes Relation")
    sweeps = own_session.sql("select sweep_id, name, manifest from sweeps").fetchall()
    (panel_id,) = (i for i, name, _ in sweeps if name.endswith("side effects on scenes Relation"))
    answers = stored_answers_of(own_session, panel_id)
    right = {"before": job.grid.baseline.cell.cell_id, "after": row.cell_id}
    shares = {}
    for which, cell_id in right.items():
        mine = [one["correct"] for (cell, _), one in answers.items() if cell == cell_id]
        assert len(mine) == 6
        shares[which] = sum(mine) / 6
    assert (relation.n, relation.before, relation.after) == (6, shares["before"], shares["after"])
    assert relation.change == pytest.approx(shares["after"] - shares["before"])
    assert relation.low <= relation.change <= relation.high
    assert row.damage is not None  # the KL beside it
    assert (
        run_grid(job, GridOptions()).tasks[0].n_computed,
        len(own_session.sql("select * from sweeps").fetchall()),
    ) == (
        0,
        len(sweeps),
    )
    again = read_sweep(own_session, found.sweep_id)
    assert again.choices[0].side_effects == row.side_effects
    stored = own_session.sql("select details from choices where vector_id is not null").fetchall()
    assert any("panel" in json.loads(details) for (details,) in stored)
    page = _side_effects(found.table.splits[0])
    assert "Side effects of the chosen cells" in page
    assert f"<td>{shares['before']:.3f}</td>" in page or f"{shares['before']:.3f}" in page


def test_without_a_list_the_panel_is_what_the_sweep_does_not_ask_and_text_models_need_one(
    own_session: Session, world: World, tmp_path: Path
) -> None:
    job = prepare_sweep(own_session, world.loaded, write_sweep(tmp_path, **SWEEP), panel=2)
    assert [task.wanted.task for task in job.panel] == ["Relation", "Attribute", "Entity"]
    assert prepare_sweep(own_session, world.loaded, write_sweep(tmp_path, **SWEEP)).panel == ()
    text_model = replace(
        world.loaded, bundle=replace(world.loaded.bundle, family=replace(world.loaded.family, modality="text"))
    )
    with pytest.raises(UsageError, match="no unrelated questions for text models ship"):
        panel_of(PanelRequest(n=2, tasks=(), asked=frozenset(), targets=("text",)), text_model, None)
    every = frozenset({"Count", "Relation", "Attribute", "Entity"})
    with pytest.raises(UsageError, match="every task of the drawn scenes is asked already"):
        panel_of(PanelRequest(n=2, tasks=(), asked=every, targets=("image",)), world.loaded, None)
