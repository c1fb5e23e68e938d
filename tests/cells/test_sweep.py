"""A sweep before it runs: its cells, its vectors, and what it is called in the cache."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from steercache.benchmarks.task import ask, pick_rows
from steercache.cells.model import BACKBONES
from steercache.cells.sweep import prepare_sweep, stored_manifest, sweep_model
from steercache.cells.sweep_vectors import vector_arms
from steercache.core.errors import BudgetError, NotFoundError, UsageError
from steercache.data.benchmarks import open_benchmark
from steercache.fit import diagnose
from steercache.manifests.sweep import ZooModel
from steercache.queries.session import Session
from steercache.steering.add import resid_norm
from tests.sweeps.small_run import vector
from tests.sweeps.small_sweep import COUNT, small_job, write_sweep
from tests.world import World


def test_the_cells_are_the_product_of_what_the_manifest_lists(
    own_session: Session, world: World, tmp_path: Path
) -> None:
    job = small_job(own_session, world.loaded, tmp_path, vectors=["counting", "entity"], layers={"start": 1, "stop": 4})
    found = [(s.arm.name, s.cell.target, s.cell.layer, s.cell.alpha) for s in job.grid.cells]
    assert found == list(product(["counting", "entity"], ["image", "text"], [1, 2, 3, 4], [3.0, 9.0]))
    assert len({s.cell.cell_id for s in job.grid.cells} | {job.grid.baseline.cell.cell_id}) == 33
    (task,) = job.tasks
    wanted = pick_rows(open_benchmark("scenes", task="Count", form="number"), "search", n=14, orphans="test")
    by_itself = ask(wanted, world.loaded.bundle, split="search")
    assert [one.sample_id for one in task.asked["search"]] == [one.sample_id for one in by_itself]
    assert [one.split for some in task.asked.values() for one in some] == ["search"] * 14 + ["test"] * 14
    assert set(job.lineages.values()) == {"backbone"}


def test_fits_are_made_once_and_found_again(own_session: Session, world: World, tmp_path: Path) -> None:
    fits = [{"methods": ["mean_shift", "linear_probe"], "concepts": ["counting"], "runs": ["small"]}]

    def n_vectors() -> int:
        return int(own_session.sql("select count(distinct vector_id) from vectors").fetchall()[0][0])

    before = n_vectors()
    job = small_job(own_session, world.loaded, tmp_path, vectors=None, fits=fits, alpha_unit="resid_norm", alphas=[0.5])
    assert [arm.name for arm in job.grid.arms] == ["counting", "counting-probe"]
    shift, probe = (arm.vector for arm in job.grid.arms)
    assert shift is not None
    assert probe is not None
    # the shift is in the cache already, though without its rows' norms; the probe is new
    assert shift.vector_id == own_session.vector("counting").vector_id
    assert n_vectors() == before + 1
    for fitted, settings in zip((shift, probe), job.grid.settings.values(), strict=True):
        length = np.linalg.norm(settings[0].delta(world.loaded.spec.hidden_size))
        assert length == pytest.approx(0.5 * resid_norm(fitted, 1), rel=1e-5)
    again = small_job(own_session, world.loaded, tmp_path, vectors=None, fits=fits)
    assert [arm.vector.vector_id for arm in again.grid.arms if arm.vector] == [shift.vector_id, probe.vector_id]
    assert n_vectors() == before + 1


def test_a_named_vector_that_a_fit_gives_again_is_one_arm(own_session: Session, world: World, tmp_path: Path) -> None:
    fits = [{"concepts": ["counting", "entity"], "runs": ["small"]}]
    job = small_job(own_session, world.loaded, tmp_path, vectors=["counting"], fits=fits)
    assert [arm.name for arm in job.grid.arms] == ["counting", "entity"]


def test_vectors_of_one_name_are_told_apart_by_method_and_then_by_id() -> None:
    rows = np.ones((6, 96), np.float32)
    shift, other = vector(rows, name="same"), replace(vector(rows, name="same"), method="other")
    again = vector(rows * 2, name="same")
    assert [arm.name for arm in vector_arms((shift, other))] == ["same (made)", "same (other)"]
    names = [arm.name for arm in vector_arms((shift, other, again))]
    assert names == [f"same ({shift.vector_id[:12]})", "same (other)", f"same ({again.vector_id[:12]})"]


def test_what_is_kept_of_a_sweep_changes_with_what_decides_answers_and_not_with_speed(
    own_session: Session, world: World, tmp_path: Path
) -> None:
    def kept(**changes: object) -> dict[str, object]:
        job = small_job(own_session, world.loaded, tmp_path, **({"n": 3} | changes))
        return stored_manifest(job, job.tasks[0], {})

    counting = own_session.vector("counting")
    own_session.save(diagnose(own_session.select("anchor_vs_control", concept="counting"), counting))
    plain = kept()
    assert kept(tokens_per_batch=400, memory_mib=512) == plain
    others = [
        kept(layers=[1, 3]),
        kept(alphas=[3, 8]),
        kept(alpha_unit="resid_norm"),
        kept(targets=["image"]),
        kept(n=4),
        kept(seed=1),
        kept(decoding={"max_new_tokens": 4}),
        kept(vectors=["entity"]),
        kept(tasks=[COUNT | {"rule": "paper"}]),
        kept(tasks=[COUNT | {"form": "letter"}]),
        kept(splits=["search"]),
    ]
    assert plain not in others
    assert len({str(other) for other in others}) == len(others)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"layers": [1, 9]}, UsageError, "9"),
        ({"vectors": ["nobody"]}, NotFoundError, "nobody"),
        ({"tasks": [{"benchmark": "cv-bunch"}]}, UsageError, "cv-bunch"),
        ({"tasks": [{"benchmark": "scenes", "task": "Depth"}]}, UsageError, "no task"),
        ({"tasks": [{"benchmark": "cv-bench", "folder": "nowhere"}]}, NotFoundError, "nowhere"),
        ({"vectors": ["counting"] + [f"v{i}" for i in range(3)]}, NotFoundError, "v0"),
        (
            {"vectors": None, "fits": [{"concepts": ["counting"], "runs": ["no-such-run"]}]},
            NotFoundError,
            "no-such-run",
        ),
    ],
)
def test_what_a_sweep_names_and_is_not_there_is_said(
    changes: dict[str, object], error: type[Exception], message: str, world: World, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        small_job(world.session, world.loaded, tmp_path, **changes)


def test_more_cells_than_anybody_runs_are_refused_before_a_question_is_read(
    own_session: Session, world: World, tmp_path: Path
) -> None:
    alphas = [float(i + 1) for i in range(1000)]
    vectors = [f"v{i}" for i in range(20)]
    for name in vectors:
        own_session.save(vector(np.ones((6, 96), np.float32), name=name, number=name))
    said: list[str] = []
    sweep = write_sweep(tmp_path, vectors=vectors, alphas=alphas, layers="all", targets=["image", "text"])
    with pytest.raises(BudgetError, match="240,000 cells"):
        prepare_sweep(own_session, world.loaded, sweep, progress=lambda label, *_: said.append(label))
    assert said == []


def test_the_zoo_models_that_a_manifest_can_name_are_the_multimodal_ones() -> None:
    assert set(ZooModel.model_fields["zoo"].annotation.__args__) == set(BACKBONES)  # type: ignore[union-attr]


@pytest.mark.parametrize("model", ["tiny", {"zoo": "tiny"}], ids=["a shipped manifest", "the zoo"])
def test_a_model_of_the_zoo_is_put_together_below_the_cache(model: object, world: World, tmp_path: Path) -> None:
    found = sweep_model(write_sweep(tmp_path, model=model), tmp_path / "root")
    bundle = found.bundle(tmp_path / "root")
    assert (bundle.spec.name, bundle.spec.backbone) == ("tiny", "tiny-backbone")
    assert bundle.spec.fingerprint == world.loaded.spec.fingerprint
