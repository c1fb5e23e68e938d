"""What a sweep chose becomes the vector's use: layer, strength in a unit that a file can hold, tokens, damage."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from steercache.core.errors import NotFoundError
from steercache.core.operations import read_operation
from steercache.core.trials import Cell, Choice
from steercache.steering.add import delta_of
from steercache.steering.operations.change import change_of
from steercache.sweeps.record import SweepRecord
from steercache.sweeps.suggested_use import suggested_use
from tests.exchange.vector_cases import some_vector

VECTOR = some_vector(use=None)
CELL = Cell(
    vector_id=VECTOR.vector_id,
    layer=2,
    alpha=0.5,
    target="text",
    model_fingerprint="f",
    prompt_id="p",
    alpha_unit="target_norm",
    unit_norm=30.0,
)


def record(damage: dict[str, Any] | None, cell: Cell = CELL) -> SweepRecord:
    choice = Choice(
        arm="counting",
        role="vector",
        cell_id=cell.cell_id,
        rule="exhaustive",
        n_cells=9,
        vector_id=cell.vector_id,
        details={} if damage is None else {"damage": damage},
    )
    control = replace(choice, role="control", vector_id="c" * 64)
    return SweepRecord(
        sweep_id="s" * 64,
        name="demo",
        status="complete",
        manifest={},
        cells={cell.cell_id: cell},
        answers={},
        questions=(),
        choices=(control, choice),
    )


def test_the_use_adds_what_the_cell_added() -> None:
    use = suggested_use(record({"mean_nats": 0.02, "max_nats": 0.1, "n": 8, "n_failed": 0}), VECTOR)
    assert (use.layers, use.target, use.phase, use.strength_unit) == ((2,), "text", "prompt", "raw")
    assert use.strength is not None
    added = delta_of(VECTOR, 2, alpha=0.5, alpha_unit="target_norm", row_norm=30.0)
    np.testing.assert_allclose(use.strength * VECTOR.at(2), added, rtol=1e-6)
    assert use.strength_range == (use.strength, use.strength)
    assert use.damage["mean_nats"] == 0.02
    assert use.source["cell"] == CELL.cell_id
    assert (use.bos, use.chat) == (True, "none")  # of the texts that it was fitted on


@pytest.mark.parametrize(
    "cell",
    [
        replace(CELL, alpha_unit="kl", alpha=0.2, unit_norm=8.0),
        replace(CELL, operation="add_preserving_norm"),
        replace(CELL, operation="clamp:value=2.0", alpha=0.75),
        replace(CELL, operation="affine:scale=0.5,offset=2.0", alpha=1.0),
        replace(CELL, operation="rotate", alpha=30.0, alpha_unit="raw", unit_norm=None),
        replace(CELL, operation="project_out", alpha=0.1, alpha_unit="kl", unit_norm=6.0),
    ],
    ids=lambda cell: f"{cell.operation} in {cell.alpha_unit}",
)
def test_the_use_does_what_the_cell_did(cell: Cell) -> None:
    use = suggested_use(record(None, cell), VECTOR)
    assert use.strength is not None
    numbers = ",".join(f"{name}={value}" for name, value in use.parameters.items())
    text = f"{use.operation}:{numbers}" if numbers else use.operation
    wanted = change_of(
        VECTOR,
        2,
        alpha=cell.alpha,
        alpha_unit=cell.alpha_unit,
        row_norm=cell.unit_norm,
        operation=read_operation(cell.operation),
    )
    made = change_of(VECTOR, 2, alpha=use.strength, alpha_unit=use.strength_unit, operation=read_operation(text))
    assert (made.name, made.kind) == (wanted.name, wanted.kind)
    np.testing.assert_allclose(made.rows_kd, wanted.rows_kd, rtol=1e-6)
    if cell.operation != "add_preserving_norm":  # whose rows are what is added
        np.testing.assert_allclose((made.strength, *made.numbers), (wanted.strength, *wanted.numbers), rtol=1e-6)


@pytest.mark.parametrize("damage", [None, {"mean_nats": 0.4, "n": 8}, {"mean_nats": None, "n": 0, "n_failed": 8}])
def test_damage_that_is_large_or_not_measured_makes_no_range(damage: dict[str, Any] | None) -> None:
    assert suggested_use(record(damage), VECTOR).strength_range is None


def test_a_strength_in_raw_or_fitted_norms_stays_in_its_unit() -> None:
    for unit in ("raw", "resid_norm"):
        use = suggested_use(record(None, replace(CELL, alpha_unit=unit)), VECTOR)  # type: ignore[arg-type]
        assert (use.strength, use.strength_unit) == (0.5, unit)


def test_a_vector_for_which_nothing_was_chosen_has_no_suggestion() -> None:
    with pytest.raises(NotFoundError, match="chose no cell"):
        suggested_use(record(None), some_vector(seed=5))
