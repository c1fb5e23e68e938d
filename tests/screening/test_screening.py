"""Predictions from stored gradients against loops written out, and against what a grid answers."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from steercache.cells.arms import Arm, ArmCell, settings_of
from steercache.core.errors import UsageError
from steercache.core.vectors import SteeringVector
from steercache.queries.session import Session, open_session
from steercache.screening.for_grid import screening_for_grid
from steercache.screening.gradient_plan import GradientRequest
from steercache.screening.gradient_source import ensure_gradients
from steercache.screening.gradient_store import StoredGradients
from steercache.screening.job import (
    effects_of_best,
    fitting_vectors,
    screen_task,
    tasks_of_sweep,
)
from steercache.screening.many import VectorGrid, rank_among_nulls, screen_grid
from steercache.screening.pilot import ScreenFirst
from steercache.screening.predict import (
    best_predicted,
    margins_of_settings,
    predict_settings,
    ranked,
    sample_effects,
    wish_of,
)
from steercache.steering.add import delta_of
from steercache.sweeps.grid import GridOptions, run_grid
from tests.screening.small_gradients import LAYERS, copied_root, questions, small_gradients, wanted
from tests.sweeps.small_run import options, vector
from tests.sweeps.small_sweep import small_job, stored_answers_of
from tests.world import World

Array = np.ndarray[Any, Any]
ALPHAS = (0.02, 0.1, 4.0, -40.0, 80.0)


@pytest.fixture(scope="module")
def gradients(world: World, tmp_path_factory: pytest.TempPathFactory) -> StoredGradients:
    return small_gradients(open_session(copied_root(world, tmp_path_factory.mktemp("screening"))), world.loaded)


@pytest.fixture(scope="module")
def vectors() -> tuple[SteeringVector, ...]:
    rng = np.random.default_rng(5)
    return tuple(vector(rng.standard_normal((6, 96)).astype(np.float32), name=name) for name in ("one", "two", "three"))


def settings(world: World, vectors: tuple[SteeringVector, ...], **changes: Any) -> list[ArmCell]:
    asked = options(**({"layers": LAYERS, "alphas": ALPHAS, "targets": ("image", "text")} | changes))
    return [s for v in vectors for s in settings_of(Arm(name=v.name, role="vector", vector=v), world.loaded, asked)]


def margins_by_hand(gradients: StoredGradients, target: str, layer: int, delta_d: Array) -> list[float]:
    """Answer margins, sample by sample and option by option: log probabilities are their margins times (k - 1) / k."""
    rows = gradients.gather(target, layer)
    found = []
    for i, right in enumerate(gradients.right):
        log_p = [(m + float(g @ delta_d)) * 4 / 5 for m, g in zip(gradients.margins[i], rows[i], strict=True)]
        found.append(log_p[right] - max(x for k, x in enumerate(log_p) if k != right))
    return found


def capped(gradients: StoredGradients, setting: ArmCell) -> Array:
    """What is added, brought to half the median norm where it is longer."""
    delta_d = setting.delta(96)
    norms = gradients.row_norms[str(setting.cell.target)][LAYERS.index(setting.cell.layer or 0)]
    limit = 0.5 * float(np.median(norms))
    length = float(np.linalg.norm(delta_d))
    return delta_d if length <= limit else delta_d * np.float32(limit / length)


def test_predictions_of_settings_are_those_worked_out_by_hand(
    world: World, gradients: StoredGradients, vectors: tuple[SteeringVector, ...]
) -> None:
    some = settings(world, vectors)
    base = np.array(margins_by_hand(gradients, "text", 1, np.zeros(96)))
    predicted = predict_settings(gradients, some)
    every = margins_of_settings(gradients, some)
    n_beyond = 0
    for one, setting, margins in zip(predicted, some, every, strict=True):
        assert one.setting is setting
        layer, target = setting.cell.layer or 0, str(setting.cell.target)
        expected = np.array(margins_by_hand(gradients, target, layer, capped(gradients, setting)))
        np.testing.assert_allclose(margins, expected, atol=2e-4)
        assert one.shift == pytest.approx(float((expected - base).mean()), abs=2e-4)
        clear = np.abs(expected) > 1e-3
        assert abs(one.accuracy * 14 - float((expected > 0).sum())) <= float((~clear).sum()) + 1e-4
        assert one.helped + one.hurt <= 14
        norm = np.median(gradients.row_norms[target][LAYERS.index(layer)])
        assert one.step == pytest.approx(float(np.linalg.norm(setting.delta(96)) / norm), rel=1e-4)
        assert one.beyond == (one.step > 0.5)
        n_beyond += one.beyond
    assert 0 < n_beyond < len(some)


def test_relative_strengths_count_in_the_norms_of_the_vectors_own_rows(
    world: World, gradients: StoredGradients
) -> None:
    plain = vector(np.ones((6, 96), dtype=np.float32))
    norms = tuple({"layer": i, "resid_norm": 10.0 + i} for i in range(6))
    relative = replace(plain, diagnostics=norms)
    asked = {"layers": (3,), "alphas": (0.1,), "targets": ("text",)}
    (one,) = predict_settings(gradients, settings(world, (relative,), alpha_unit="resid_norm", **asked))
    raw = 0.1 * 13.0 / np.sqrt(96.0)
    (same,) = predict_settings(gradients, settings(world, (plain,), **(asked | {"alphas": (raw,)})))
    assert one.shift == pytest.approx(same.shift, rel=1e-5)
    with pytest.raises(UsageError, match="does not say how long its rows were"):
        predict_settings(gradients, settings(world, (plain,), alpha_unit="resid_norm", **asked))


def test_thousands_of_cells_as_arrays_are_the_same_predictions(
    world: World, gradients: StoredGradients, vectors: tuple[SteeringVector, ...]
) -> None:
    names = tuple(v.name for v in vectors)
    grid = VectorGrid(names=names, vectors=vectors, layers=LAYERS, alphas=ALPHAS, targets=("image", "text"))
    found = screen_grid(gradients, grid)
    some = predict_settings(gradients, settings(world, vectors))
    by_cell = {(s.setting.arm.name, s.setting.cell.layer, s.setting.cell.alpha, s.setting.cell.target): s for s in some}
    rows = found.best(found.n_cells)
    assert len(rows) == len(by_cell) == 90
    for row in rows:
        one = by_cell[row.vector, row.layer, row.alpha, row.target]  # type: ignore[index]
        assert (row.shift, row.accuracy, row.helped, row.hurt, row.beyond) == (
            pytest.approx(one.shift, abs=1e-6),
            one.accuracy,
            one.helped,
            one.hurt,
            one.beyond,
        )
    assert [r.shift for r in rows] == sorted((r.shift for r in rows), reverse=True)
    for a, b in pairwise(rows):
        assert a.shift > b.shift or abs(a.alpha) <= abs(b.alpha)
    by_accuracy = found.best(found.n_cells, by="accuracy")
    assert [r.accuracy for r in by_accuracy] == sorted((r.accuracy for r in rows), reverse=True)
    each = found.best_of_each()
    assert {r.vector for r in each} == set(names)
    for row in each:
        assert row.shift == max(r.shift for r in rows if r.vector == row.vector)


def test_beyond_what_a_line_can_say_the_weaker_of_two_strengths_is_preferred(
    world: World, gradients: StoredGradients, vectors: tuple[SteeringVector, ...]
) -> None:
    some = settings(world, vectors[:1], layers=(3,), alphas=(160.0, 80.0, 0.02), targets=("text",))
    strong, weaker, _ = predict_settings(gradients, some)
    assert strong.beyond
    assert strong.shift == weaker.shift
    order = [one.setting.cell.alpha for one in ranked([strong, weaker])]
    assert order == [80.0, 160.0]
    best = best_predicted(gradients, some, 3)
    assert [s.cell.alpha for s in best if s.cell.alpha > 1] == [80.0, 160.0]
    free = predict_settings(gradients, some, trust=1e9)
    assert len({one.shift for one in free[:2]} | {strong.shift}) == 3
    assert not any(one.beyond for one in free)


def test_samples_helped_and_hurt_are_the_ends_of_one_order(
    world: World, gradients: StoredGradients, vectors: tuple[SteeringVector, ...]
) -> None:
    (setting,) = settings(world, vectors[:1], layers=(3,), alphas=(0.1,), targets=("text",))
    (one,) = predict_settings(gradients, [setting])
    found = sample_effects(gradients, "text", 3, setting.delta(96), n=14)
    helped, hurt = found["helped"], found["hurt"]
    assert (len(helped), len(hurt)) == (one.helped, one.hurt)
    assert {*(e.sample_id for e in helped)}.isdisjoint(e.sample_id for e in hurt)
    changes = [e.change for e in helped] + [e.change for e in reversed(hurt)]
    assert changes == sorted(changes, reverse=True)
    assert sum(changes) / 14 == pytest.approx(one.shift, abs=1e-5)
    texts = {o.sample_id: (o.labels.question, o.labels.answer) for o in gradients.samples}
    assert all((e.question, e.answer) == texts[e.sample_id] for e in (*helped, *hurt))
    assert sample_effects(gradients, "text", 3, setting.delta(96), n=2)["hurt"] == hurt[:2]


def test_weak_steering_moves_the_answers_of_a_grid_as_predicted(
    own_session: Session, world: World, tmp_path: Any
) -> None:
    job = small_job(own_session, world.loaded, tmp_path, alphas=[0.02, 0.1], splits=["search"])
    result = run_grid(job).tasks[0]
    stored = stored_answers_of(own_session, result.sweep_id)
    gradients = small_gradients(own_session, world.loaded)
    base = job.grid.baseline.cell.cell_id
    predicted = margins_of_settings(gradients, job.grid.cells)
    start = np.array([stored[base, one.sample_id]["margin"] for one in gradients.samples])
    n_checked = 0
    for setting, margins in zip(job.grid.cells, predicted, strict=True):
        exact = np.array([stored[setting.cell.cell_id, one.sample_id]["margin"] for one in gradients.samples])
        moved = np.abs(exact - start).max()
        if setting.cell.alpha == 0.02 and moved > 1e-3:
            np.testing.assert_allclose(margins - start, exact - start, atol=0.1 * moved)
            n_checked += 1
    assert n_checked >= 3


def test_gradients_are_recorded_once_and_then_no_model_is_loaded(own_session: Session, world: World) -> None:
    asked = questions(world.loaded.bundle)
    wish = GradientRequest(benchmark="scenes", layers=(2,), targets=("text",))
    seen: list[tuple[int, int | None]] = []
    first = ensure_gradients(
        own_session, asked, wish, wanted(world.loaded), progress=lambda label, done, total: seen.append((done, total))
    )
    assert seen[-1] == (14, 14)

    def load() -> Any:
        raise AssertionError("no model is needed")

    again = ensure_gradients(own_session, asked, wish, wanted(world.loaded, load=load))
    np.testing.assert_array_equal(again.gather("text", 2), first.gather("text", 2))
    named = ensure_gradients(own_session, asked, wish, wanted(world.loaded, load=load, run=first.document.name))
    assert named.document.run_id == first.document.run_id
    less = questions(world.loaded.bundle, n=5)
    with pytest.raises(UsageError, match="other prompts or questions"):
        ensure_gradients(own_session, less, wish, wanted(world.loaded, load=load, run=first.document.name))
    with pytest.raises(UsageError, match="no gradients of image tokens"):
        again.screen("image")


def test_a_planted_direction_beats_every_null_and_a_vector_without_rows_says_so(
    world: World, gradients: StoredGradients
) -> None:
    real = world.session.vector("counting")
    toward = np.zeros((6, 96), dtype=np.float32)
    for layer in LAYERS:
        best = predict_direction(gradients, layer)
        toward[layer] = best / np.linalg.norm(best)
    planted = replace(real, name="planted", layers=tuple(range(6)), values=toward)
    grid = VectorGrid(
        names=("planted", "made"),
        vectors=(planted, vector(toward)),
        layers=LAYERS,
        alphas=(1.0, 2.0),
        targets=("image", "text"),
    )
    ranks = rank_among_nulls(world.session, gradients, grid, [0, 1], count=99)
    assert ranks[0].p == pytest.approx(0.01)
    assert min(ranks[0].at_layer["text"]) == pytest.approx(0.01)
    assert ranks[1].p is None
    assert "cannot be fitted again" in (ranks[1].note or "")
    again = rank_among_nulls(world.session, gradients, grid, [0], count=99)
    assert again == ranks[:1]


def predict_direction(gradients: StoredGradients, layer: int) -> Array:
    """The gradient of the mean margin against the best wrong option, on text tokens, by a loop."""
    rows, total = gradients.gather("text", layer), np.zeros(96)
    for i, right in enumerate(gradients.right):
        wrong = max((k for k in range(5) if k != right), key=lambda k: gradients.margins[i, k])
        total += rows[i, right] - rows[i, wrong]
    return total


def test_a_grid_runs_only_the_best_predicted_cells(own_session: Session, world: World, tmp_path: Any) -> None:
    job = small_job(own_session, world.loaded, tmp_path, splits=["search"])
    found = run_grid(job, GridOptions(screen_first=ScreenFirst(k=3)), screening=screening_for_grid()).tasks[0]
    asked, cells = job.tasks[0].asked["search"], job.grid.cells
    gradients = ensure_gradients(own_session, asked, wish_of("scenes", cells), wanted(world.loaded))
    expected = [s.cell.cell_id for s in best_predicted(gradients, cells, 3)]
    assert {row.cell.cell_id for row in found.cells} == {*expected}
    assert (len(found.cells), found.n_screened_out) == (3, 9)


def test_a_sweeps_tasks_are_screened_with_its_own_cells(own_session: Session, world: World, tmp_path: Any) -> None:
    job = small_job(own_session, world.loaded, tmp_path, splits=["search"])
    (task,) = tasks_of_sweep(job)
    found = screen_task(own_session, task, wanted(world.loaded))
    assert found.grid.n_cells == len(job.grid.cells) == 12
    assert (found.n_samples, found.n_left_out) == (14, 0)
    base = margins_by_hand(found.gradients, "text", 1, np.zeros(96))
    assert found.base_margin == pytest.approx(np.mean(base), abs=1e-4)
    (row,) = found.grid.best_of_each()
    effects = effects_of_best(found, n=3, n_vectors=1)
    delta_d = delta_of(task.grid.vectors[0], row.layer, alpha=row.alpha)
    assert effects[row.vector] == sample_effects(found.gradients, row.target, row.layer, delta_d, n=3)


def test_every_vector_of_the_cache_that_fits_is_found(own_session: Session, world: World) -> None:
    own_session.save(vector(np.ones((6, 96), dtype=np.float32), name="stray"))
    own_session.save(vector(np.ones((6, 32), dtype=np.float32), name="narrow"))
    found, n_others = fitting_vectors(own_session, world.loaded.bundle, layers=(1, 2), allow_foreign=False)
    assert {v.concept for v in found} == {"counting", "entity", "attribute", "spatial_relationship"}
    assert n_others == 2
    assert len(found) == 4
    more, n_others = fitting_vectors(own_session, world.loaded.bundle, layers=None, allow_foreign=True)
    assert (len(more), n_others) == (5, 1)
