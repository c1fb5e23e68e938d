"""Strengths at a given KL: what was resolved does that damage, is a cell's identity, and is never looked for again."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import steercache
from steercache.answers import kl_strengths
from steercache.answers.costs import costs_here
from steercache.answers.damage import damage_of, neutral_inputs
from steercache.answers.kl_strengths import kl_strengths_of, known_kl_strengths
from steercache.answers.units import in_units
from steercache.cells.options import GridAxes, KlPlace
from steercache.cells.targets import with_clauses
from steercache.core.errors import DamagedError, SteercacheWarning, UsageError
from steercache.core.trials import Cell
from steercache.data.benchmarks import open_benchmark
from steercache.queries.session import Session
from steercache.queries.token_clause import target_text
from steercache.screening.for_grid import screening_for_grid
from steercache.screening.pilot import ScreenFirst
from steercache.stats.level import TOLERANCE
from steercache.steering.cells import BranchCell
from steercache.steering.operations.change import change_of
from steercache.sweeps.evaluation import evaluate
from steercache.sweeps.grid import GridOptions, run_grid
from steercache.sweeps.plan import plan_sweep
from tests.answers.test_damage import nats_by_hand
from tests.sweeps.small_run import options
from tests.sweeps.small_sweep import small_grid, small_job
from tests.world import World

QUIET = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # transformers' processor
AXES: dict[str, Any] = {"layers": (3,), "alphas": (0.002, 0.02), "targets": ("image",), "alpha_unit": "kl"}


def no_model() -> Any:
    raise AssertionError("no model is needed")


@QUIET
def test_the_damage_of_what_is_resolved_is_the_kl_that_was_asked_for(own_session: Session, world: World) -> None:
    vector, cache = own_session.vector("counting"), own_session.cache
    axes = GridAxes(**{**AXES, "alphas": (0.002, 0.02, -0.02)})
    found = kl_strengths_of(cache, world.loaded.bundle, [vector], axes, load=lambda: world.loaded)
    assert found.keys() == {KlPlace(vector.vector_id, 3, "image", a) for a in axes.alphas}
    for place, raw in found.items():
        cell = BranchCell(key="k", layer=3, delta_d=np.float32(raw) * vector.at(3), target="image")
        assert math.copysign(1, raw) == math.copysign(1, place.alpha)
        (damage,) = damage_of(world.loaded, [cell], neutral_inputs(world.loaded)).values()
        assert damage.mean_nats == pytest.approx(abs(place.alpha), rel=TOLERANCE * 1.01)
        if place.alpha == 0.02:  # and by plain transformers
            assert np.mean(nats_by_hand(world.loaded, cell, n=16)) == pytest.approx(0.02, rel=TOLERANCE + 0.005)
    assert known_kl_strengths(cache, world.loaded.bundle, [vector], axes) == found
    again = kl_strengths_of(cache, world.loaded.bundle, [vector], axes, load=no_model)
    assert again == found
    more = GridAxes(**{**AXES, "alphas": (0.006,)})  # another level starts from what was seen
    passes: list[int] = []
    real = damage_of

    def counted(loaded: Any, cells: Any, inputs: Any, **kw: Any) -> Any:
        passes.append(len(cells))
        return real(loaded, cells, inputs, **kw)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(kl_strengths, "damage_of", counted)
        (raw,) = kl_strengths_of(cache, world.loaded.bundle, [vector], more, load=lambda: world.loaded).values()
    assert 0 < len([n for n in passes if n]) <= 4
    low, high = (found[KlPlace(vector.vector_id, 3, "image", a)] for a in (0.002, 0.02))
    assert low < raw < high
    for path in cache.paths.kl_strengths.iterdir():
        path.write_text('{"seen": 3}')
    with pytest.raises(DamagedError, match="delete it"):
        known_kl_strengths(cache, world.loaded.bundle, [vector], axes)


@QUIET
@pytest.mark.parametrize("operation", ["add_preserving_norm", "project_out", "rotate"])
def test_other_operations_are_brought_to_the_same_kl(operation: str, own_session: Session, world: World) -> None:
    vector = own_session.vector("counting")
    axes = GridAxes(**{**AXES, "alphas": (1e-4,), "operation": operation})
    found = kl_strengths_of(own_session.cache, world.loaded.bundle, [vector], axes, load=lambda: world.loaded)
    (raw,) = found.values()
    from steercache.core.operations import read_operation

    change = change_of(vector, 3, alpha=raw, operation=read_operation(operation))
    cell = BranchCell(key="k", layer=3, delta_d=change.delta_d, target="image", change=change)
    (damage,) = damage_of(world.loaded, [cell], neutral_inputs(world.loaded)).values()
    assert damage.mean_nats == pytest.approx(1e-4, rel=TOLERANCE * 1.01)


@QUIET
def test_a_target_in_sql_has_a_strength_of_its_own(own_session: Session, world: World) -> None:
    asked = options(
        **{**AXES, "alphas": (0.002,), "targets": ("image", target_text("kind = 'image' and patch_row < 1"))}
    )
    axes, vector = with_clauses(asked, own_session).axes, own_session.vector("counting")
    found = kl_strengths_of(own_session.cache, world.loaded.bundle, [vector], axes, load=lambda: world.loaded)
    every, some = (found[KlPlace(vector.vector_id, 3, target, 0.002)] for target in axes.targets)
    assert some > 1.2 * every
    cell = BranchCell(
        key="k", layer=3, delta_d=np.float32(some) * vector.at(3), target=axes.clauses[str(axes.targets[1])]
    )
    (damage,) = damage_of(world.loaded, [cell], neutral_inputs(world.loaded)).values()
    assert damage.mean_nats == pytest.approx(0.002, rel=TOLERANCE * 1.01)


@QUIET
def test_a_level_out_of_reach_is_an_error_that_says_what_was_seen_and_loses_nothing(
    own_session: Session, world: World
) -> None:
    vector, cache = own_session.vector("counting"), own_session.cache
    axes = GridAxes(**{**AXES, "alphas": (1e-4, 40.0), "operation": "project_out"})
    with pytest.raises(
        UsageError, match=r"1 strengths .*'counting' at layer 3 on image tokens: 40 nats \(most .* of [0-9]+ str"
    ):
        kl_strengths_of(cache, world.loaded.bundle, [vector], axes, load=lambda: world.loaded)
    reached = GridAxes(**{**AXES, "alphas": (1e-4,), "operation": "project_out"})
    assert len(kl_strengths_of(cache, world.loaded.bundle, [vector], reached, load=no_model)) == 1


@QUIET
def test_a_curve_that_falls_warns_and_counts_from_its_smallest_strength(
    own_session: Session, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from steercache.core.damage import Damage

    def bent(loaded: Any, cells: Any, inputs: Any, **_: Any) -> dict[str, Damage]:
        found = {}
        for cell in cells:
            s = float(np.linalg.norm(cell.delta_d))
            nats = s if s < 1 else max(0.3, 2 - s) if s < 3 else s
            found[cell.key] = Damage(mean_nats=nats, max_nats=nats, n=16)
        return found

    monkeypatch.setattr(kl_strengths, "damage_of", bent)
    vector = own_session.vector("counting")
    axes = GridAxes(**{**AXES, "alphas": (0.5,)})
    with pytest.warns(SteercacheWarning, match=r"KL of 'counting' at layer 3 .* falls between strength"):
        (raw,) = kl_strengths_of(
            own_session.cache, world.loaded.bundle, [vector], axes, load=lambda: world.loaded
        ).values()
    assert raw * np.linalg.norm(vector.at(3)) == pytest.approx(0.5, rel=TOLERANCE)


@QUIET
def test_a_grid_compares_vector_and_nulls_at_equal_kl_and_an_evaluation_has_the_same_cells(
    own_session: Session, world: World, tmp_path: Path
) -> None:
    sweep: dict[str, Any] = {"layers": [3], "alphas": [0.002, 0.02], "alpha_unit": "kl", "targets": ["image"], "n": 4}
    small_grid(own_session, world.loaded, tmp_path, **sweep, options=GridOptions(nulls=1))
    rows = own_session.sql(
        "select cell_id, alpha, alpha_unit, unit_norm from cells where vector_id is not null"
    ).fetchall()
    assert {(alpha, unit) for _, alpha, unit, _ in rows} == {(0.002, "kl"), (0.02, "kl")}
    assert len({norm for *_, norm in rows}) == 4  # the null has strengths of its own
    choices = own_session.sql("select details from choices where vector_id is not null").fetchall()
    damages = [json.loads(d)["damage"]["mean_nats"] for (d,) in choices if "damage" in json.loads(d)]
    assert damages
    assert all(min(abs(nats / a - 1) for a in (0.002, 0.02)) < TOLERANCE * 1.01 for nats in damages)
    job = small_job(own_session, world.loaded, tmp_path, **sweep)
    again = run_grid(job, GridOptions()).tasks[0]
    assert again.n_computed == 0
    assert in_units(job, job.tasks[0]).grid.cells[0].cell.unit_norm is not None
    found = evaluate(
        own_session,
        world.loaded,
        open_benchmark("scenes", task="Count", form="number"),
        vectors=[own_session.vector("counting")],
        options=options(**AXES, n=4, controls=0, prompting="", split="search", damage=False),
    )
    assert (found.n_computed, found.n_reused) == (0, 3 * 4)
    with pytest.raises(UsageError, match="straight lines in the strength"):
        run_grid(job, GridOptions(screen_first=ScreenFirst(k=1)), screening=screening_for_grid())


@QUIET
def test_a_plan_counts_what_is_left_to_find_and_python_gives_the_raw_strength(
    own_session: Session, world: World, tmp_path: Path
) -> None:
    sweep: dict[str, Any] = {"layers": [3], "alphas": [0.002], "alpha_unit": "kl", "targets": ["image"], "n": 4}
    job, costs = small_job(own_session, world.loaded, tmp_path, **sweep), costs_here(own_session.cache, world.loaded)
    before = plan_sweep(job, costs, GridOptions()).parts["strengths"]
    cache = steercache.open(own_session.cache.root)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(type(cache), "model_of", lambda *args, **options: world.loaded)
        raw = cache.strength_at_kl("counting", 0.002, layer=3, target="image")
    assert before > plan_sweep(job, costs, GridOptions()).parts["strengths"] == 0
    assert plan_sweep(job, costs, GridOptions(nulls=2)).parts["strengths"] > before
    (cell,) = (s.cell for s in in_units(job, job.tasks[0]).grid.cells)
    assert cell.unit_norm == pytest.approx(raw / 0.002)


def test_a_resolved_strength_is_another_cell_and_an_unresolved_one_is_not_run(own_session: Session) -> None:
    common: dict[str, Any] = {"vector_id": "v" * 64, "layer": 3, "model_fingerprint": "f" * 64, "prompt_id": "plain"}
    ids = {
        Cell(alpha=0.5, alpha_unit="kl", target="image", unit_norm=norm, **common).cell_id for norm in (None, 7.0, 8.0)
    }
    assert len(ids) == 3
    with pytest.raises(UsageError, match="found on unrelated prompts"):
        change_of(own_session.vector("counting"), 3, alpha=0.5, alpha_unit="kl")
