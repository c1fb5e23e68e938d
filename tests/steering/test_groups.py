"""Groups of cells: every cell once, lowest layers first, and what a pass keeps counts against the budget."""

from dataclasses import replace

import pytest

from steercache.core.errors import BudgetError
from steercache.core.trials import Target
from steercache.steering.branch import BranchOptions, branch_from
from steercache.steering.cells import BranchCell
from steercache.steering.groups import groups_of, held_bytes, options_beside
from steercache.steering.prefill import run_prefill
from tests.steering.memory import peak_bytes
from tests.steering.small import N_LAYERS, directions, padded_batch, small_model

TARGETS: tuple[Target, ...] = ("all", "text")


def many_cells() -> list[BranchCell]:
    """30 cells, layers and targets mixed."""
    return [
        BranchCell(key=f"{i}", layer=(7 * i) % N_LAYERS, delta_d=delta, target=TARGETS[i % 2])
        for i, delta in enumerate(directions(30))
    ]


def test_every_cell_is_in_one_group_lowest_layers_first_whatever_order_they_came_in() -> None:
    prefill = run_prefill(small_model("llama"), padded_batch("llama", lengths=(40, 38, 31)), layers=range(N_LAYERS))
    cells = many_cells()
    for budget in (10**6, 4 * 10**6, 10**9):
        options = BranchOptions(max_new_tokens=4, memory_budget_bytes=budget)
        groups = [[cell.key for cell in group] for group in groups_of(prefill, cells, options)]
        keys = [key for group in groups for key in group]
        assert sorted(keys) == sorted(cell.key for cell in cells)
        layers = [next(c.layer for c in cells if c.key == key) for key in keys]
        assert layers == sorted(layers)
    assert len(groups) == 1
    in_full = replace(prefill, obstacle="tried out here")
    assert [len(group) for group in groups_of(in_full, cells, options)] == [1] * 30


def test_pass_and_groups_stay_within_the_budget_together() -> None:
    loaded, batch = small_model("llama"), padded_batch("llama", lengths=(40, 38, 31))
    prefill = run_prefill(loaded, batch, layers=range(N_LAYERS))
    kept = [*prefill.outputs.values(), *(x for pair in prefill.keys_values.values() for x in pair)]
    assert held_bytes(prefill) >= sum({x.data_ptr(): x.numel() * x.element_size() for x in kept}.values())
    options = BranchOptions(max_new_tokens=4, memory_budget_bytes=1_500_000 + held_bytes(prefill))
    left = options_beside(prefill, options)
    assert left.memory_budget_bytes == 1_500_000
    cells = many_cells()
    groups = list(groups_of(prefill, cells, left))
    assert len(groups) > 1

    def run() -> dict[str, tuple[tuple[int, ...], ...]]:
        return {a.key: a.tokens for group in groups for a in branch_from(prefill, group, left)}

    found, peak = peak_bytes(run)
    assert peak + held_bytes(prefill) < options.memory_budget_bytes
    whole = {a.key: a for a in branch_from(prefill, cells, BranchOptions(max_new_tokens=4))}
    for key, tokens in found.items():
        near = whole[key].near_tie_b.tolist()
        assert all(a == b or tie for a, b, tie in zip(tokens, whole[key].tokens, near, strict=True))


def test_a_budget_that_the_pass_alone_takes_is_refused() -> None:
    prefill = run_prefill(small_model("llama"), padded_batch("llama", lengths=(40, 38, 31)), layers=range(N_LAYERS))
    with pytest.raises(BudgetError, match="one pass over 3 samples"):
        options_beside(prefill, BranchOptions(memory_budget_bytes=held_bytes(prefill)))
