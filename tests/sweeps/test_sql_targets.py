"""Sweeps over targets written as SQL: the same cells as by name, what is kept of them, and prompts that they miss."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import steercache
from steercache.answers.row_norms import row_norms_of
from steercache.answers.target_tokens import selected_tokens
from steercache.benchmarks.task import pick_rows
from steercache.cells.options import GridAxes
from steercache.cells.targets import with_clauses
from steercache.core.errors import ManifestError, NotFoundError, QueryError, UsageError
from steercache.core.examples import TOKEN_KINDS, Example
from steercache.core.trials import Cell
from steercache.data.benchmarks import open_benchmark
from steercache.queries.session import Session
from steercache.screening.gradient_source import ensure_gradients
from steercache.screening.predict import predict_settings, wish_of
from steercache.sweeps.grid import GridOptions, run_grid
from tests.screening.small_gradients import wanted
from tests.sweeps.small_run import options
from tests.sweeps.small_sweep import small_job, stored_answers_of, write_sweep
from tests.world import World

RELATION = {"benchmark": "scenes", "task": "Relation", "form": "letter"}
QUIET = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # transformers' processor
PICTURE = "sql: kind = 'image'"
SAME = ["image", "sql:KIND='image'", {"where": "kind = 'image'", "weight": "1.0"}]
SMALL: dict[str, Any] = {"layers": [3], "alphas": [9], "splits": ["search"], "n": 6}


def test_ids_of_cells_with_named_targets_stay_and_sql_is_part_of_them() -> None:
    common: dict[str, Any] = {"vector_id": "v" * 64, "layer": 3, "model_fingerprint": "f" * 64, "prompt_id": "plain"}
    named = Cell(alpha=9.0, target="image", decoding={"greedy": True}, **common)
    assert (
        named.cell_id == "61fe8b4358cd2569a9ff2638c3c16e19cc3da08befad0ab1f699f9029ac49c9f"
    )  # as before there was SQL
    assert len({named.cell_id, *(replace(named, target=t).cell_id for t in (PICTURE, "sql: kind = 'text'"))}) == 3


def test_a_manifest_takes_sql_as_text_or_as_a_mapping_and_nothing_else(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path, targets=SAME).sweep
    assert [str(one) for one in sweep.targets] == ["image", "sql:KIND='image'", "sql: kind = 'image' (weight 1.0)"]
    for wrong in ("picture", {"weight": "1"}, {"where": ""}, {"where": "true", "colour": "red"}, 3):
        with pytest.raises(ManifestError, match="targets"):
            write_sweep(tmp_path, targets=[wrong])


@QUIET
def test_sql_that_says_what_a_name_says_is_answered_predicted_and_measured_alike(
    own_session: Session, world: World, tmp_path: Path
) -> None:
    half = {"where": "kind = 'image'", "weight": "0.5"}
    job = small_job(own_session, world.loaded, tmp_path, targets=[*SAME, half], tasks=[RELATION], **SMALL)
    texts = job.grid.options.axes.targets
    assert texts[0] == "image"
    assert texts[1] == PICTURE
    assert texts[2] == "sql: select position, (1.0) as weight from tokens where (kind = 'image')"
    result = run_grid(job, GridOptions()).tasks[0]
    answers = stored_answers_of(own_session, result.sweep_id)
    by_target = {s.cell.target: s.cell.cell_id for s in job.grid.cells}
    said = {
        target: sorted(
            (i, one["raw"], one["margin"]) for (cell, i), one in answers.items() if cell == by_target[target]
        )
        for target in texts
    }
    assert len(said["image"]) == 6
    assert [(i, raw) for i, raw, _ in said["image"]] == [(i, raw) for i, raw, _ in said[PICTURE]]
    for text in texts[1:3]:
        assert np.allclose([m for *_, m in said["image"]], [m for *_, m in said[text]], atol=1e-4)
    assert not np.allclose([m for *_, m in said["image"]], [m for *_, m in said[texts[3]]], atol=1e-4)
    assert not any("not steered" in note for note in result.notes)
    kept, weighted = (selected_tokens(own_session.cache, world.loaded.spec, text) for text in (PICTURE, texts[3]))
    for one in job.tasks[0].asked["search"]:
        assert one.encoded is not None
        image = one.encoded.kind == TOKEN_KINDS.index("image")
        assert np.flatnonzero(kept[one.sample_id]).tolist() == np.flatnonzero(image).tolist()
        assert weighted[one.sample_id].sum() == image.sum() / 2
    public = steercache.open(own_session.cache.root)
    of_cell = public.steered_tokens(by_target[texts[3]])
    assert {i: w.tolist() for i, w in of_cell.items()} == {i: w.tolist() for i, w in weighted.items()}
    assert public.steered_tokens(by_target["image"]) == {}
    with pytest.raises(NotFoundError, match="no cell"):
        public.steered_tokens("0" * 64)
    cells = job.grid.cells
    asked = job.tasks[0].asked["search"]
    gradients = ensure_gradients(own_session, asked, wish_of("scenes", cells), wanted(world.loaded))
    shifts = {one.setting.cell.target: one.shift for one in predict_settings(gradients, cells, trust=1e9)}
    assert shifts["image"] == shifts[PICTURE] == shifts[texts[2]]
    assert shifts["image"] != shifts[texts[3]]
    norms = row_norms_of(
        own_session.cache,
        world.loaded.bundle,
        asked,
        load=lambda: world.loaded,
        clauses=job.grid.options.axes.clauses,
    )
    assert norms["image"] == norms[PICTURE] == norms[texts[3]]
    again = row_norms_of(
        own_session.cache, world.loaded.bundle, asked, load=_no_model, clauses=job.grid.options.axes.clauses
    )
    assert again == norms


def _no_model() -> Any:
    raise AssertionError("no model is needed")


@QUIET
def test_questions_in_which_nothing_is_selected_are_unsteered_and_listed(
    own_session: Session, world: World, tmp_path: Path
) -> None:
    asked = small_job(own_session, world.loaded, tmp_path / "first", **SMALL).tasks[0].asked["search"]
    some = ", ".join(f"'{one.sample_id}'" for one in asked[:2])
    target = f"sql: kind = 'text' and sample_id in ({some})"
    found = {}
    for again in (False, True):
        job = small_job(own_session, world.loaded, tmp_path / "second", targets=[target], **SMALL)
        result = run_grid(job, GridOptions()).tasks[0]
        assert (result.n_computed == 0) == again
        (line,) = [note for note in result.notes if "not steered" in note]
        assert line.startswith(f"{target}: no token of 4 of 6 questions")
        assert all(one.place in line for one in asked[2:])
        found = stored_answers_of(own_session, result.sweep_id)
    steered, plain = job.grid.cells[0].cell.cell_id, job.grid.baseline.cell.cell_id
    for one in asked[2:]:
        assert found[steered, one.sample_id]["raw"] == found[plain, one.sample_id]["raw"]
    with pytest.raises(UsageError, match="no token of any of the 6 questions"):
        small_job(own_session, world.loaded, tmp_path / "third", targets=["sql: position < 0"], **SMALL)
    with pytest.raises(QueryError, match="colour"):
        small_job(own_session, world.loaded, tmp_path / "third", targets=["sql: colour = 'red'"], **SMALL)


@QUIET
def test_a_condition_on_activations_names_vectors_of_the_cache_and_is_recorded_by_their_ids(
    own_session: Session, world: World, tmp_path: Path
) -> None:
    vector = own_session.vector("counting")
    layer = vector.layers[0]
    where = f"kind = 'image' and list_inner_product(activation({layer}), vector('counting', {layer})) > 0"
    job = small_job(own_session, world.loaded, tmp_path, targets=[f"sql: {where}"], **SMALL)
    (cell,) = job.grid.cells
    assert vector.vector_id in cell.cell.target
    assert "counting" not in cell.cell.target
    run_grid(job, GridOptions())
    kept = selected_tokens(own_session.cache, world.loaded.spec, cell.cell.target)
    shares = [found.sum() for found in kept.values()]
    assert len(kept) == 6
    assert 0 < sum(shares) < 6 * 64
    with pytest.raises(NotFoundError):
        small_job(own_session, world.loaded, tmp_path, targets=[f"sql: {where.replace('counting', 'nobody')}"], **SMALL)
    twice = GridAxes(layers=(3,), alphas=(1.0,), targets=("sql: true", "SQL:  TRUE"))
    with pytest.raises(UsageError, match="twice"):
        with_clauses(replace(options(), axes=twice), own_session)


def test_a_sweep_fits_on_the_tokens_of_a_target_and_is_otherwise_the_sweep_it_was(
    own_session: Session, world: World, tmp_path: Path
) -> None:
    fits = {"concepts": ["counting"], "runs": ["small"]}
    where = fits | {"where": "sql: kind = 'text' and position > 2"}
    job = small_job(own_session, world.loaded, tmp_path, vectors=[], fits=[fits, where], **SMALL)
    every, some = (arm.vector for arm in job.grid.arms)
    assert every is not None
    assert some is not None
    assert some.provenance["query"]["where"] == where["where"]
    assert 0 < some.provenance["rows"]["n"] < every.provenance["rows"]["n"]
    assert some.vector_id != every.vector_id
    assert set(write_sweep(tmp_path, fits=[fits]).sweep.identity()["fits"][0]) == {
        "methods",
        "concepts",
        "runs",
        "recipe",
    }


@QUIET
def test_a_plan_over_a_prompt_with_its_picture_steers_its_patches_in_a_pass_of_the_processors_own_inputs(
    world: World, tmp_path: Path
) -> None:
    loaded = world.loaded
    (example, *_) = pick_rows(open_benchmark("scenes", task="Count", form="number"), "search", n=1, orphans="search")
    assert isinstance(example, Example)
    file = tmp_path / "picture.png"
    file.write_bytes(example.images[0].load())
    text = "answer en How many?"
    plan = steercache.plan_target(loaded, "sql: kind = 'image' and patch_row = 1", text, images=[file])
    inputs = loaded.processor(images=[[Image.open(file).convert("RGB")]], text=[f"<image>{text}"], return_tensors="pt")
    inputs.pop("labels", None)
    vector = world.session.vector("counting")
    layer = vector.layers[0]
    block = loaded.model.model.language_model.layers[layer]
    outputs: list[torch.Tensor] = []
    before = block.register_forward_hook(lambda m, a, out: outputs.append(out.clone()))
    with steercache.steer(loaded, vector, layer=layer, alpha=1.0, target=plan), torch.no_grad():
        after = block.register_forward_hook(lambda m, a, out: outputs.append(out.clone()))
        loaded.model(**inputs)
    before.remove()
    after.remove()
    moved = (outputs[1] - outputs[0])[0].abs().sum(-1).nonzero().flatten().tolist()
    image = (inputs["input_ids"][0] == loaded.config.image_token_id).nonzero().flatten().tolist()
    side = int(len(image) ** 0.5)
    assert moved == image[side : 2 * side]
