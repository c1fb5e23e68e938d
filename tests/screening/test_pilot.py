"""Pilots: run by a grid that screens, kept as answers of its cells, and bends that are those of the exact answers."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from steercache.answers.row_norms import with_target_norms
from steercache.core.errors import UsageError
from steercache.manifests.sweep import Race
from steercache.queries.session import Session
from steercache.screening.for_grid import screening_for_grid
from steercache.screening.gradient_source import ensure_gradients
from steercache.screening.job import corrected_by_pilot, screen_task, tasks_of_sweep
from steercache.screening.pilot import ScreenFirst, pilot_size, run_pilot
from steercache.screening.predict import (
    best_predicted,
    by_place,
    margins_of_settings,
    predict_settings,
    steps_of_settings,
    wish_of,
)
from steercache.sweeps.find import read_sweep
from steercache.sweeps.finished_grid import FinishedGrid, ShortcutOptions
from steercache.sweeps.grid import GridOptions, run_grid
from steercache.sweeps.shortcut_ways import bent_changes
from steercache.sweeps.shortcuts import compare_ways
from tests.screening.small_gradients import wanted
from tests.sweeps.small_sweep import small_job, stored_answers_of
from tests.world import World

N_PILOT = 6


def test_its_answers_are_the_grids_and_predictions_go_through_their_mean(
    own_session: Session, world: World, tmp_path: Any
) -> None:
    job = small_job(own_session, world.loaded, tmp_path, splits=["search"], alphas=[0.3, 1, 2])
    task, cells = job.tasks[0], job.grid.cells
    gradients = ensure_gradients(own_session, task.asked["search"], wish_of("scenes", cells), wanted(world.loaded))
    seen: list[tuple[str, int, int]] = []
    pilot = run_pilot(job, task, gradients, n=N_PILOT, progress=lambda *said: seen.append(said))
    assert pilot is not None
    steps = steps_of_settings(gradients, cells)
    within = [i for i in range(len(cells)) if steps[i] <= 0.55]
    assert pilot.bends.keys() == by_place([cells[i] for i in within]).keys()
    assert seen[-1] == (f"{task.name}: pilot", pilot.n_answers, pilot.n_answers)

    sweeps = own_session.sql("select name, sweep_id from sweeps where name like '%pilot'").to_arrow_table().to_pylist()
    (own,) = [row["sweep_id"] for row in sweeps]
    answers = stored_answers_of(own_session, own)
    asked = sorted({sample for _, sample in answers})
    assert len(asked) == N_PILOT
    assert len(answers) == pilot.n_answers

    found = run_grid(job).tasks[0]
    assert found.n_reused == pilot.n_answers
    assert read_sweep(own_session, job.sweep.name).sweep_id == found.sweep_id  # the pilot is no task of its own
    exact = stored_answers_of(own_session, found.sweep_id)
    assert all(exact[key]["raw"] == answer["raw"] for key, answer in answers.items())
    base = job.grid.baseline.cell.cell_id
    lines = margins_of_settings(gradients, cells, trust=np.inf) - margins_of_settings(
        gradients, [replace(s, cell=replace(s.cell, alpha=0.0)) for s in cells], trust=np.inf
    )
    at = [i for i, one in enumerate(gradients.samples) if one.sample_id in asked]
    predicted = {p.setting.cell.cell_id: p for p in predict_settings(gradients, cells, trust=9, bends=pilot.bends)}
    n_checked = 0
    for i, setting in enumerate(cells):
        cell_id = setting.cell.cell_id
        if (cell_id, asked[0]) not in answers:
            continue
        moved = np.array(
            [exact[cell_id, s.sample_id]["margin"] - exact[base, s.sample_id]["margin"] for s in gradients.samples]
        )
        slope = np.clip(np.polyfit(lines[i, at], moved[at], 1)[0], 0, 1)
        mean = moved[at].mean() + slope * (lines[i].mean() - lines[i, at].mean())
        assert predicted[cell_id].shift == pytest.approx(mean, abs=2e-3)
        n_checked += 1
    assert n_checked >= 6

    again = run_pilot(job, task, gradients, n=N_PILOT)
    assert again is not None
    assert again.bends.keys() == pilot.bends.keys()


def test_a_screened_sweep_is_bent_as_its_settings_are(own_session: Session, world: World, tmp_path: Any) -> None:
    for unit in ("raw", "target_norm"):
        changes = {"splits": ["search"], "alphas": [0.3, 0.45], "alpha_unit": unit, "name": unit}
        job = small_job(own_session, world.loaded, tmp_path, **changes)
        (task,), asked_for = tasks_of_sweep(job), wanted(world.loaded)
        straight = screen_task(own_session, task, asked_for)
        found = corrected_by_pilot(job, job.tasks[0], straight, asked_for, n=N_PILOT)
        assert found.pilot is not None
        ready = with_target_norms(job, job.tasks[0], load=lambda: world.loaded)
        expected = predict_settings(found.gradients, ready.grid.cells, bends=found.pilot.bends)
        key = lambda cell: (cell.target, cell.layer, cell.alpha)  # noqa: E731
        by_cell = {key(one.setting.cell): one for one in expected}
        rows = found.grid.best(found.grid.n_cells)
        assert len(rows) == len(by_cell) == len(job.grid.cells)
        for row in rows:
            one = by_cell[key(row)]
            assert (row.shift, row.accuracy) == pytest.approx((one.shift, one.accuracy), abs=1e-6)
            assert (row.helped, row.hurt) == (one.helped, one.hurt)
        assert not np.allclose(found.grid.shift, straight.grid.shift, atol=1e-3)
        assert corrected_by_pilot(job, job.tasks[0], straight, asked_for, n=1) is straight


def test_a_grid_screens_after_its_pilot_and_races_go_by_right_answers(
    own_session: Session, world: World, tmp_path: Any
) -> None:
    job = small_job(own_session, world.loaded, tmp_path, splits=["search"], alphas=[0.3, 1, 2])
    task, cells = job.tasks[0], job.grid.cells
    found = run_grid(job, GridOptions(screen_first=ScreenFirst(k=3, pilot=N_PILOT)), screening=screening_for_grid())
    gradients = ensure_gradients(own_session, task.asked["search"], wish_of("scenes", cells), wanted(world.loaded))
    assert found.tasks[0].n_computed_pilot > 0
    assert found.tasks[0].n_computed_in_all == found.tasks[0].n_computed + found.tasks[0].n_computed_pilot
    pilot = run_pilot(job, task, gradients, n=N_PILOT)
    assert pilot is not None
    assert (pilot.n_computed, found.tasks[0].n_computed_pilot) == (0, pilot.n_answers)
    expected = best_predicted(gradients, cells, 3, bends=pilot.bends)
    assert {row.cell.cell_id for row in found.tasks[0].cells} == {s.cell.cell_id for s in expected}
    assert (found.tasks[0].n_pilot, found.tasks[0].n_pilot_answers) == (N_PILOT, pilot.n_answers)


def test_the_size_is_a_third_at_most_and_too_few_questions_make_none() -> None:
    assert [pilot_size(n, None) for n in (500, 128, 96, 24, 23)] == [40, 40, 32, 8, 0]
    assert [pilot_size(n, wanted) for n, wanted in ((500, 64), (20, 64), (500, 0), (500, 3), (500, 1))] == [
        64,
        20,
        0,
        3,
        0,
    ]


def test_options_of_a_screening_are_part_of_what_a_sweep_is_and_a_race_wants_right_answers() -> None:
    plain = GridOptions(screen_first=ScreenFirst(k=3))
    assert plain.how != GridOptions(screen_first=ScreenFirst(k=3, pilot=0)).how
    assert plain.screening == ScreenFirst(k=3)
    assert GridOptions(race=Race(), screen_first=ScreenFirst(k=3)).screening == ScreenFirst(k=3, by="accuracy")
    kept = ScreenFirst(k=3, by="margin")
    assert GridOptions(race=Race(), screen_first=kept).screening == kept


def bending(*, seed: int = 0) -> FinishedGrid:
    """8 layers x 5 strengths: lines promise most where the damage, which no gradient shows, is largest."""
    rng = np.random.default_rng(seed)
    n, steps, layers = 200, np.tile([0.1, 0.2, 0.3, 0.4, 0.5], 8), np.repeat(np.arange(8), 5)
    promise, damage = 0.5 + 0.5 * np.arange(8), np.arange(8.0)
    base = rng.normal(size=n)
    per_step = promise[:, None] + rng.normal(size=(8, n))
    lines = steps[:, None] * per_step[layers]
    slope, offset = 1 - 1.5 * steps**2, -2 * damage[layers] * steps**2
    moved = slope[:, None] * lines + offset[:, None] + steps[:, None] ** 2 * rng.normal(size=lines.shape)
    return FinishedGrid(
        right=base + moved > 0,
        margin=base + moved,
        base_right=base > 0,
        base_margin=base,
        predicted=base + lines,
        base_predicted=base,
        alphas=10 * steps,
        layers=layers,
        places=layers,
        steps=steps,
        fitted_steps=steps,
        auc={},
        cell_work=(9 - layers) / 10,
        gradient_work=np.full(n, 1.9),
        groups=[str(i) for i in range(n)],
    )


@pytest.mark.slow
def test_a_pilot_sees_the_damage_that_lines_do_not_and_its_cost_is_counted() -> None:
    grid = bending()
    exact = (grid.margin - grid.base_margin).mean(axis=1)
    every = np.arange(grid.n_samples)
    changes, spread, pilot = bent_changes(grid, every, every[:32], trust=0.5)
    assert np.corrcoef(changes.mean(axis=1), exact)[0, 1] > 0.95
    assert np.corrcoef((grid.predicted - grid.base_predicted).mean(axis=1), exact)[0, 1] < 0.5
    assert pilot.tolist() == [5 * layer + k for layer in range(8) for k in (2, 4)]
    assert (spread > 0).all()
    straight = {(w.way, w.measure): w for w in compare_ways(grid, ShortcutOptions(pilot=0, n_resamples=40))}
    bent = {(w.way, w.measure): w for w in compare_ways(grid, ShortcutOptions(n_resamples=40))}
    kept = [found["screen-first", "margin"].share_kept or 0.0 for found in (straight, bent)]
    assert kept[0] < 0.6
    assert kept[1] > 0.95
    n, work = grid.n_samples, grid.cell_work
    way = bent["screening", "margin"]
    assert way.answers == 16 * 40
    assert way.work == pytest.approx(1.9 * n + 40 * work[pilot].sum())
    first = bent["screen-first", "margin"]
    assert 4 * n <= first.answers <= 4 * n + 16 * 40  # cells of the pilot that are run answer the rest only
    assert first.answers_share < 0.2


def test_a_share_and_a_pilot_out_of_range_are_refused() -> None:
    with pytest.raises(UsageError, match="a share of 0"):
        ShortcutOptions(share=0)
