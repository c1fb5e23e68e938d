"""The use of a vector that a sweep suggests: the cell that was chosen for it, with the damage that was measured there."""

from dataclasses import asdict
from typing import Final

import numpy as np

from steercache.core.errors import NotFoundError
from steercache.core.ids import SHORT_ID
from steercache.core.operations import read_operation
from steercache.core.trials import AlphaUnit
from steercache.core.vector_use import VectorUse
from steercache.core.vectors import SteeringVector
from steercache.sweeps.record import SweepRecord

IN_NORMS: Final = ("bound", "value", "offset")  # numbers of operations that count in the unit of strength
SMALL_NATS: Final = 0.1  # mean KL of the next token on unrelated prompts up to which damage is called small


def suggested_use(record: SweepRecord, vector: SteeringVector) -> VectorUse:
    """The chosen cell as a use. Sweeps steer the prompt only; strengths in norms of the steered rows and at a given KL become
    raw ones.

    `strength_range` holds the chosen strength alone, since damage is measured there, and only if it was small.

    Raises:
        NotFoundError: the sweep chose no cell for this vector.
    """
    taken = [one for one in record.choices if one.vector_id == vector.vector_id and one.role == "vector"]
    if not taken:
        raise NotFoundError(
            f"the sweep {record.name!r} chose no cell for the vector {vector.name!r} ({vector.vector_id[:SHORT_ID]})",
            hint="name a sweep that had the vector, and chose",
        )
    choice = taken[0]
    cell = record.cells[choice.cell_id]
    assert cell.layer is not None
    operation = read_operation(cell.operation)
    strength, unit, parameters = cell.alpha, cell.alpha_unit, asdict(operation)
    raw: AlphaUnit = "raw"
    if unit == "kl" and cell.unit_norm is not None:
        strength, unit = strength * cell.unit_norm, raw
    elif unit == "target_norm" and cell.unit_norm is not None and operation.name != "replace":
        by = cell.unit_norm / float(np.linalg.norm(vector.at(cell.layer)))
        strength, unit = strength * (by if operation.name in ("add", "add_preserving_norm") else 1.0), raw
        parameters |= {name: parameters[name] * cell.unit_norm for name in IN_NORMS if name in parameters}
    damage = {name: value for name, value in (choice.details.get("damage") or {}).items() if value is not None}
    small = damage.get("n", 0) > 0 and damage.get("mean_nats", SMALL_NATS + 1) <= SMALL_NATS
    suggested = VectorUse(
        operation=operation.name,
        parameters=parameters,
        layers=(cell.layer,),
        place=cell.site,
        strength=strength,
        strength_unit=unit,
        strength_range=(strength, strength) if small else None,
        damage=damage | {"limit_nats": SMALL_NATS} if damage else {},
        target=cell.target,
        phase="prompt",
        source={"sweep": record.sweep_id, "cell": cell.cell_id, "rule": choice.rule},
    )
    return vector.prompted(suggested)  # BOS and chat template of the texts that it was fitted on
