"""Grids and evaluations at other places than the output of blocks: cells, their ids, answers, norms, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import steercache
from steercache.answers.kl_strengths import kl_strengths_of
from steercache.answers.row_norms import row_norms_of
from steercache.cells.options import GridAxes
from steercache.core.errors import ManifestError, UsageError
from steercache.core.trials import Cell
from steercache.core.vectors import SteeringVector
from steercache.data.benchmarks import open_benchmark
from steercache.models.heads import heads_of
from steercache.queries.session import Session
from steercache.screening.predict import predict_settings
from steercache.steering.branch import BranchOptions
from steercache.steering.parts import parts_of
from steercache.steering.recompute import recompute
from steercache.sweeps.evaluation import evaluate
from steercache.trace.batches import pad_batch
from steercache.trace.capture import model_inputs
from tests.screening.small_gradients import questions
from tests.sweeps.small_run import options
from tests.sweeps.small_sweep import small_grid, small_job, stored_answers_of, write_sweep
from tests.world import World

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
COMMON: dict[str, Any] = {"vector_id": "v" * 64, "layer": 3, "model_fingerprint": "f" * 64, "prompt_id": "plain"}


def head_vector(session: Session, world: World) -> SteeringVector:
    """A vector of random numbers at the outputs of heads, that says it was fitted on this model's backbone."""
    known = session.vector("counting")
    width = heads_of(world.loaded.config).joined
    values = np.random.default_rng(4).normal(size=(len(known.layers), width)).astype(np.float32)
    made = replace(known, name="heads", method="head_probes", site="head_out", values=values, diagnostics=())
    session.save(made)
    return made


def test_the_output_of_a_block_keeps_its_id_and_every_other_place_is_another_cell() -> None:
    at_output = Cell(alpha=9.0, target="image", decoding={"greedy": True}, **COMMON)
    assert at_output.cell_id == "61fe8b4358cd2569a9ff2638c3c16e19cc3da08befad0ab1f699f9029ac49c9f"  # as it always was
    others = ("resid_pre", "attn_out", "mlp_out", "head_out")
    assert len({at_output.cell_id, *(replace(at_output, site=place).cell_id for place in others)}) == 5
    assert "place" not in GridAxes(layers=(1,), alphas=(1.0,)).manifest
    assert "place" not in GridAxes(layers=(1,), alphas=(1.0,), place="resid_post").manifest
    assert GridAxes(layers=(1,), alphas=(1.0,), place="mlp_out").manifest["place"] == "mlp_out"


def test_a_manifests_identity_is_what_it_was_and_a_screening_elsewhere_is_refused(tmp_path: Path) -> None:
    plain = write_sweep(tmp_path).sweep.identity()
    assert write_sweep(tmp_path, place="resid_post").sweep.identity() == plain
    assert write_sweep(tmp_path, place="mlp_out").sweep.identity() == plain | {"place": "mlp_out"}
    with pytest.raises(ManifestError, match="mlp_out cannot be predicted"):
        write_sweep(tmp_path, place="mlp_out", screen={"first": 2})
    with pytest.raises(ManifestError, match="place"):
        write_sweep(tmp_path, place="elsewhere")


@pytest.mark.parametrize("place", ["mlp_out", pytest.param("resid_pre", marks=pytest.mark.slow)])
def test_a_grid_answers_at_its_place_and_branches_as_full_passes_do(
    place: Any, own_session: Session, world: World, tmp_path: Path
) -> None:
    small = {"alphas": [9], "layers": [0, 3], "targets": ["text"], "splits": ["search"], "n": 6, "place": place}
    found = small_grid(own_session, world.loaded, tmp_path, **small)
    sweep_id = found.tasks[0].sweep_id
    rows = own_session.sql(
        "select distinct site from answers_with_cells where sweep_id = $s and layer is not null", s=sweep_id
    ).fetchall()
    assert rows == [(place,)]
    answers = stored_answers_of(own_session, sweep_id)
    job = small_job(own_session, world.loaded, tmp_path, **small)
    cells = [one.branch_cell(one.cell.cell_id, 0) for one in job.grid.cells]
    assert {one.place for one in cells} == {place}
    checked = 0
    for one in job.tasks[0].asked["search"]:
        assert one.encoded is not None
        batch = pad_batch([one.encoded], padding_side="left", pad_id=world.loaded.pad_id)
        for answer in recompute(world.loaded, batch, cells, BranchOptions(max_new_tokens=3)):
            said = world.loaded.tokenizer.decode(list(answer.tokens[0]), skip_special_tokens=True).strip()
            if not bool(answer.near_tie_b[0]):
                checked += 1
                assert answers[answer.key, one.sample_id]["raw"] == said
    assert checked >= 6


def test_vectors_of_heads_are_tried_at_heads_unasked_with_controls_there_and_suggest_it(
    own_session: Session, world: World
) -> None:
    vector = head_vector(own_session, world)
    asked = options(layers=(2, 3), alphas=(0.5, 4.0), controls=2, control_kinds=("random",), n=6, damage=True)
    scenes = open_benchmark("scenes", task="Count", form="number", limit=30)
    found = evaluate(own_session, world.loaded, scenes, vectors=[vector], options=asked)
    rows = own_session.sql(
        "select distinct site from answers_with_cells where sweep_id = $s and layer is not null", s=found.sweep_id
    ).fetchall()
    assert rows == [("head_out",)]
    (row,) = [one for one in found.table.choices if one.role == "vector"]
    assert row.damage is not None
    assert row.damage.mean_nats > 0
    used = steercache.open(own_session.cache.root).suggest_use("heads", found.sweep_id).use
    assert used is not None
    assert (used.place, used.operation) == ("head_out", "add")


def test_vectors_that_do_not_belong_at_a_place_are_refused(own_session: Session, world: World, tmp_path: Path) -> None:
    vector = head_vector(own_session, world)
    with pytest.raises(UsageError, match="belong to different places"):
        small_job(own_session, world.loaded, tmp_path, vectors=["counting", "heads"])
    with pytest.raises(UsageError, match="was fitted at head_out, and cannot be applied at mlp_out"):
        small_job(own_session, world.loaded, tmp_path, vectors=["heads"], place="mlp_out")
    wrong = replace(vector, name="narrow", values=vector.values[:, :8])
    own_session.save(wrong)
    with pytest.raises(UsageError, match="is 8 wide and"):
        small_job(own_session, world.loaded, tmp_path, vectors=["narrow"])
    job = small_job(own_session, world.loaded, tmp_path, place="mlp_out")
    with pytest.raises(UsageError, match="cells at mlp_out cannot be predicted"):
        predict_settings(None, job.grid.cells, trust=1.0)  # type: ignore[arg-type]


@torch.inference_mode()
def test_strengths_count_in_norms_of_the_rows_at_the_place(own_session: Session, world: World) -> None:
    asked = questions(world.loaded.bundle, n=4)
    found = {
        place: row_norms_of(own_session.cache, world.loaded.bundle, asked, load=lambda: world.loaded, place=place)
        for place in ("resid_post", "resid_pre", "mlp_out")
    }
    for target in ("image", "text"):  # the input of a block is the output of the one below
        np.testing.assert_allclose(found["resid_pre"][target][1:], found["resid_post"][target][:-1], rtol=1e-5)
    again = row_norms_of(own_session.cache, world.loaded.bundle, asked, load=_no_model, place="mlp_out")
    assert again == found["mlp_out"] != found["resid_post"]

    parts, medians = parts_of(world.loaded), []
    for one in asked:
        assert one.encoded is not None
        seen: list[torch.Tensor] = []
        handle = (
            parts.blocks[3]
            .get_submodule(parts.family.mlp_out)
            .register_forward_hook(lambda m, a, out, seen=seen: seen.append(out))
        )
        batch = pad_batch([one.encoded], padding_side="left", pad_id=world.loaded.pad_id)
        world.loaded.model(**model_inputs(world.loaded, batch))
        handle.remove()
        image = batch.input_ids[0] == world.loaded.config.image_token_id
        image[0] = False
        medians.append(seen[0][0, image].norm(dim=-1).median().item())
    np.testing.assert_allclose(found["mlp_out"]["image"][3], np.median(medians), rtol=0.02)


def _no_model() -> Any:
    raise AssertionError("nothing has to be measured again")


def test_a_strength_at_a_given_kl_is_found_at_its_place(own_session: Session, world: World) -> None:
    vector = own_session.vector("counting")
    raw = {}
    for place in ("resid_post", "mlp_out"):
        axes = GridAxes(layers=(3,), alphas=(0.01,), targets=("image",), alpha_unit="kl", place=place)
        found = kl_strengths_of(own_session.cache, world.loaded.bundle, [vector], axes, load=lambda: world.loaded)
        raw[place] = next(iter(found.values()))
        again = kl_strengths_of(own_session.cache, world.loaded.bundle, [vector], axes, load=_no_model)
        assert again == found
    assert raw["mlp_out"] > 0
    assert raw["mlp_out"] != raw["resid_post"]
