"""Where a vector came from, as JSON: enough to fit it again, and nothing that changes when it is."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from steercache.core.provenance import as_json, describe_rows
from steercache.core.provenance import rows_digest as rows_digest
from steercache.core.selection import Selection
from steercache.fit.sides import LabelledSides, Recipe


def describe(
    sel: Selection, sides: LabelledSides, *, recipe: Recipe, params: Mapping[str, Any], needs: tuple[str, ...]
) -> Any:
    """The provenance of a vector fitted on `sel`; `needs` are the packages whose versions decide its bytes."""
    return {
        **describe_rows(sel, needs=needs),
        "recipe": recipe,
        "params": as_json(dict(params)),
        "seed": params.get("seed"),
        "rows": {
            "digest": rows_digest(sel),
            "n": len(sel),
            "n_concept": int(np.count_nonzero(sides.label)),
            "n_samples": len(np.unique(sel.sample_idx)),
            f"n_{sides.unit_name}s": sides.n_units,
        },
    }
