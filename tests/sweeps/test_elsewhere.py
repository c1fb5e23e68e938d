"""Answers that other processes compute are those of one process, byte for byte, whoever dies meanwhile."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from steercache.answers import elsewhere, model_workers
from steercache.answers.elsewhere import OTHER_NUMERICS, with_crew
from steercache.answers.model_workers import Load, ModelWorker, model_crew
from steercache.cells.model import find_model
from steercache.cells.sweep import SweepJob, prepare_sweep
from steercache.core.errors import BusyError, NotFoundError, UsageError
from steercache.data.benchmarks import open_benchmark
from steercache.engines.crew import Crew, EngineOptions
from steercache.engines.on_ray import STORE_BYTES
from steercache.manifests.resolve import ResolvedSweep
from steercache.manifests.sweep import Race
from steercache.queries.session import Session, open_session
from steercache.screening.for_grid import screening_for_grid
from steercache.screening.pilot import ScreenFirst
from steercache.sweeps.evaluation import evaluate
from steercache.sweeps.grid import GridOptions, GridResult, run_grid
from steercache.trace.numerics import numerics_of
from tests.engines.in_process import InProcess
from tests.kernels import without_onednn
from tests.screening.small_gradients import many_shards
from tests.sweeps.small_run import options
from tests.sweeps.small_sweep import write_sweep
from tests.sweeps.test_grid_resume import files_of_sweep
from tests.sweeps.test_grid_resume import roots as roots
from tests.world import World

TWO = EngineOptions(workers=2)
ON_RAY = EngineOptions(name="ray", workers=2)
TOP_ROWS = {"where": "kind = 'image' and patch_row < 3"}
SEARCH = {"splits": ["search"], "n": 10, "tokens_per_batch": 250}


def load_of(world: World) -> Load:
    """What loads the model of these tests in another process."""
    root = world.session.cache.root.absolute()
    return partial(find_model("tiny", root).load, root, dtype="float32")


@contextmanager
def job_at(root: Path, world: World, sweep: ResolvedSweep, engine: EngineOptions, **how: Any) -> Iterator[SweepJob]:
    """A sweep whose answers are computed by an engine."""
    job = prepare_sweep(open_session(root), world.loaded, sweep)
    with model_crew(world.loaded, load_of(world), root, engine, **how) as crew:
        yield replace(job, grid=replace(job.grid, options=with_crew(job.grid.options, crew)))


def run_here(root: Path, world: World, sweep: ResolvedSweep, options: GridOptions) -> GridResult:
    return run_grid(prepare_sweep(open_session(root), world.loaded, sweep), options, screening=screening_for_grid())


def gradients_of(root: Path) -> dict[str, bytes]:
    """The arrays of gradient runs, file by file."""
    return {str(p.relative_to(root)): p.read_bytes() for p in root.glob("runs/*/g0001/margin_grad/c.*")}


def workers_of(pid: int) -> list[psutil.Process]:
    """Local workers of a process."""
    return [one for one in psutil.Process(pid).children() if "spawn_main" in " ".join(one.cmdline())]


def same(found: GridResult, wanted: GridResult, roots: tuple[Path, Path]) -> None:
    """Two grids, stored in two caches, are equal."""
    for one, other in zip(found.tasks, wanted.tasks, strict=True):
        assert files_of_sweep(roots[0], one.sweep_id) == files_of_sweep(roots[1], other.sweep_id)
        assert (one.cells, repr(one.rows)) == (other.cells, repr(other.rows))
        assert (one.n_computed, sorted(one.near_ties)) == (other.n_computed, sorted(other.near_ties))


def small(folder: Path) -> ResolvedSweep:
    """Pictures, text, and a target as SQL."""
    return write_sweep(folder, **SEARCH, layers=[1, 3], alphas=[3], targets=["image", TOP_ROWS])


def test_answers_of_workers_one_of_which_dies_are_those_of_one_process(
    roots: Any, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, how = small(tmp_path / "sweep"), GridOptions(damage=False)
    here, there = roots("here"), roots("there")
    wanted = run_here(here, world, sweep, how)
    monkeypatch.setattr(elsewhere, "SLICE_S", 0.0)  # a task for each group of cells
    weights = model_workers._weights(world.loaded)
    start = partial(ModelWorker, lambda: world.loaded, there, weights, numerics=numerics_of(world.loaded))
    notes: list[str] = []
    hands = InProcess(start, deadly=frozenset({1}))
    crew: Crew[Any, Any] = Crew(lambda: hands, TWO, name="answers", on_note=notes.append)
    job = prepare_sweep(open_session(there), world.loaded, sweep)
    job = replace(job, grid=replace(job.grid, options=with_crew(job.grid.options, crew)))
    found = run_grid(job, how)
    same(found, wanted, (there, here))
    assert found.tasks[0].n_computed == 50
    assert notes == ["worker 1 died; another takes its place, and what it had in hand is done again"]
    assert max(len(task.batch) for task in hands.tasks) < 40_000, "no tokenizer, no picture, no row is sent"
    assert {task.batch_no for task in hands.tasks} == {0, 1}


@pytest.mark.slow
def test_answers_of_two_processes_one_of_which_is_killed_are_those_of_one(
    roots: Any, world: World, tmp_path: Path
) -> None:
    sweep, how = small(tmp_path / "sweep"), GridOptions(damage=False)
    here, there = roots("here"), roots("there")
    notes, killed = list[str](), list[int]()

    def kill_one(label: str, n_done: int, total: int | None) -> None:
        if n_done and not killed:
            killed.append(workers_of(os.getpid())[0].pid)
            os.kill(killed[0], signal.SIGKILL)

    wanted = run_here(here, world, sweep, how)
    with job_at(there, world, sweep, TWO, on_note=notes.append) as job:
        found = run_grid(job, how, progress=kill_one)
    same(found, wanted, (there, here))
    assert len(killed) == 1
    assert not workers_of(os.getpid())


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=STORE_BYTES)
    yield
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_screened_race_with_nulls_on_ray_whose_workers_die_equals_one_in_one_process(
    roots: Any, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many_shards(monkeypatch)  # of gradients
    sweep = write_sweep(tmp_path / "sweep", n=20, tokens_per_batch=400, layers=[1, 3])
    first = ScreenFirst(k=4, pilot=6, by="accuracy")
    how, notes, killed = GridOptions(race=Race(tolerance=0.2), screen_first=first, nulls=2), list[str](), list[int]()
    here, there = roots("here"), roots("there")
    wanted = run_here(here, world, sweep, how)
    assert len(gradients_of(here)) > 2

    def kill_one(label: str, n_done: int, total: int | None) -> None:
        if n_done > 30 * (1 + len(killed)) and len(killed) < 2:
            killed.append(max(one.pid for one in psutil.process_iter() if one.name().startswith("ray::_Actor")))
            os.kill(killed[-1], signal.SIGKILL)

    with job_at(there, world, sweep, ON_RAY, on_note=notes.append) as job:
        found = run_grid(job, how, screening=screening_for_grid(), progress=kill_one)
    same(found, wanted, (there, here))
    assert gradients_of(there) == gradients_of(here)
    nulls = [one.table.rows for one in (found.tasks[0], wanted.tasks[0])]
    assert repr(nulls[0]) == repr(nulls[1])
    assert len(killed) == 2
    assert [note for note in notes if "died; another takes its place" in note] == notes


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_worker_with_other_kernels_is_refused_with_the_difference_or_recorded(
    own_session: Session, world: World
) -> None:
    models, root = world.session.cache.root.absolute(), own_session.cache.root
    load = partial(find_model("tiny", models).load, models, dtype="bfloat16")
    loaded, notes, asked = load(), list[str](), options(n=4, split="search", damage=False)
    questions = open_benchmark("scenes", task="Count", form="number", limit=30)
    with without_onednn():  # in this process, not in the workers
        mine = numerics_of(loaded)
        with (
            model_crew(loaded, load, root, ON_RAY) as crew,
            pytest.raises(UsageError, match=r"computes under other numerics than the caller: .* bfloat16 products"),
        ):
            evaluate(
                own_session,
                loaded,
                questions,
                vectors=(),
                options=with_crew(asked, crew),
            )
        with model_crew(loaded, load, root, ON_RAY, mixed_numerics=True, on_note=notes.append) as crew:
            found = evaluate(
                own_session,
                loaded,
                questions,
                vectors=(),
                options=with_crew(asked, crew),
            )
    assert any("a worker computes under other numerics: " in note and "bfloat16 products" in note for note in notes)
    (theirs,) = json.loads((own_session.cache.paths.sweep(found.sweep_id) / OTHER_NUMERICS).read_bytes())
    assert theirs == numerics_of(loaded) != mine


COORDINATOR = """
import sys
import steercache
from steercache.answers import store
if __name__ == "__main__":
    store.EVERY_S, store.SHARE = 0.0, 0
    root, sweep = sys.argv[1:]
    steercache.open(root).sweep(sweep, dtype="float32").run(workers=2, mode="branch", damage=False)
"""


@pytest.mark.slow
def test_a_second_coordinator_is_refused_and_a_killed_one_is_resumed(roots: Any, world: World, tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "sweep", n=60, tokens_per_batch=250, layers=[1, 2, 3, 4])
    how = GridOptions(mode="branch", damage=False)
    here, there = roots("here"), roots("there")
    wanted = run_here(here, world, sweep, how)
    script = tmp_path / "coordinator.py"
    script.write_text(COORDINATOR)
    env = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(there), str(tmp_path / "sweep" / "sweep.yaml")]
    with subprocess.Popen(command, env=env) as coordinator:
        answers = there / "sweeps" / wanted.tasks[0].sweep_id / "answers"
        workers: list[psutil.Process] = []
        while coordinator.poll() is None and not (len(workers) == 2 and any(answers.glob("*.parquet"))):
            workers = workers_of(coordinator.pid)
            time.sleep(0.02)
        with pytest.raises(BusyError, match="is held by process"):
            run_here(there, world, sweep, how)
        assert coordinator.poll() is None
        coordinator.kill()
    assert len(workers) == 2
    assert psutil.wait_procs(workers, timeout=30)[1] == [], "workers do not outlive their coordinator"
    with job_at(there, world, sweep, TWO) as job:
        found = run_grid(job, how)
    assert found.tasks[0].n_reused > 0
    assert found.tasks[0].n_reused + found.tasks[0].n_computed == wanted.tasks[0].n_computed
    assert files_of_sweep(there, found.tasks[0].sweep_id) == files_of_sweep(here, found.tasks[0].sweep_id)


def test_what_cannot_be_loaded_or_seen_elsewhere_is_said(world: World, tmp_path: Path) -> None:
    asked = UsageError, "each worker loads the model itself"
    with pytest.raises(asked[0], match=asked[1]), model_crew(world.loaded, None, tmp_path, TWO):
        pass
    with model_crew(world.loaded, None, tmp_path, EngineOptions()) as crew:
        assert crew is None
    with pytest.raises(NotFoundError, match="does not see the cache"):
        ModelWorker(lambda: world.loaded, tmp_path / "none", {}, numerics={"threads": 1})
    with pytest.raises(UsageError, match="loads another model than the caller's"):
        ModelWorker(lambda: world.loaded, tmp_path, {"weights": "others"}, numerics={"threads": 1})
