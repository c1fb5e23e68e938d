"""Cells of one pass in groups that are run to their end one after the other, so that what is done can be kept.

Which cells are together decides the shapes that they are computed in, and so their last bits. Groups depend on the cells, the
batch and the budget alone: work that is taken up again meets the same groups, and gives the same bytes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from steercache.core.errors import BudgetError
from steercache.steering.branch import BranchOptions
from steercache.steering.cells import BranchCell
from steercache.steering.prefill import Prefill
from steercache.steering.stack import MIB, costs_of, stacks


def held_bytes(prefill: Prefill) -> int:
    """What a pass keeps in memory for its cells: block outputs, keys, values and logits."""
    kept = [*prefill.outputs.values(), *(x for pair in prefill.keys_values.values() for x in pair)]
    if prefill.logits_bv is not None:
        kept.append(prefill.logits_bv)
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in kept}
    return sum(storages.values())


def options_beside(prefill: Prefill, options: BranchOptions) -> BranchOptions:
    """The same options with what is left of the memory budget beside the pass itself.

    Raises:
        BudgetError: the pass alone takes all of it.
    """
    left = options.memory_budget_bytes - held_bytes(prefill)
    if left <= 0:
        raise BudgetError(
            f"one pass over {prefill.prompts.n_seq} samples of {prefill.prompts.n_tokens} tokens keeps "
            f"{held_bytes(prefill) // MIB + 1} MiB, the budget is {options.memory_budget_bytes // MIB} MiB",
            hint="fewer tokens per batch, fewer layers, or more memory",
        )
    return replace(options, memory_budget_bytes=left)


def groups_of(prefill: Prefill, cells: Sequence[BranchCell], options: BranchOptions) -> Iterator[Sequence[BranchCell]]:
    """Cells, lowest layer first, as many at a time as may wait for their decoding together; alone where cells run in full."""
    size = 1
    if prefill.obstacle is None:
        waiting = costs_of(prefill, start=0, max_new_tokens=options.max_new_tokens).wait_bytes
        size = max(1, options.memory_budget_bytes // 2 // (waiting * prefill.prompts.n_seq))
    yield from stacks(sorted(cells, key=lambda cell: (cell.layer, str(cell.target))), size=size)
