"""Ways of choosing a cell, on grids whose answers are made up so that it is known what each must reach; and on a real one."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from steercache.cache.rebuild import rebuild_index
from steercache.core.errors import UsageError
from steercache.queries.session import Session, open_session
from steercache.sweeps.finished_grid import FinishedGrid, ShortcutOptions
from steercache.sweeps.grid import run_grid
from steercache.sweeps.shortcuts import Shortcut, compare_ways
from steercache.sweeps.shortcuts_job import compare_sweep
from tests.screening.small_gradients import wanted
from tests.sweeps.small_sweep import small_job, stored_answers_of
from tests.world import World

N_CELLS, N_SAMPLES, BEST = 40, 200, 17
Array = np.ndarray[Any, Any]


def planted(*, seed: int = 0, lift: float = 0.8, good: bool = True) -> FinishedGrid:
    """40 cells (8 layers x 5 strengths) of which one lifts every margin by `lift`; predictions know it, or are noise."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=N_SAMPLES)
    effect = np.zeros(N_CELLS)
    effect[BEST] = lift
    margin = base + effect[:, None] + 0.3 * rng.normal(size=(N_CELLS, N_SAMPLES))
    predicted = base + 0.2 * rng.normal(size=margin.shape) + (effect[:, None] if good else 0.0)
    layers = np.repeat(np.arange(8), 5)
    return FinishedGrid(
        right=margin > 0,
        margin=margin,
        base_right=base > 0,
        base_margin=base,
        predicted=predicted,
        base_predicted=base,
        alphas=np.tile([1.0, 2.0, 3.0, 4.0, 5.0], 8),
        layers=layers,
        places=layers,
        steps=np.tile([0.1, 0.2, 0.3, 0.4, 0.5], 8),
        fitted_steps=np.tile([0.1, 0.3, 0.45, 0.8, 1.0], 8),
        auc={layer: 0.5 + 0.01 * layer for layer in range(8)},
        cell_work=(9 - layers) / 10,
        gradient_work=np.full(N_SAMPLES, 1.9),
        groups=[str(i // 2) for i in range(N_SAMPLES)],
    )


def by_way(ways: tuple[Shortcut, ...], measure: str) -> dict[str, Shortcut]:
    return {way.way: way for way in ways if way.measure == measure}


def test_good_predictions_keep_the_gain_at_the_cost_that_can_be_counted() -> None:
    grid = planted()
    options = ShortcutOptions(share=0.1, pilot=0, n_resamples=30)
    ways = by_way(compare_ways(grid, options), "margin")
    exhaustive, first = ways["exhaustive"], ways["screen-first"]
    assert exhaustive.cell == first.cell == ways["screening"].cell == BEST
    gain = float((grid.margin[BEST] - grid.base_margin).mean())
    assert exhaustive.gain == pytest.approx(gain)
    assert exhaustive.gain_low is not None
    assert exhaustive.gain_low < gain < (exhaustive.gain_high or 0)
    assert exhaustive.share_kept == first.share_kept == 1
    assert first.gain_held_out == pytest.approx(gain, abs=0.05)
    assert (exhaustive.answers_share, exhaustive.work_share) == (1, pytest.approx(1))
    assert (first.n_run, first.answers_share) == (4, pytest.approx(0.1))
    every = float(grid.cell_work.sum()) * N_SAMPLES
    assert ways["screening"].work_share == pytest.approx(1.9 * N_SAMPLES / every)
    assert ways["screening"].answers == 0
    assert ways["auc and norm"].cell == 7 * 5 + 2  # the layer of the best AUC, the strength nearest to half a norm
    assert ways["auc and norm"].work == 0
    assert ways["best-auc layer"].n_run == 5
    assert set(np.arange(35, 40)) >= {ways["best-auc layer"].cell}


def test_predictions_of_noise_reach_what_random_cells_do() -> None:
    shares = []
    for seed in range(8):
        ways = by_way(compare_ways(planted(seed=seed, good=False), ShortcutOptions(pilot=0, n_resamples=6)), "margin")
        shares.append([ways[name].share_kept or 0.0 for name in ("screen-first", "random cells", "exhaustive")])
    screened, blind, exhaustive = np.mean(shares, axis=0)
    assert exhaustive == 1
    assert screened < 0.6
    assert abs(screened - blind) < 0.35


def test_a_race_keeps_its_promise_and_costs_less_where_a_cell_stands_out() -> None:
    grid = planted(lift=2.5)
    ways = by_way(compare_ways(grid, ShortcutOptions(pilot=0, n_resamples=20, share=0.25)), "accuracy")
    for name in ("racing", "screen-first + racing"):
        assert (ways[name].promise_kept or 0.0) >= 0.95
        assert ways[name].answers_share < ways["exhaustive"].answers_share
        assert ways[name].cell == BEST
    assert ways["screen-first + racing"].answers <= ways["screen-first"].answers
    assert ways["screening"].promise_kept is None


def test_equal_answers_and_equal_predictions_go_to_the_smallest_strength() -> None:
    grid = planted()
    same = replace(
        grid,
        right=np.tile(grid.base_right, (N_CELLS, 1)),
        margin=np.tile(grid.base_margin, (N_CELLS, 1)),
        predicted=np.tile(grid.base_margin, (N_CELLS, 1)),
    )
    for way in compare_ways(same, ShortcutOptions(pilot=0, n_resamples=3)):
        if way.way not in ("auc and norm", "best-auc layer", "random cells"):
            assert way.cell == 0, way.way
        assert way.gain == 0
        assert way.share_kept is None, "nothing was gained that could be kept"


def test_resamples_are_of_pictures_and_the_same_from_the_same_seed() -> None:
    grid, options = planted(), ShortcutOptions(pilot=0, n_resamples=5, seed=3)
    assert compare_ways(grid, options) == compare_ways(grid, options)
    one = replace(grid, groups=["the only picture"] * N_SAMPLES)
    ways = by_way(compare_ways(one, options), "margin")
    assert ways["exhaustive"].gain_held_out is None  # nothing is left out
    assert ways["exhaustive"].gain_low is None
    without = compare_ways(replace(grid, auc={}), options)
    assert not {"auc and norm", "best-auc layer"} & {way.way for way in without}
    with pytest.raises(UsageError, match="a share of 0"):
        ShortcutOptions(share=0)


def test_a_finished_grid_is_compared_from_its_stored_answers_and_the_query_shows_it(
    own_session: Session, world: World, tmp_path: Any
) -> None:
    job = small_job(own_session, world.loaded, tmp_path, splits=["search"])
    options = ShortcutOptions(share=0.25, n_resamples=10)
    with pytest.raises(UsageError, match="no sweep of this cache has all of these cells"):
        compare_sweep(job, wanted(world.loaded), options)
    sweep_id = run_grid(job).tasks[0].sweep_id
    (found,) = compare_sweep(job, wanted(world.loaded), options)
    assert found.sweep_id == sweep_id
    stored, base = stored_answers_of(own_session, sweep_id), job.grid.baseline.cell.cell_id
    samples = [one.sample_id for one in job.tasks[0].asked["search"]]
    ways = by_way(found.ways, "accuracy")
    right = {s.cell.cell_id: sum(stored[s.cell.cell_id, i]["correct"] for i in samples) for s in found.settings}
    chosen = found.settings[ways["exhaustive"].cell].cell.cell_id
    assert right[chosen] == max(right.values())
    before = sum(stored[base, i]["correct"] for i in samples)
    assert ways["exhaustive"].gain == pytest.approx((right[chosen] - before) / len(samples))
    margins = by_way(found.ways, "margin")["exhaustive"]
    means = {s.cell.cell_id: np.mean([stored[s.cell.cell_id, i]["margin"] for i in samples]) for s in found.settings}
    assert means[found.settings[margins.cell].cell.cell_id] == pytest.approx(max(means.values()), abs=1e-6)
    rows = own_session.query("what_replaces_the_grid", sweep=sweep_id).to_arrow_table().to_pylist()
    assert {(r["way"], r["measure"], r["gain"]) for r in rows} == {(w.way, w.measure, w.gain) for w in found.ways}
    assert {r["n_cells"] for r in rows} == {12}
    assert {r["vector"] for r in rows} == {found.settings[0].arm.vector.name}  # type: ignore[union-attr]
    compare_sweep(job, wanted(world.loaded), replace(options, share=0.5))  # takes the place of the first
    again = own_session.query("what_replaces_the_grid").to_arrow_table().to_pylist()
    assert len(again) == len(rows)
    rebuild_index(own_session.cache)
    fresh = open_session(own_session.cache.root)
    assert fresh.query("what_replaces_the_grid").to_arrow_table().to_pylist() == again
