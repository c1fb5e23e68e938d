"""The use of a vector that a sweep suggests: the cell that was chosen for it, with the damage that was measured there."""

from typing import Final

import numpy as np

from steercache.core.errors import NotFoundError
from steercache.core.ids import SHORT_ID
from steercache.core.trials import AlphaUnit
from steercache.core.vector_use import VectorUse
from steercache.core.vectors import SteeringVector
from steercache.sweeps.record import SweepRecord

SMALL_NATS: Final = 0.1  # mean KL of the next token on unrelated prompts up to which damage is called small


def suggested_use(record: SweepRecord, vector: SteeringVector) -> VectorUse:
    """The chosen cell as a use. Sweeps steer the prompt only; a strength in norms of the steered rows becomes a raw one.

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
    strength, unit = cell.alpha, cell.alpha_unit
    if unit == "target_norm" and cell.unit_norm is not None:
        raw: AlphaUnit = "raw"
        strength, unit = strength * cell.unit_norm / float(np.linalg.norm(vector.at(cell.layer))), raw
    damage = {name: value for name, value in (choice.details.get("damage") or {}).items() if value is not None}
    small = damage.get("n", 0) > 0 and damage.get("mean_nats", SMALL_NATS + 1) <= SMALL_NATS
    suggested = VectorUse(
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
