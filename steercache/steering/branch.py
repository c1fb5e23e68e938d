"""Exact answers of many cells over one batch: one unsteered forward pass, and every cell branches from it.

For a cell at the output of block l only the blocks above l run (for one at another place of block l, that block too), in causal
families only from the first steered token on; everything before is read from the unsteered pass. Cells of one place, layer and
first token run stacked along the batch axis, and the sequences of all cells are decoded together, as far as the memory budget
goes. Never steered, because nothing could change: the last block's output anywhere but at the last prompt token, and a vector
of zeros; such a cell answers as the unsteered model. A cell of several vectors branches at the lowest of their layers, and the
others are applied where its blocks pass theirs.

Bit for bit the same as the full steered forward with `same_batch=True`: every cell then runs alone, over all tokens, in the
batch's own shape. Otherwise products of other shapes round differently: logits within `cells.ROUNDING`, near-ties marked.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby

import torch

from steercache.core.errors import UsageError
from steercache.models.ends import end_ids
from steercache.models.spec import LoadedModel
from steercache.models.streams import hidden_of, merged, with_hidden
from steercache.queries.token_clause import TokenClause
from steercache.steering.add import adds_finitely
from steercache.steering.cells import (
    BranchCell,
    BranchPart,
    CellAnswers,
    Precision,
    check_width,
    make_answers,
    read_firsts,
    rest_adds_finitely,
    with_selected,
)
from steercache.steering.decode import decode_greedily
from steercache.steering.forward import BranchCache, Stacking, head_logits, run_blocks
from steercache.steering.full import run_full
from steercache.steering.live_hooks import changed_at
from steercache.steering.operations.apply import Applied, apply_each, as_applied
from steercache.steering.parts import parts_of
from steercache.steering.places import Place, find_place
from steercache.steering.pool import DecodeQueue, PendingStack, start_of
from steercache.steering.prefill import Prefill, check_layers, decider, run_prefill
from steercache.steering.stack import MIB, copies_that_fit, costs_of, stacks
from steercache.steering.targets import TargetLike
from steercache.trace.batches import PaddedBatch

HiddenChange = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchOptions:
    """How cells are run. `ends` are the token ids that end an answer; None takes the model's own. `tie_nats` is how far apart
    two logits may be before another batching can swap them, as `steering.ties` measures it; None takes an upper bound.

    In half precision first tokens are decided by float32 logits, but with `same_batch`, which repeats the model bit for bit.
    """

    max_new_tokens: int = 20
    memory_budget_bytes: int = 2048 * MIB
    same_batch: bool = False
    ends: frozenset[int] | None = None
    tie_nats: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Placed:
    """A cell with its rows in this batch: the masks (b, t) of its parts."""

    cell: BranchCell
    masks: tuple[torch.Tensor, ...] = field(repr=False)
    start: int


def branch(
    loaded: LoadedModel, batch: PaddedBatch, cells: Sequence[BranchCell], options: BranchOptions = BranchOptions()
) -> Iterator[CellAnswers]:
    """Answers of every cell over the batch, in the order in which they are done.

    Raises:
        UsageError: a layer the model does not have, a vector of another width, a target that hits nothing.
        BudgetError: one cell over this batch does not fit into the memory budget.
    """
    check_layers(parts_of(loaded), [part.layer for cell in cells for part in cell.parts])
    prefill = run_prefill(loaded, batch, layers=sorted({layer for cell in cells for layer in cell.reads}))
    yield from branch_from(prefill, cells, options)


def branch_from(
    prefill: Prefill, cells: Sequence[BranchCell], options: BranchOptions = BranchOptions()
) -> Iterator[CellAnswers]:
    """As `branch`, from a pass that was run before with the layers of these cells."""
    ends = end_ids(prefill.loaded) if options.ends is None else options.ends
    masks: dict[str, torch.Tensor] = {}
    placed = [_place(prefill, cell, options, masks) for cell in cells]
    by_key = {one.cell.key: one for one in placed}
    for answers in _answers(prefill, placed, options, ends):
        yield with_selected(answers, by_key[answers.key].cell, by_key[answers.key].masks)


def _answers(
    prefill: Prefill, placed: Sequence["_Placed"], options: BranchOptions, ends: frozenset[int]
) -> Iterator[CellAnswers]:
    if prefill.obstacle is not None:
        for one in placed:
            yield run_full(
                prefill,
                one.cell,
                one.masks,
                max_new_tokens=options.max_new_tokens,
                ends=ends,
                tie_nats=options.tie_nats,
            )
        return
    moving = [one for one in placed if _moves(prefill, one)]
    still = [one for one in placed if not _moves(prefill, one)]
    yield from _unsteered(prefill, still, options, ends)
    yield from _stacked(prefill, moving, options, ends)


def _place(prefill: Prefill, cell: BranchCell, options: BranchOptions, masks: dict[str, torch.Tensor]) -> _Placed:
    """A cell with its masks, which parts of one named target share (`masks`), and where its computation begins."""
    if cell.below not in prefill.outputs:
        what = "the input of block 0" if cell.below < 0 else f"layer {cell.below}"
        raise UsageError(f"{what} was not kept of this forward pass", hint="name it in run_prefill's layers")
    check_width(cell, prefill.parts.model)
    check_layers(prefill.parts, [one.layer for one in cell.rest])
    own = tuple(_mask(prefill, target, masks) for target in (cell.target, *(one.target for one in cell.rest)))
    whole = options.same_batch or prefill.obstacle is not None
    start = 0 if whole else prefill.first_start(own)
    if start and cell.below + 1 < prefill.parts.sharing.n_own and cell.below + 1 not in prefill.keys_values:
        start = 0  # a replay has no keys and values of what precedes
    start = max(start, prefill.prompts.n_tokens - prefill.outputs[cell.below].shape[1])  # the columns that are computed
    return _Placed(cell=cell, masks=own, start=start)


def _mask(prefill: Prefill, target: TargetLike, masks: dict[str, torch.Tensor]) -> torch.Tensor:
    named = str(target) if isinstance(target, str | TokenClause) else ""
    mask_bt = masks.get(named)
    if mask_bt is None:
        mask_bt = prefill.mask_of(target)
        if named:
            masks[named] = mask_bt
    return mask_bt


def _moves(prefill: Prefill, one: _Placed) -> bool:
    """Whether the cell has to be run: it can change something, or there is no unsteered answer to repeat."""
    if prefill.logits_bv is None:
        return True
    if not one.cell.delta_d.any():
        return False
    return any(_reaches(prefill, part, mask_bt) for part, mask_bt in zip(one.cell.parts, one.masks, strict=True))


def _reaches(prefill: Prefill, part: BranchPart, mask_bt: torch.Tensor) -> bool:
    """Whether what is changed in a block can reach the answer."""
    if not bool(mask_bt.any()):
        return False
    at_last = mask_bt.gather(1, prefill.prompts.last_b[:, None])
    layer = part.below if part.place == "resid_pre" else part.layer  # inside a block keys are made already
    return layer < prefill.parts.sharing.n_own - 1 or bool(at_last.any())  # later rows read keys, nothing else


@torch.inference_mode()
def _unsteered(
    prefill: Prefill, still: Sequence[_Placed], options: BranchOptions, ends: frozenset[int]
) -> list[CellAnswers]:
    if not still or prefill.logits_bv is None:
        return []
    logits_bv, last = prefill.logits_bv, prefill.last
    assert last is not None
    rows, exact = decider(prefill, prefill.prompts.last_rows(last))
    if options.same_batch:
        logits_bv, exact = _logits_of(prefill, last, None)[0], None
    firsts, more = read_firsts(logits_bv, rows, exact), None
    if options.max_new_tokens > 1:
        n_more = options.max_new_tokens - 1
        start = start_of(prefill, firsts.token_r, {}, n_more=n_more, same_batch=options.same_batch)
        more = decode_greedily(prefill.loaded, start, n_more=n_more, ends=ends, same_batch=options.same_batch)
    precision = Precision(dtype=prefill.dtype, tie_nats=options.tie_nats)
    return [make_answers(one.cell.key, firsts, more, ends=ends, precision=precision) for one in still]


def _stacked(
    prefill: Prefill, moving: Sequence[_Placed], options: BranchOptions, ends: frozenset[int]
) -> Iterator[CellAnswers]:
    def group(one: _Placed) -> tuple[int, int, str]:
        return one.cell.below, one.start, one.cell.kind

    precision = Precision(dtype=prefill.dtype, tie_nats=options.tie_nats)
    pool = DecodeQueue(prefill, options.max_new_tokens, ends, same_batch=options.same_batch, precision=precision)
    for (_, start, _), members in groupby(sorted(moving, key=group), key=group):
        costs = costs_of(prefill, start=start, max_new_tokens=options.max_new_tokens)
        size = copies_that_fit(costs, n_seq=prefill.prompts.n_seq, budget_bytes=options.memory_budget_bytes)
        for stack in stacks(list(members), size=1 if options.same_batch else size):
            waiting_bytes = (pool.n_rows + len(stack) * prefill.prompts.n_seq) * costs.wait_bytes
            if options.same_batch or waiting_bytes > options.memory_budget_bytes // 2:
                yield from pool.flush()
            yield from pool.add(_run_stack(prefill, stack, options))
    yield from pool.flush()


@torch.inference_mode()
def _run_stack(prefill: Prefill, stack: Sequence[_Placed], options: BranchOptions) -> PendingStack:
    """First tokens of cells that share layer and first column, and the keys and values of their branches."""
    below, start = stack[0].cell.below, stack[0].start
    prompts, n_copies = prefill.prompts, len(stack)
    stacking = Stacking(n_seq=prompts.n_seq, n_tokens=prompts.n_tokens, n_copies=n_copies, start=start)
    hidden = prefill.outputs[below][:, start - prompts.n_tokens :]
    deltas = torch.stack([torch.from_numpy(one.cell.delta_d) for one in stack]).to(hidden.device)
    after, inside = _changes(prefill, stack)
    steered = hidden.repeat(n_copies, 1, 1)
    if below in after:
        steered = after.pop(below)(steered)
    if below in prefill.streams:
        whole = prefill.streams[below][:, :, start - prompts.n_tokens :].repeat(1, n_copies, 1, 1)
        steered = with_hidden(whole, steered, prefill.parts.stream)
    cache = BranchCache(prefill.keys_values, stacking, keep=options.max_new_tokens > 1)
    blocks, calls = prefill.parts.blocks, prefill.calls
    with changed_at(inside):
        out = run_blocks(blocks, calls, steered, first=below + 1, stacking=stacking, cache=cache, after=after)
    out = merged(prefill.parts.decoder, out, prefill.parts.stream)
    logits, last_rows = _logits_of(prefill, out, None if options.same_batch else stacking)
    rows, exact = decider(prefill, last_rows)
    firsts = read_firsts(logits, rows, None if options.same_batch else exact)
    finite = adds_finitely(deltas) & torch.tensor([rest_adds_finitely(one.cell) for one in stack], device=hidden.device)
    finite_r = firsts.finite_r & finite.repeat_interleave(prompts.n_seq).to(firsts.finite_r.device)
    firsts = replace(firsts, finite_r=finite_r)
    return PendingStack(keys=tuple(one.cell.key for one in stack), layer=below, firsts=firsts, keys_values=cache.kept)


def _changes(
    prefill: Prefill, stack: Sequence[_Placed]
) -> tuple[dict[int, HiddenChange], list[tuple[Place, HiddenChange]]]:
    """What is done to the outputs of blocks, by layer, and inside of blocks, for cells of one kind side by side."""
    parts = [one.cell.parts for one in stack]
    after: dict[int, HiddenChange] = {}
    inside: list[tuple[Place, HiddenChange]] = []
    for (layer, name), members in groupby(range(len(parts[0])), key=lambda i: (parts[0][i].layer, parts[0][i].place)):
        steps = [
            (
                as_applied([own[i].what for own in parts], n_each=prefill.prompts.n_seq),
                torch.cat([one.masks[i] for one in stack]),
            )
            for i in members
        ]
        if name == "resid_post":
            stream = None if layer == parts[0][0].below else prefill.parts.stream
            after[layer] = partial(_change_output, steps, stream=stream)
        else:
            own = prefill.parts
            place = find_place(own.model, own.family, own.blocks[layer], place=name, layer=layer)
            inside.append((place, partial(apply_each, steps)))
    return after, inside


def _change_output(
    steps: Sequence[tuple[Applied, torch.Tensor]], output: torch.Tensor, *, stream: int | None
) -> torch.Tensor:
    """Several changes of a block's output one after the other, each with a mask of all tokens."""
    changed: torch.Tensor = with_hidden(output, apply_each(steps, hidden_of(output, stream)), stream)
    return changed


def _logits_of(prefill: Prefill, out: torch.Tensor, stacking: Stacking | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (n b, vocabulary) at every sample's last prompt token and the rows (n b, d) that they were made from; without
    `stacking`, in the shapes of the model's own forward."""
    prompts = prefill.prompts
    if stacking is None:
        keep = prompts.logits_to_keep(as_generate=True)
        return prompts.at_last(head_logits(prefill.loaded, out, keep=keep)), prompts.last_rows(out)
    last = prompts.last_b.repeat(stacking.n_copies) - (prompts.n_tokens - out.shape[1])
    rows = out[torch.arange(len(last), device=out.device), last]
    logits = head_logits(prefill.loaded, rows[:, None])[:, 0]
    return logits.to(torch.promote_types(logits.dtype, torch.float32)), rows
