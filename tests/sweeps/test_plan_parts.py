"""A sweep's plan counts everything that runs, and learns from sweeps that ran."""

from pathlib import Path
from typing import Any

import pytest

from steercache.answers import batches
from steercache.answers.costs import costs_here, known_costs, predict_seconds
from steercache.answers.work import work_of
from steercache.cache.calibration import correction, record_costs
from steercache.queries.session import Session
from steercache.screening.for_grid import screening_for_grid
from steercache.screening.pilot import ScreenFirst
from steercache.steering.costs import ForwardCosts, key_of
from steercache.sweeps.grid import GridOptions, run_grid
from steercache.sweeps.plan import plan_sweep
from tests.sweeps.small_sweep import small_grid, small_job
from tests.world import World

COSTS = ForwardCosts(
    block_call_s=1e-4, block_token_s=1e-5, head_row_s=1e-4, picture_s=1e-2, step_s=1e-3, step_row_s=1e-4
)
SMALL: dict[str, Any] = {"n": 6, "layers": [1, 3], "alphas": [3], "splits": ["search"]}


def test_nulls_gradients_and_a_pilot_are_counted(own_session: Session, world: World, tmp_path: Path) -> None:
    record_costs(own_session.cache.paths, key_of(world.loaded), COSTS.as_dict())
    costs = costs_here(own_session.cache, world.loaded)
    job = small_job(own_session, world.loaded, tmp_path, **SMALL)
    plain = plan_sweep(job, costs, GridOptions())
    assert plain.parts == {"answers": plain.seconds, "nulls": 0.0, "gradients": 0.0, "pilot": 0.0}
    some, more = (plan_sweep(job, costs, GridOptions(nulls=n)).parts["nulls"] for n in (5, 20))
    assert more == pytest.approx(4 * some)
    work = work_of(job.tasks[0].asked["search"], job.grid.cells, (), loaded=world.loaded, options=job.grid.options)
    assert more == pytest.approx(20 * predict_seconds(costs, work)["branch"])
    first = GridOptions(screen_first=ScreenFirst(k=1, pilot=3))
    screened = plan_sweep(job, costs, first)
    assert screened.parts["gradients"] > plain.seconds / 4
    assert 0 < screened.parts["pilot"] < plain.seconds
    assert screened.seconds == pytest.approx(sum(screened.parts.values()))
    n_arms, n_cells = len(job.grid.arms), len(job.grid.cells)
    assert screened.tasks[0].n_cells["search"] == 1 + n_arms < 1 + n_cells == plain.tasks[0].n_cells["search"]
    assert not screened.at_most
    assert plan_sweep(job, costs, GridOptions(nulls=20, screen_first=ScreenFirst(k=1))).parts["nulls"] < more
    run_grid(job, first, screening=screening_for_grid())
    assert plan_sweep(job, costs, first).parts["gradients"] == 0.0


def test_a_sweep_that_ran_corrects_the_next_prediction(
    own_session: Session, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, key = own_session.cache.paths, key_of(world.loaded)
    slow = {name: 30 * seconds for name, seconds in COSTS.as_dict().items()}  # as measured on a busy machine
    record_costs(paths, key, slow)
    monkeypatch.setattr("steercache.cache.calibration.LEAST_S", 0.0)
    job = small_job(own_session, world.loaded, tmp_path, **SMALL)
    before = plan_sweep(job, costs_here(own_session.cache, world.loaded), GridOptions()).seconds
    began = batches.time.perf_counter()
    small_grid(own_session, world.loaded, tmp_path, options=GridOptions(mode="branch"), **SMALL)
    took = batches.time.perf_counter() - began
    factor = correction(paths, key)
    assert factor * before <= took  # the first job is believed; answering is part of what a grid does
    assert factor < 0.8
    found = known_costs(own_session.cache, world.loaded.spec, world.loaded.model.device)
    assert found is not None
    assert found.factor == factor
    costs_here(own_session.cache, world.loaded, again=True)
    assert correction(paths, key) == 1.0
