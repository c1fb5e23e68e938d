"""Grids of operations other than to add: cells, their ids, SQL over them, and what predictions refuse."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from steercache.cells.options import GridAxes
from steercache.core.errors import ManifestError, UsageError
from steercache.core.operations import Rotate
from steercache.core.trials import Cell
from steercache.queries.session import Session
from steercache.screening.predict import _check_linear
from steercache.steering.branch import BranchOptions, branch
from steercache.steering.cells import BranchCell
from steercache.steering.operations.change import change_of
from steercache.trace.batches import pad_batch
from tests.screening.small_gradients import questions
from tests.sweeps.small_sweep import small_grid, stored_answers_of, write_sweep
from tests.world import World

COMMON: dict[str, Any] = {"vector_id": "v" * 64, "layer": 3, "model_fingerprint": "f" * 64, "prompt_id": "plain"}


def test_adding_keeps_its_id_and_every_other_operation_is_another_cell() -> None:
    adding = Cell(alpha=9.0, target="image", decoding={"greedy": True}, **COMMON)
    assert (
        adding.cell_id == "61fe8b4358cd2569a9ff2638c3c16e19cc3da08befad0ab1f699f9029ac49c9f"
    )  # as before there were others
    others = ("project_out", "clamp:value=2.0", "clamp:value=3.0", "rotate")
    assert len({adding.cell_id, *(replace(adding, operation=text).cell_id for text in others)}) == 5


def test_axes_write_an_operation_in_one_way_and_refuse_units_that_mean_nothing() -> None:
    axes = GridAxes(layers=(1,), alphas=(1.0,), operation="clamp:value=2")
    assert axes.operation == "clamp:value=2.0"
    assert axes.manifest["operation"] == "clamp:value=2.0"
    assert "operation" not in GridAxes(layers=(1,), alphas=(1.0,)).manifest  # ids of sweeps stay
    with pytest.raises(UsageError, match="no unit resid_norm"):
        GridAxes(layers=(1,), alphas=(1.0,), operation="rotate", alpha_unit="resid_norm")
    with pytest.raises(UsageError, match="no operation"):
        GridAxes(layers=(1,), alphas=(1.0,), operation="twist")


def test_a_manifest_with_a_screening_or_without_its_numbers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="cannot be predicted"):
        write_sweep(tmp_path, operation="project_out", screen={"first": 2})
    with pytest.raises(ManifestError, match="write it as clamp:value=NUMBER"):
        write_sweep(tmp_path, operation="clamp")
    with pytest.raises(UsageError, match="rotate cannot be predicted"):
        _check_linear("rotate")


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_grid_answers_under_its_operation_and_sql_can_ask_for_it(
    own_session: Session, world: World, tmp_path: Path
) -> None:
    found = small_grid(
        own_session,
        world.loaded,
        tmp_path,
        operation="rotate",
        alphas=[70],
        layers=[3],
        targets=["text"],
        splits=["search"],
    )
    sweep_id = found.tasks[0].sweep_id
    rows = own_session.sql(
        "select distinct operation from answers_with_cells where sweep_id = $s order by 1 nulls last", s=sweep_id
    ).fetchall()
    assert rows == [("rotate",), (None,)]  # and the baseline
    (cell_id,) = own_session.sql(
        "select cell_id from cells where sweep_id = $s and operation = 'rotate'", s=sweep_id
    ).fetchall()[0]

    asked = questions(world.loaded.bundle, n=14)
    vector = own_session.vector("counting")
    answers = stored_answers_of(own_session, sweep_id)
    change = change_of(vector, 3, alpha=70.0, operation=Rotate())
    cell = BranchCell(key="x", layer=3, delta_d=change.delta_d, target="text", change=change)
    for one in asked[:4]:
        assert one.encoded is not None
        batch = pad_batch([one.encoded], padding_side="left", pad_id=world.loaded.pad_id)
        (answer,) = branch(world.loaded, batch, [cell], BranchOptions(max_new_tokens=3))
        said = world.loaded.tokenizer.decode(list(answer.tokens[0]), skip_special_tokens=True).strip()
        if not bool(answer.near_tie_b[0]):
            assert answers[cell_id, one.sample_id]["raw"] == said
