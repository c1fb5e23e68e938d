"""Operations other than to add, against adding, in the branched grid: the same cells of the shipped model, first tokens only.

One unsteered pass is shared, and no answer is decoded further or stored: what an operation costs is a larger part of this than
of a whole grid.
"""

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.cells import batch_of, layers_of, make_grid, open_model, questions, random_vector, row_norms
from bench.turns import Row, fast_dtype, take_turns
from steercache.core.operations import read_operation
from steercache.steering.branch import BranchOptions, branch_from
from steercache.steering.cells import BranchCell
from steercache.steering.operations.change import change_of
from steercache.steering.prefill import run_prefill

OPERATIONS = (
    *("project_out", "project_cap:bound=1", "clamp:value=2", "replace", "rotate", "add_preserving_norm"),
    *("affine:scale=0.5,offset=1", "project_out of a subspace of 4"),
)
EVERY, TURNS = 4, 5


def run(
    folder: Path | None = None, *, model: str = "demo", n: int = 12, turns: int = TURNS, of: Sequence[str] = OPERATIONS
) -> list[Row]:
    """One line for every operation."""
    work = Path(tempfile.mkdtemp(prefix="bench-operations-", dir=folder))
    try:
        loaded = open_model(model, work, dtype=fast_dtype())
    finally:
        shutil.rmtree(work)
    asked = questions(loaded, "Relation", n=n)
    norms = row_norms(loaded, asked.asked, "text")
    vectors = [random_vector(loaded, norms, seed=seed) for seed in range(4)]
    layers = layers_of(loaded)[::EVERY]
    adding = [
        s.branch_cell(str(i), loaded.spec.hidden_size)
        for i, s in enumerate(make_grid(loaded, vectors[0], "text", layers=layers).settings)
    ]
    prefill = run_prefill(loaded, batch_of(loaded, asked.asked), layers=layers)
    options = BranchOptions(max_new_tokens=1)

    def answer(cells: Sequence[BranchCell]) -> int:
        return sum(1 for _ in branch_from(prefill, cells, options))

    rows = []
    for text in of:
        operation, several = read_operation(text.partition(" ")[0]), vectors if " " in text else vectors[:1]
        cells = []
        for i, cell in enumerate(adding):
            change = change_of(several, cell.layer, alpha=0.2 + 0.1 * (i % 7), operation=operation)
            cells.append(replace(cell, delta_d=change.delta_d, change=change))
        answer(cells)
        name = f"{text} against add, {len(cells)} branched cells x {n} questions"
        rows.append(
            take_turns(name, lambda cells=cells: answer(cells), lambda: answer(adding), n=turns, target="<= 1.05")
        )
    return rows


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
