"""Null directions, damage and the choice of a way in a grid: against its stored answers, and against the parts alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steercache.answers.damage import damage_of, neutral_inputs
from steercache.cells.sweep import SweepJob, TaskQuestions
from steercache.manifests.sweep import Race
from steercache.queries.session import Session
from steercache.screening.pilot import ScreenedCells, ScreenFirst
from steercache.steering.cells import BranchCell
from steercache.sweeps.find import read_sweep
from steercache.sweeps.grid import GridOptions, run_grid
from steercache.sweeps.ledger import read_entries
from steercache.sweeps.table import TableRow
from tests.sweeps.small_run import vector
from tests.sweeps.small_sweep import small_grid, small_job, stored_answers_of
from tests.world import World

NULLS = GridOptions(nulls=4, null_kinds=("random", "covariance"), damage=False)


def right_by_cell(session: Session, name: str) -> dict[str, Any]:
    """Right answers of every cell of one sweep by sample, and where the cell stands, from the index alone."""
    (sweep,) = session.sql("select sweep_id from sweeps where name like $name", name=name).fetchall()[0]
    answers = stored_answers_of(session, sweep)
    samples = sorted({s for (_, s), row in answers.items() if row["split"] == "search"})
    cells = session.sql(
        "select cell_id, vector_id, layer, alpha, target from cells where sweep_id = $s", s=sweep
    ).fetchall()
    return {
        cell: (where, np.array([bool(answers[cell, s]["correct"]) for s in samples]))
        for cell, *where in cells
        if all((cell, s) in answers for s in samples)  # a race leaves some unread
    }


def best_by_hand(cells: dict[str, Any], vector_id: str) -> tuple[str, float]:
    """The cell with most right answers; ties to the smallest strength, then image before text, then the lowest layer."""
    baseline = next(right for (v, *_), right in cells.values() if v is None)
    own = [(c, where, right) for c, (where, right) in cells.items() if where[0] == vector_id]
    best = min(own, key=lambda one: (-one[2].sum(), one[1][2], one[1][3] != "image", one[1][1]))
    return best[0], float((best[2].astype(float) - baseline).mean())


def only_choice(session: Session, world: World, folder: Path, options: GridOptions, **changes: Any) -> TableRow:
    (task,) = small_grid(session, world.loaded, folder, options=options, **changes).tasks
    (choice,) = task.choices
    return choice


def test_nulls_take_their_best_cells_of_the_same_grid(own_session: Session, world: World, tmp_path: Path) -> None:
    choice = only_choice(own_session, world, tmp_path, NULLS, splits=["search"])
    assert choice.controls
    cells = right_by_cell(own_session, "%nulls of counting")
    vectors = {where[0] for where, _ in cells.values()} - {None, choice.vector_id}
    assert len(vectors) == 4
    assert len(cells) == 1 + 1 + 4 * 12  # baseline, what the vector took, and the grid of every null
    by_hand = dict(best_by_hand(cells, vector) for vector in vectors)
    assert {null.cell.cell_id: null.gain for null in choice.controls} == pytest.approx(by_hand)
    assert sorted(null.kind for null in choice.controls) == ["covariance"] * 2 + ["random"] * 2
    gain = choice.comparison.gain.estimate
    assert choice.rank_p == (1 + sum(null >= gain for null in by_hand.values())) / 5
    assert not read_entries(own_session.cache.root)  # nulls are searched where the vector was


def test_nulls_change_nothing_of_the_grid_and_are_not_asked_twice(
    own_session: Session, world: World, tmp_path: Path
) -> None:
    plain = small_grid(own_session, world.loaded, tmp_path, options=GridOptions(damage=False), n=6).tasks[0]
    first = small_grid(own_session, world.loaded, tmp_path, options=NULLS, n=6).tasks[0]
    assert first.sweep_id == plain.sweep_id
    assert (first.cells, first.n_computed) == (plain.cells, 0)
    assert plain.n_computed_in_all == plain.n_computed
    assert first.n_computed_in_all == first.n_computed_nulls == 6 * 4 * 12  # baseline and winner were there
    assert (plain.choices[0].controls, plain.choices[0].rank_p) == ((), None)
    ran: list[int] = []
    handle = world.loaded.model.model.vision_tower.register_forward_hook(lambda *args: ran.append(1))
    again = small_grid(own_session, world.loaded, tmp_path, options=NULLS, n=6).tasks[0]
    handle.remove()
    assert repr(again.choices) == repr(first.choices)
    stored = read_sweep(own_session, again.sweep_id)
    assert repr(stored.choices) == repr(first.choices)  # the nulls, too, are read from the cache
    assert not ran
    assert again.n_computed_in_all == 0


@pytest.mark.slow
def test_a_race_is_run_for_nulls_too_and_its_winners_are_compared_on_the_whole_split(
    own_session: Session, world: World, tmp_path: Path
) -> None:
    raced = GridOptions(race=Race(tolerance=0.3, error=0.3), nulls=2, null_kinds=("random",), damage=False)
    choice = only_choice(own_session, world, tmp_path, raced, splits=["search"], n=40)
    assert choice.controls
    cells = right_by_cell(own_session, "%nulls of counting")
    baseline = next(right for (v, *_), right in cells.values() if v is None)
    for null in choice.controls:
        _, right = cells[null.cell.cell_id]
        assert null.gain == pytest.approx((right.astype(float) - baseline).mean())
        assert len(right) == 40
    assert choice.rank_p in (pytest.approx(1 / 3), pytest.approx(2 / 3), 1.0)


@pytest.mark.parametrize(
    "rules", [None, pytest.param(Race(tolerance=0.3, error=0.3), marks=pytest.mark.slow)], ids=["exact", "raced"]
)
def test_nulls_are_screened_as_the_vector_was(
    rules: Race | None, own_session: Session, world: World, tmp_path: Path
) -> None:
    screened: list[str] = []

    def screening(job: SweepJob, task: TaskQuestions, first: ScreenFirst) -> ScreenedCells:
        screened.extend(job.grid.settings)
        return ScreenedCells(settings={name: some[first.k + 1 : 1 : -1] for name, some in job.grid.settings.items()})

    options = GridOptions(race=rules, screen_first=ScreenFirst(k=3), nulls=2, null_kinds=("random",), damage=False)
    job = small_job(own_session, world.loaded, tmp_path, n=6, splits=["search"])
    (task,) = run_grid(job, options, screening=screening).tasks
    (choice,) = task.choices
    assert choice.controls
    assert screened == ["counting", "counting~random-0", "counting~random-1"]
    cells = right_by_cell(own_session, "%nulls of counting")
    tried = {tuple(where[1:]) for where, _ in cells.values() if where[0] not in (None, choice.vector_id)}
    kept = job.grid.settings["counting"][2:5]
    assert tried <= {(s.cell.layer, s.cell.alpha, s.cell.target) for s in kept}
    assert {n.cell.cell_id for n in choice.controls} <= set(cells)
    if rules is None:
        by_hand = dict(best_by_hand(cells, n.cell.vector_id or "") for n in choice.controls)
        assert {n.cell.cell_id: n.gain for n in choice.controls} == pytest.approx(by_hand)
        assert len(cells) == 1 + 1 + 2 * 3


def test_nulls_that_cannot_be_made_are_said(own_session: Session, world: World, tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((6, 96)).astype(np.float32)
    own_session.save(vector(values, name="made"))
    options = GridOptions(nulls=2, null_kinds=("covariance",), damage=False)
    (task,) = small_grid(
        own_session,
        world.loaded,
        tmp_path,
        options=options,
        vectors=["made"],
        n=4,
        splits=["search"],
        allow_foreign=True,
    ).tasks
    assert task.choices[0].rank_p is None
    assert any("no covariance controls" in line for line in task.notes)


def test_the_chosen_cell_has_its_damage_and_answers_their_way(
    own_session: Session, world: World, tmp_path: Path
) -> None:
    unasked = small_grid(own_session, world.loaded, tmp_path, options=GridOptions(), n=6).tasks[0]
    assert unasked.modes == {}
    choice = unasked.choices[0]
    vector = own_session.vector("counting")
    assert choice.cell.layer is not None
    cell = BranchCell(
        key="x",
        layer=choice.cell.layer,
        delta_d=vector.at(choice.cell.layer) * np.float32(choice.cell.alpha),
        target=choice.cell.target,
    )
    expected = damage_of(world.loaded, [cell], neutral_inputs(world.loaded, tokens_per_batch=900))["x"]
    assert choice.damage is not None
    assert choice.damage.mean_nats == pytest.approx(expected.mean_nats, rel=1e-3)
    read = small_grid(own_session, world.loaded, tmp_path, options=GridOptions(mode="auto", damage=False), n=6).tasks[0]
    assert {split: mode.mode for split, mode in read.modes.items()} == {"search": "read", "test": "read"}
    more = small_grid(own_session, world.loaded, tmp_path, options=GridOptions(mode="full", damage=False), n=8).tasks[0]
    assert (more.modes["search"].mode, more.modes["search"].forced) == ("full", True)
    assert (more.modes["search"].n_to_compute, more.modes["search"].n_cached) == (2 * 13, 6 * 13)
    assert not more.computed_in_full
