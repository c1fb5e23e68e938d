"""Every cell by its own forward pass, where branching saves nothing or is not possible."""

from collections.abc import Iterator, Sequence

from steercache.models.ends import end_ids
from steercache.models.spec import LoadedModel
from steercache.steering.branch import BranchOptions
from steercache.steering.cells import BranchCell, CellAnswers, check_width, with_selected
from steercache.steering.full import run_full
from steercache.steering.prefill import check_layers, run_prefill
from steercache.steering.replay import idle_prefill
from steercache.trace.batches import PaddedBatch


def recompute(
    loaded: LoadedModel, batch: PaddedBatch, cells: Sequence[BranchCell], options: BranchOptions
) -> Iterator[CellAnswers]:
    """Answers of every cell over the batch, in order, each from the whole model on the whole batch, tower included.

    Raises:
        UsageError: a layer the model does not have, a vector of another width, a target that hits nothing; free-form answers
            of a batch padded on the right.
    """
    idle = idle_prefill(loaded, batch)
    check_layers(idle.parts, [layer for cell in cells for layer in (cell.layer, *(one.layer for one in cell.rest))])
    looked_at = sorted({layer for cell in cells for layer in cell.looks_at})
    seen = run_prefill(loaded, batch, layers=looked_at) if looked_at else idle  # targets look at unsteered outputs
    ends = end_ids(loaded) if options.ends is None else options.ends
    for cell in cells:
        check_width(cell, loaded.model)
        masks = [seen.mask_of(target) for target in (cell.target, *(one.target for one in cell.rest))]
        answers = run_full(
            idle, cell, masks, max_new_tokens=options.max_new_tokens, ends=ends, tie_nats=options.tie_nats
        )
        yield with_selected(answers, cell, masks)


def obstacle_of(loaded: LoadedModel, batch: PaddedBatch) -> str | None:
    """Why this model's blocks cannot be run alone, from a pass with its blocks idle; None: they can, as far as is seen so.

    Of a derived family it is tried, on a pass of the whole model.
    """
    found = idle_prefill(loaded, batch).obstacle
    if found is None and loaded.family.derived:
        found = run_prefill(loaded, batch, layers=[]).obstacle
    return found
