"""What moves an answer is part of its cell's id and of its sweep's: nothing else's answers are reused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steercache.benchmarks.task import ask, pick_rows
from steercache.cells.arms import Arm, settings_of
from steercache.cells.model import find_model
from steercache.cells.sweep import stored_manifest
from steercache.core.ids import digest
from steercache.core.trials import Cell
from steercache.core.vectors import SteeringVector
from steercache.data.benchmarks import open_benchmark
from steercache.models.ends import end_ids
from steercache.models.spec import LoadedModel
from steercache.queries.session import Session, open_session
from steercache.screening.gradient_plan import GradientRequest, plan_gradients
from steercache.screening.job import model_without_weights
from tests.sweeps.small_run import options, vector
from tests.sweeps.small_sweep import small_grid, small_job, stored_answers_of
from tests.world import World


def changed_copy(world: World, folder: Path, file: str, **changes: Any) -> LoadedModel:
    """The zoo's tiny model from a folder in which one JSON file says something else."""
    shutil.copytree(world.session.cache.root / "models" / "zoo-tiny", folder)
    document = json.loads((folder / file).read_text())
    place = document.get("image_processor", document) if file == "processor_config.json" else document
    place.update(changes)
    (folder / file).write_text(json.dumps(document))
    return find_model(str(folder), folder.parent / "conversions").load(folder.parent / "conversions", dtype="float32")


def cell_ids(loaded: LoadedModel, some: SteeringVector, **changes: Any) -> list[str]:
    arm = Arm(name="v", role="vector", vector=some)
    return [s.cell.cell_id for s in settings_of(arm, loaded, options(layers=(0, 1), **changes))]


def diagnosed(norm: float) -> SteeringVector:
    values = np.random.default_rng(0).normal(size=(2, 128)).astype(np.float32)
    return replace(vector(values), diagnostics=tuple({"layer": i, "resid_norm": norm} for i in range(2)))


def test_answers_under_another_pixel_mean_are_computed_anew(own_session: Session, world: World, tmp_path: Path) -> None:
    other = changed_copy(world, tmp_path / "m" / "tiny", "processor_config.json", image_mean=[0.1, 0.2, 0.3])
    assert other.spec.fingerprint == world.loaded.spec.fingerprint
    small = {"n": 3, "alphas": [9], "layers": [3], "splits": ["search"], "allow_foreign": True}
    (first,) = small_grid(own_session, world.loaded, tmp_path / "one", **small).tasks
    (second,) = small_grid(own_session, other, tmp_path / "one", **small).tasks
    (third,) = small_grid(own_session, world.loaded, tmp_path / "one", **small).tasks
    assert (first.n_reused, second.n_reused, third.n_computed) == (0, 0, 0)
    assert first.sweep_id != second.sweep_id
    was, now = (stored_answers_of(own_session, task.sweep_id) for task in (first, second))
    assert {s for _, s in was} == {s for _, s in now}  # the same token ids and pictures
    assert not {c for c, _ in was} & {c for c, _ in now}
    assert sorted(r["margin"] for r in was.values()) != sorted(r["margin"] for r in now.values())


@pytest.mark.parametrize("change", [{"image_mean": [0.1] * 3}, {"size": {"height": 40, "width": 40}}, {"resample": 0}])
def test_runs_read_other_pixels_under_another_processor(world: World, tmp_path: Path, change: dict[str, Any]) -> None:
    other = changed_copy(world, tmp_path / "tiny", "processor_config.json", **change)
    rows = pick_rows(open_benchmark("scenes", task="Count", form="number"), "search", n=2, orphans="search")
    wish = GradientRequest(benchmark="scenes", layers=(1,), targets=("image",))
    bundles = (world.loaded.bundle, other.bundle)
    runs = [plan_gradients(b, ask(rows, b, split="search"), wish, numerics={}).document for b in bundles]
    assert runs[0].run_id != runs[1].run_id
    assert runs[0].model.fingerprint == runs[1].model.fingerprint


def test_other_end_tokens_are_other_cells(world: World, tmp_path: Path) -> None:
    other = changed_copy(world, tmp_path / "tiny", "generation_config.json", eos_token_id=[1, 7])
    assert end_ids(other) == {1, 7}
    assert end_ids(other) == {*other.model.generation_config.eos_token_id, other.tokenizer.eos_token_id}
    some = diagnosed(1.0)
    assert not {*cell_ids(other, some)} & {*cell_ids(world.loaded, some)}


def test_a_model_without_its_weights_has_the_same_cells(world: World) -> None:
    some = diagnosed(1.0)
    assert cell_ids(model_without_weights(world.loaded.bundle), some) == cell_ids(world.loaded, some)
    loaded = world.loaded
    from_memory = replace(loaded, bundle=replace(loaded.bundle, end_ids=None))
    assert end_ids(from_memory) == end_ids(loaded) == {1}


def test_other_diagnostics_are_other_cells_where_strengths_count_in_them(world: World) -> None:
    short, long = diagnosed(1.0), diagnosed(10.0)
    assert short.vector_id == long.vector_id
    assert cell_ids(world.loaded, short, alpha_unit="raw") == cell_ids(world.loaded, long, alpha_unit="raw")
    relative = {"alpha_unit": "resid_norm"}
    assert not {*cell_ids(world.loaded, short, **relative)} & {*cell_ids(world.loaded, long, **relative)}
    arm = Arm(name="v", role="vector", vector=short)
    (setting, *_) = settings_of(arm, world.loaded, options(layers=(0,), **relative))
    # What is added follows from the cell and the vector's values alone, whatever its diagnostics say by now.
    now = replace(setting, arm=replace(arm, vector=long))
    np.testing.assert_array_equal(now.delta(128), setting.delta(128))
    assert np.linalg.norm(setting.delta(128)) == pytest.approx(4.0, rel=1e-5)


def test_a_sweep_with_other_cells_is_another_sweep(own_session: Session, world: World, tmp_path: Path) -> None:
    jobs = [
        small_job(own_session, loaded, tmp_path, n=2, splits=["search"])
        for loaded in (world.loaded, replace(world.loaded, bundle=replace(world.loaded.bundle, end_ids=(1, 9))))
    ]
    assert digest(stored_manifest(jobs[0], jobs[0].tasks[0], {})) != digest(
        stored_manifest(jobs[1], jobs[1].tasks[0], {})
    )


def test_answers_of_older_sweeps_are_shown_and_not_reused(own_session: Session, world: World, tmp_path: Path) -> None:
    small = {"n": 3, "alphas": [9], "layers": [3], "splits": ["search"]}
    (task,) = small_grid(own_session, world.loaded, tmp_path, **small).tasks
    old = as_older(own_session, task.sweep_id)
    again = open_session(own_session.cache.root)
    assert len(stored_answers_of(again, old)) == len(task.cells) * 3 + 3
    unknown = again.sql("select count(*) from cells where sweep_id = $s and preprocessing is null", s=old).fetchall()
    assert unknown == [(len(task.cells) + 1,)]
    (second,) = small_grid(again, world.loaded, tmp_path, **small).tasks
    assert (second.n_reused, second.n_computed) == (0, task.n_computed)
    assert len(stored_answers_of(again, old)) == task.n_computed


def as_older(session: Session, sweep_id: str) -> str:
    """A stored sweep as it was written before cells knew preprocessing and end tokens; returns the id it then had."""
    folder = session.cache.paths.sweep(sweep_id)
    document = json.loads((folder / "manifest.json").read_text())
    renamed = {}
    for cell in document["cells"]:
        del cell["preprocessing"], cell["decoding"]["ends"]
        was = cell.pop("cell_id")
        renamed[was] = cell["cell_id"] = Cell(**cell).cell_id
        assert renamed[was] != was
    del (
        document["manifest"]["cells"],
        document["manifest"]["model"]["preprocessing"],
        document["manifest"]["model"]["ends"],
    )
    old = document["sweep_id"] = digest({"name": document["name"], "manifest": document["manifest"]})
    target = session.cache.paths.sweep(old)
    folder.rename(target)
    (target / "manifest.json").write_text(json.dumps(document))
    for part in (target / "answers").glob("*.parquet"):
        table = pq.read_table(part)
        ids = pa.array([renamed[i] for i in table.column("cell_id").to_pylist()])
        pq.write_table(table.set_column(table.schema.get_field_index("cell_id"), "cell_id", ids), part)
    session.cache.paths.index.unlink()
    return str(old)
