"""A screening, a grid and an evaluation print one unsteered accuracy for the same questions, in half precision too."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from steercache.cells.model import find_model
from steercache.models.spec import LoadedModel
from steercache.queries.session import Session
from steercache.screening.gradient_source import GradientSource
from steercache.screening.job import screen_task, tasks_of_sweep
from tests.sweeps.small_sweep import small_grid, small_job
from tests.world import World

SMALL: dict[str, Any] = {"n": 24, "layers": [3], "alphas": [3], "targets": ["text"], "splits": ["search"]}


@pytest.fixture(scope="module")
def half(world: World) -> LoadedModel:
    root = world.session.cache.root
    return find_model("tiny", root).load(root, dtype="bfloat16")


def wanted(loaded: LoadedModel, *, load: bool = True) -> GradientSource:
    def no_model() -> LoadedModel:
        raise AssertionError("the model was asked for")

    return GradientSource(bundle=loaded.bundle, load=(lambda: loaded) if load else no_model, device="cpu")


@pytest.mark.parametrize("form", ["number", pytest.param("letter", marks=pytest.mark.slow)])
def test_a_screening_shows_the_accuracy_of_the_grid_that_follows(
    own_session: Session, half: LoadedModel, tmp_path: Path, form: str
) -> None:
    tasks = [{"benchmark": "scenes", "task": "Count", "form": form}]
    job = small_job(own_session, half, tmp_path, tasks=tasks, **SMALL)
    (task,) = tasks_of_sweep(job)
    screened = screen_task(own_session, task, wanted(half))
    (found,) = small_grid(own_session, half, tmp_path, tasks=tasks, **SMALL).tasks
    assert screened.base_accuracy == screened.baseline == found.baseline["search"]
    assert found.n_reused == 24  # what the screening answered
    again = screen_task(own_session, task, wanted(half, load=False))
    assert again.base_accuracy == found.baseline["search"]
    assert again.n_near_ties == screened.n_near_ties is not None
    # Margins are of the same precision: without near-ties they say the same, each question by itself.
    assert abs(again.grid.base_accuracy - again.base_accuracy) * 24 <= again.n_near_ties + 1e-9
    assert again.n_near_ties < 12


def test_without_its_answers_a_screening_shows_what_its_margins_say(
    own_session: Session, half: LoadedModel, tmp_path: Path
) -> None:
    job = small_job(own_session, half, tmp_path, **SMALL)
    (task,) = tasks_of_sweep(job)
    first = screen_task(own_session, task, wanted(half))
    for path in own_session.cache.paths.sweeps.iterdir():
        path.rename(tmp_path / path.name)
    own_session.cache.paths.index.unlink()
    again = screen_task(own_session, task, wanted(half, load=False))
    assert again.baseline is None
    assert again.base_accuracy == again.grid.base_accuracy == first.grid.base_accuracy
    assert dataclasses.replace(again, baseline=0.25).base_accuracy == 0.25


def test_a_gradient_source_loads_its_model_once_and_says_whether_it_has() -> None:
    loads: list[int] = []

    def load() -> Any:
        loads.append(1)
        return object()

    made: Any = GradientSource(bundle=None, load=load)  # type: ignore[arg-type]
    assert (made.loaded, loads) == (None, [])
    assert made.load() is made.load() is made.loaded
    assert loads == [1]
