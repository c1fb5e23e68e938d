"""Operations other than to add, against adding, in the branched grid: the same cells of the shipped model, first tokens only.

One unsteered pass is shared, and no answer is decoded further or stored: what an operation costs is a larger part of this than
of a whole grid.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.cells import ALPHAS, asked_and_vectors, batch_of, layers_of, make_grid
from bench.turns import Row, row_of, seconds
from steercache.core.operations import read_operation
from steercache.core.vectors import SteeringVector
from steercache.steering.branch import BranchOptions, branch_from
from steercache.steering.cells import BranchCell
from steercache.steering.operations.change import change_of
from steercache.steering.prefill import run_prefill

OPERATIONS = (
    *("project_out", "project_cap:bound=1", "clamp:value=2", "replace", "rotate", "add_preserving_norm"),
    *("affine:scale=0.5,offset=1", "project_out of a subspace of 4", "project_cap:bound=1 of a subspace of 4"),
    *("clamp:value=2 of a subspace of 4", "affine:scale=0.5,offset=1 of a subspace of 4", "add, again"),
)  # the last shows how far two equal passes are apart here
EVERY, N_ALPHAS, TURNS = 5, 4, 7
TARGET = "<= 1.05"


def run(
    folder: Path | None = None, *, model: str = "demo", n: int = 12, turns: int = TURNS, of: Sequence[str] = OPERATIONS
) -> list[Row]:
    """One line for every operation: the median over turns of its time through that of add just before and after."""
    loaded, asked, vectors = asked_and_vectors(model, folder, n=n)
    layers = layers_of(loaded)[::EVERY]
    adding = [
        s.branch_cell(str(i), loaded.spec.hidden_size)
        for i, s in enumerate(make_grid(loaded, vectors[0], "text", layers=layers, alphas=ALPHAS[:N_ALPHAS]).settings)
    ]
    prefill = run_prefill(loaded, batch_of(loaded, asked.asked), layers=layers)
    options = BranchOptions(max_new_tokens=1)

    def seconds_of(cells: Sequence[BranchCell]) -> float:
        return seconds(lambda: sum(1 for _ in branch_from(prefill, cells, options)))

    every = {text: _cells_of(text, adding, vectors) for text in of}
    for cells in (adding, *every.values()):
        seconds_of(cells)
    times: dict[str, list[tuple[float, float]]] = {text: [] for text in of}
    for turn in range(turns):  # every operation of a turn between two passes of add, and in another order in every turn
        order = [*of[turn % len(of) :], *of[: turn % len(of)]]
        before = seconds_of(adding)
        for text in order:
            took, after = seconds_of(every[text]), seconds_of(adding)
            times[text].append((took, (before + after) / 2))
            before = after
    name = f"against add, {len(adding)} branched cells x {n} questions"
    return [row_of(f"{text} {name}", times[text], target=TARGET, faster=False) for text in of]


def _cells_of(text: str, adding: Sequence[BranchCell], vectors: Sequence[SteeringVector]) -> list[BranchCell]:
    """The same cells under another operation; of a subspace, with all of the vectors."""
    if text.startswith("add,"):
        return list(adding)
    operation, several = read_operation(text.partition(" ")[0]), vectors if " of a subspace" in text else vectors[:1]
    cells = []
    for i, cell in enumerate(adding):
        change = change_of(several, cell.layer, alpha=0.2 + 0.1 * (i % N_ALPHAS), operation=operation)
        cells.append(replace(cell, delta_d=change.delta_d, change=change))
    return cells


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
