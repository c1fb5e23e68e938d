"""A cell of four vectors against a cell of one at the lowest of its layers: the same number of cells over the same questions.

Branched from one unsteered pass, first tokens only, and each by its own forward pass. What more a cell of four costs is three
more changes of hidden states.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.cells import asked_and_vectors, batch_of, layers_of
from bench.turns import Row, take_turns
from steercache.core.operations import read_operation
from steercache.steering.branch import BranchOptions, branch_from
from steercache.steering.cells import BranchCell, BranchPart, combined
from steercache.steering.operations.change import change_of
from steercache.steering.prefill import run_prefill
from steercache.steering.recompute import recompute

MIXES = {"four that add": ("add",) * 4, "four operations": ("add", "project_out", "rotate", "clamp:value=2")}
N_CELLS, N_IN_FULL, TURNS = 14, 4, 7


def run(folder: Path | None = None, *, model: str = "demo", n: int = 12, turns: int = TURNS) -> list[Row]:
    """One line for each mix of operations, branched and in full."""
    loaded, asked, vectors = asked_and_vectors(model, folder, n=n)
    layers, batch = layers_of(loaded)[:: max(1, len(layers_of(loaded)) // 4)][:4], batch_of(loaded, asked.asked)
    prefill = run_prefill(loaded, batch, layers=layers)
    options = BranchOptions(max_new_tokens=1)

    def cells(operations: Sequence[str]) -> list[BranchCell]:
        made = []
        for i in range(N_CELLS):
            parts = []
            for vector, layer, text in zip(vectors, layers, operations, strict=False):
                alpha = 20.0 + i if text == "rotate" else 0.05 + 0.01 * i
                change = change_of(vector, layer, alpha=alpha, operation=read_operation(text))
                parts.append(BranchPart(layer=layer, what=change, target="text"))
            made.append(combined(str(i), parts))
        return made

    rows = []
    for name, mix in MIXES.items():
        four, one = cells(mix), cells(mix[:1])
        ways: dict[str, Callable[[list[BranchCell]], int]] = {
            f"{N_CELLS} branched cells": lambda some: sum(1 for _ in branch_from(prefill, some, options)),
            f"{N_IN_FULL} cells in full": lambda some: sum(
                1 for _ in recompute(loaded, batch, some[:N_IN_FULL], options)
            ),
        }
        for way, answer in ways.items():
            answer(four)
            rows.append(
                take_turns(
                    f"{name} at layers {', '.join(map(str, layers))} against one at the lowest, {way} x {n} questions",
                    lambda answer=answer, four=four: answer(four),
                    lambda answer=answer, one=one: answer(one),
                    n=turns,
                    target="<= 1.1",
                )
            )
    return rows


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
