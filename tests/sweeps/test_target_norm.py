"""Strengths in norms of the rows that are steered, against plain transformers with hooks and numpy."""

import hashlib
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from steercache.answers.costs import costs_here
from steercache.answers.row_norms import row_norms_of, with_target_norms
from steercache.benchmarks.task import pick_rows
from steercache.cells.arms import Arm, ArmCell, settings_of
from steercache.core.errors import DamagedError
from steercache.core.trials import Cell
from steercache.data.benchmarks import open_benchmark
from steercache.queries.session import Session
from steercache.screening.for_grid import screening_for_grid
from steercache.screening.gradient_source import ensure_gradients
from steercache.screening.job import (
    ranks_of_best,
    screen_task,
    sweep_job,
    tasks_of_sweep,
)
from steercache.screening.pilot import ScreenFirst
from steercache.screening.predict import predict_settings, wish_of
from steercache.sweeps.evaluation import evaluate
from steercache.sweeps.grid import GridOptions, run_grid
from steercache.sweeps.plan import plan_sweep
from steercache.sweeps.shortcuts_job import _fitted_step
from tests.screening.small_gradients import questions, wanted
from tests.sweeps.small_run import options, vector
from tests.sweeps.small_sweep import small_grid, small_job, stored_answers_of, write_sweep
from tests.sweeps.test_grid import by_hand
from tests.world import World

IN_NORMS: dict[str, Any] = {"alpha_unit": "target_norm", "alphas": [0.5, 2], "splits": ["search"]}
RELATION = {"benchmark": "scenes", "task": "Relation", "form": "letter"}
QUIET = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # transformers' processor


def no_model() -> Any:
    raise AssertionError("no model is needed")


def norms_by_hand(loaded: Any, examples: Any, layer: int) -> dict[str, float]:
    """Median over questions of the median norm of a block's output rows, by target."""
    found: dict[str, list[float]] = {"image": [], "text": [], "both": [], "all": []}
    for example in examples:
        text = f"<image>answer en Answer with the number only.\n{example.labels.meta['prompt']}"
        image = Image.open(io.BytesIO(example.images[0].load())).convert("RGB")
        inputs = loaded.processor(images=[[image]], text=[text], return_tensors="pt")
        inputs.pop("labels", None)
        kept: list[Any] = []
        block = loaded.model.model.language_model.layers[layer]
        handle = block.register_forward_hook(lambda module, args, out, kept=kept: kept.append(out[0]))
        with torch.no_grad():
            loaded.model(**inputs)
        handle.remove()
        norms = np.linalg.norm(kept[0].numpy(), axis=1)
        ids = inputs["input_ids"][0]
        image_rows = (ids == loaded.config.image_token_id).numpy()
        text_rows = ~image_rows & ~np.isin(ids.numpy(), loaded.tokenizer.all_special_ids)
        text_rows[-1] = False
        every = np.ones(len(ids), bool)
        for name, rows in (
            ("image", image_rows),
            ("text", text_rows),
            ("both", image_rows | text_rows),
            ("all", every),
        ):
            found[name].append(float(np.median(norms[1:][rows[1:]])))
    return {name: float(np.median(some)) for name, some in found.items()}


def test_ids_of_cells_in_other_units_are_what_they_were_and_a_norm_makes_another_cell() -> None:
    common: dict[str, Any] = {"vector_id": "v" * 64, "layer": 3, "model_fingerprint": "f" * 64, "prompt_id": "plain"}
    raw = Cell(alpha=9.0, target="image", decoding={"greedy": True}, **common)
    assert raw.cell_id == "61fe8b4358cd2569a9ff2638c3c16e19cc3da08befad0ab1f699f9029ac49c9f"
    relative = Cell(alpha=0.5, target="text", alpha_unit="resid_norm", **common)
    assert relative.cell_id == "36444df52723f346f422563bf658c659d907bb2f6d8b6ead72c2ff8885b5b3d7"
    ids = {replace(relative, alpha_unit="target_norm", unit_norm=norm).cell_id for norm in (None, 7.0, 7.5)}
    assert len(ids | {relative.cell_id}) == 4


@QUIET
def test_norms_are_those_of_plain_transformers_with_a_hook(own_session: Session, world: World) -> None:
    asked = questions(world.loaded.bundle, n=40)
    norms = row_norms_of(own_session.cache, world.loaded.bundle, asked, load=lambda: world.loaded)
    bench = open_benchmark("scenes", task="Count", form="number")
    rows = pick_rows(bench, "search", n=40, orphans="search")
    first = sorted(rows, key=lambda row: hashlib.sha256(row.place.encode()).digest())[:32]
    assert len(rows) == 40
    for layer in (0, 2, 5):
        for target, norm in norms_by_hand(world.loaded, first, layer).items():
            assert norms[target][layer] == pytest.approx(norm, rel=1e-4), (layer, target)
    # a larger choice has the same first questions; the file says the rest
    more = questions(world.loaded.bundle, n=60)
    assert row_norms_of(own_session.cache, world.loaded.bundle, more, load=no_model) == norms
    fewer = questions(world.loaded.bundle, n=3)
    assert row_norms_of(own_session.cache, world.loaded.bundle, fewer, load=lambda: world.loaded) != norms
    for path in own_session.cache.paths.row_norms.iterdir():
        path.write_text('{"norms": {"image": "long"}}')
    with pytest.raises(DamagedError, match="delete it"):
        row_norms_of(own_session.cache, world.loaded.bundle, asked, load=no_model)


@QUIET
def test_a_grid_adds_so_many_norms_of_each_tasks_own_rows_and_never_measures_them_again(
    own_session: Session, world: World, tmp_path: Path
) -> None:
    sweep = {**IN_NORMS, "layers": [3], "n": 5}
    job = small_job(own_session, world.loaded, tmp_path, **sweep)
    (task,) = small_grid(own_session, world.loaded, tmp_path, **sweep, options=GridOptions(nulls=1)).tasks
    examples = pick_rows(job.tasks[0].benchmark, "search", n=5, orphans="test")
    norms, v = norms_by_hand(world.loaded, examples, 3), own_session.vector("counting").at(3)
    rows = own_session.sql("select cell_id, target, alpha, unit_norm from cells where vector_id is not null")
    cells = {cell_id: (target, alpha, norm) for cell_id, target, alpha, norm in rows.fetchall()}
    assert len(cells) == 2 * 4  # the null's cells count in the same norms
    for target, _, norm in cells.values():
        assert norm == pytest.approx(norms[target], rel=1e-4)
    answers = stored_answers_of(own_session, task.sweep_id)
    for row in task.cells:
        target, alpha, _ = cells[row.cell.cell_id]
        delta = np.float32(alpha * norms[target] / np.linalg.norm(v)) * v  # a raw strength
        for example, one in zip(examples, job.tasks[0].asked["search"], strict=True):
            words = by_hand(world.loaded, example, delta, layer=3, target=target)
            key = (row.cell.cell_id, one.sample_id)
            assert answers[key]["raw"] == words or key in task.near_ties
    again = run_grid(job, GridOptions()).tasks[0]
    assert (again.n_computed, again.cells) == (0, task.cells)
    assert with_target_norms(job, job.tasks[0], load=no_model).grid.cells[0].cell.unit_norm is not None
    found = evaluate(  # cells of an evaluation are the same ones
        own_session,
        world.loaded,
        open_benchmark("scenes", task="Count", form="number"),
        vectors=[own_session.vector("counting")],
        options=options(
            layers=(3,),
            alphas=(0.5, 2.0),
            targets=("image", "text"),
            alpha_unit="target_norm",
            n=5,
            controls=0,
            prompting="",
            split="search",
            damage=False,
        ),
    )
    assert (found.n_computed, found.n_reused) == (0, 5 * 5)
    (other,) = small_grid(own_session, world.loaded, tmp_path / "b", **(sweep | {"tasks": [RELATION]})).tasks
    assert {r.cell.cell_id for r in other.cells}.isdisjoint(cells)
    assert other.n_computed == 5 * 5


def test_an_evaluation_of_the_test_split_alone_counts_in_norms_of_the_search_split(
    own_session: Session, world: World
) -> None:
    asked = options(alpha_unit="target_norm", alphas=(0.5,), split="test", controls=0, prompting="", damage=False)
    found = evaluate(
        own_session,
        world.loaded,
        open_benchmark("scenes", task="Count", form="number"),
        vectors=[own_session.vector("counting")],
        options=asked,
    )
    norms = row_norms_of(own_session.cache, world.loaded.bundle, questions(world.loaded.bundle), load=no_model)
    assert found.rows[0].cell.unit_norm == norms["text"][2]


def test_a_plan_counts_answers_before_and_after_the_norms_are_measured(
    own_session: Session, world: World, tmp_path: Path
) -> None:
    job = small_job(own_session, world.loaded, tmp_path, **IN_NORMS, n=4, layers=[4])
    costs = costs_here(own_session.cache, world.loaded)
    assert plan_sweep(job, costs, GridOptions()).tasks[0].modes["search"].n_to_compute == 5 * 4
    run_grid(job, GridOptions(damage=False))
    assert plan_sweep(job, costs, GridOptions()).tasks[0].modes["search"].n_cached == 5 * 4


def test_a_screening_predicts_the_same_additions_without_a_model_once_they_are_recorded(
    own_session: Session, world: World, tmp_path: Path
) -> None:
    resolved, loads = write_sweep(tmp_path, **IN_NORMS, layers=[1, 3]), []

    def load() -> Any:
        loads.append(1)
        return world.loaded

    asks = wanted(world.loaded, load=load)
    job = sweep_job(own_session, resolved, asks)
    (task,) = tasks_of_sweep(job)
    found = screen_task(own_session, task, asks)
    assert loads == [1]  # for gradients and norms together
    again = screen_task(own_session, task, wanted(world.loaded, load=no_model))
    np.testing.assert_array_equal(again.grid.shift, found.grid.shift)
    exact = with_target_norms(job, job.tasks[0], load=no_model)
    cells = exact.grid.cells
    gradients = ensure_gradients(own_session, task.asked, wish_of("scenes", cells), wanted(world.loaded, load=no_model))
    predicted = predict_settings(gradients, cells)
    by_place = {(p.setting.cell.target, p.setting.cell.layer, p.setting.cell.alpha): p for p in predicted}
    for t, target in enumerate(("image", "text")):
        for i, layer in enumerate((1, 3)):
            for a, alpha in enumerate((0.5, 2.0)):
                one = by_place[target, layer, alpha]
                assert found.grid.shift[t, i, 0, a] == pytest.approx(one.shift, rel=1e-4, abs=1e-6)
                assert found.grid.step[t, i, 0, a] == pytest.approx(one.step, rel=1e-5)
                length = float(np.linalg.norm(one.setting.delta(96)))
                assert length == pytest.approx(alpha * (one.setting.cell.unit_norm or 0), rel=1e-5)
                assert length == pytest.approx(np.linalg.norm(found.grid.grid.delta(0, layer, target, alpha=alpha)))
    live = small_job(own_session, world.loaded, tmp_path / "live", **IN_NORMS, layers=[1, 3])
    picked = run_grid(
        live, GridOptions(screen_first=ScreenFirst(k=2), damage=False), screening=screening_for_grid()
    ).tasks[0]
    best = sorted(by_place.values(), key=lambda p: -p.shift)[:2]
    assert {r.cell.cell_id for r in picked.cells} == {p.setting.cell.cell_id for p in best}


@pytest.mark.slow
def test_nulls_of_a_screening_are_counted_in_the_norms_of_each_target(
    own_session: Session, world: World, tmp_path: Path
) -> None:
    """At one layer and target, a rank does not hang on what strengths are counted in."""
    ranks = []
    for unit, name in (("target_norm", "a"), ("raw", "b")):
        changes = {**IN_NORMS, "alpha_unit": unit, "alphas": [0.1], "layers": [3], "targets": ["text"]}
        asks = wanted(world.loaded)
        job = sweep_job(own_session, write_sweep(tmp_path / name, **changes), asks)
        screened = screen_task(own_session, tasks_of_sweep(job)[0], asks)
        (rank,) = ranks_of_best(own_session, screened, count=39, n=1)
        ranks.append(rank)
    assert ranks[0].p == ranks[1].p
    assert ranks[0].at_layer["text"] == pytest.approx(ranks[1].at_layer["text"])
    norms = row_norms_of(own_session.cache, world.loaded.bundle, questions(world.loaded.bundle), load=no_model)
    length = np.linalg.norm(own_session.vector("counting").at(3))
    assert ranks[1].shift
    assert ranks[0].shift == pytest.approx(ranks[1].shift * (norms["text"][3] or 0) / length, rel=1e-3)


def test_a_step_in_norms_of_fitted_rows_follows_from_that_of_steered_rows(world: World) -> None:
    made = replace(vector(np.ones((6, 96), np.float32)), diagnostics=({"layer": 2, "resid_norm": 50.0},))
    asked = options(alpha_unit="target_norm", alphas=(-0.5,), row_norms={"text": (20.0,) * 6})
    (setting,) = settings_of(Arm(name="made", role="vector", vector=made), world.loaded, asked)
    assert isinstance(setting, ArmCell)
    assert _fitted_step(made, setting) == pytest.approx(0.5 * 20 / 50)
