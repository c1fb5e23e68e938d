"""Input and output of a branched batch: a cell (vectors with their layers and target tokens), and the answers under it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from steercache.core.errors import UsageError
from steercache.core.trials import Mode
from steercache.core.vector_use import PlaceName
from steercache.index.clause import is_clause
from steercache.steering.add import adds_finitely
from steercache.steering.clause_masks import clause_of, layers_of
from steercache.steering.operations.change import Change, added
from steercache.steering.places import IN_ORDER, block_below, width_of_place
from steercache.steering.targets import TargetLike

# Logits of a cell computed in a batch of another shape differ by less than this times the row's largest |logit| (128 rounding
# steps in float32, 16 otherwise): an upper bound for every model. `steering.ties` measures the much smaller one of a model.
ROUNDING: dict[torch.dtype, float] = {
    dtype: 16 * torch.finfo(dtype).eps for dtype in (torch.float64, torch.bfloat16, torch.float16)
} | {torch.float32: 128 * torch.finfo(torch.float32).eps}
CANDIDATES: Final = 16  # tokens among which float32 logits decide
NOT_FINITE: Final = (
    "the forward pass is not finite: its logits hold NaN or infinity (a smaller strength, or a wider dtype)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchPart:
    """One of the changes of a cell: `what` is done at `place` of block `layer`, its output by default, on `target`."""

    layer: int
    what: Change = field(repr=False)
    target: TargetLike = "all"
    place: PlaceName = "resid_post"

    @property
    def below(self) -> int:
        """The block from whose output it is computed; -1 is the input of block 0."""
        return block_below(self.place, self.layer)

    @property
    def moves(self) -> bool:
        """Whether it can change anything."""
        return bool(self.what.delta_d.any())


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchCell:
    """`delta_d` (float32, from steer.add.delta_of or scale_direction) added at the output of block `layer` on `target`, or at
    another `place` of that block.

    Where a target written as SQL selects nothing of a sample, the sample is not steered (`CellAnswers.missed_b`).
    Another operation than to add is its `change`, and `delta_d` is that change's own. `key` is the caller's own: a cell id.
    Where several things are done, these are those of the lowest layer, and `rest` are the others in the order in which they are
    done (`combined`).
    """

    key: str
    layer: int
    delta_d: npt.NDArray[np.float32] = field(repr=False)
    target: TargetLike = "all"
    change: Change | None = field(repr=False, default=None)
    rest: tuple[BranchPart, ...] = ()
    place: PlaceName = "resid_post"

    @property
    def what(self) -> Change:
        """What is done to the hidden states."""
        return added(self.delta_d) if self.change is None else self.change

    @property
    def parts(self) -> tuple[BranchPart, ...]:
        """All that is done, lowest layer first."""
        return (BranchPart(layer=self.layer, what=self.what, target=self.target, place=self.place), *self.rest)

    @property
    def below(self) -> int:
        """The block from whose output it is computed; -1 is the input of block 0."""
        return block_below(self.place, self.layer)

    @property
    def kind(self) -> str:
        """Cells of one kind and lowest layer can be run side by side."""
        return f"{self.layer} {self.place} {self.what.kind}" + "".join(
            f" | {one.layer} {one.place} {one.what.kind}" for one in self.rest
        )

    @property
    def looks_at(self) -> tuple[int, ...]:
        """Layers whose unsteered outputs the targets look at."""
        return tuple(
            dict.fromkeys(layer for t in (self.target, *(one.target for one in self.rest)) for layer in layers_of(t))
        )

    @property
    def reads(self) -> frozenset[int]:
        """Layers whose unsteered outputs running the cell needs: what it starts from, and those that its targets look at."""
        return frozenset({self.below, *self.looks_at})


def combined(key: str, parts: Sequence[BranchPart]) -> BranchCell:
    """The cell that does several things: those at lower layers first, at one layer in the order given.

    Parts that can change nothing are left out, so that a single one that is left is the plain cell.
    """
    in_order = sorted(parts, key=lambda one: (one.layer, IN_ORDER.index(one.place)))
    first, *rest = [one for one in in_order if one.moves] or in_order[:1]
    return BranchCell(
        key=key,
        layer=first.layer,
        delta_d=first.what.delta_d,
        target=first.target,
        change=first.what,
        rest=tuple(rest),
        place=first.place,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CellAnswers:
    """What the b samples of a batch answered in one cell.

    `logits_bv` are those of the first token, in the model's own precision. `hidden_bd` is the last block's output that they
    were made from, for float32 logits of some tokens (None: the model does more than a norm and a head). `tokens` are the
    generated ids without the one that ended the answer; `ended` is False where `max_new_tokens` cut it off. `gap_b` is the
    smallest distance between best and second-best logit over the answer; within the tolerance another batching may answer
    otherwise: `near_tie_b`. `finite_b` is False where a step overflowed: then the tokens mean nothing. `mode` says
    how it was computed, and `reason` why in full. `missed_b` is True where the targets hit nothing (None: nowhere).
    `selected` has the masks (b, t), or the weights, of targets written as SQL, by their text.
    """

    key: str
    mode: Mode
    logits_bv: torch.Tensor = field(repr=False)
    tokens: tuple[tuple[int, ...], ...]
    ended: tuple[bool, ...]
    gap_b: torch.Tensor
    near_tie_b: torch.Tensor
    finite_b: torch.Tensor
    hidden_bd: torch.Tensor | None = field(repr=False, default=None)
    reason: str | None = None
    missed_b: torch.Tensor | None = None
    selected: Mapping[str, torch.Tensor] = field(repr=False, default_factory=lambda: MappingProxyType({}))


def check_width(cell: BranchCell, model: Any) -> None:
    """Raises UsageError where a vector of the cell is of another width than what it changes."""
    for part in cell.parts:
        width, shape = width_of_place(model, part.place), part.what.delta_d.shape
        if shape != (width,):
            where = "" if part.place in ("resid_post", "resid_pre") else f" at {part.place}"
            raise UsageError(f"the vector of {cell.key!r} has shape {shape} and the model is {width} wide{where}")


def rest_adds_finitely(cell: BranchCell) -> bool:
    """`adds_finitely` of what a cell does beside its first change."""
    return all(bool(adds_finitely(torch.from_numpy(one.what.delta_d))) for one in cell.rest)


def with_selected(answers: CellAnswers, cell: BranchCell, masks: Sequence[torch.Tensor]) -> CellAnswers:
    """Answers with what the cell's targets selected of the batch (`masks` of its parts): only where they may select nothing."""
    targets = (cell.target, *(one.target for one in cell.rest))
    if all(isinstance(target, str) and not is_clause(target) for target in targets):
        return answers
    missed_b = ~torch.stack([(mask_bt != 0).any(1) for mask_bt in masks]).any(0)
    clauses = [clause_of(target) for target in targets]
    return replace(
        answers,
        missed_b=missed_b if bool(missed_b.any()) else None,
        selected={str(clause): mask for clause, mask in zip(clauses, masks, strict=True) if clause is not None},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstTokens:
    """The first tokens of r sequences, how clear they were, and the last block's output that they were read from."""

    logits_rv: torch.Tensor = field(repr=False)
    token_r: torch.Tensor
    gap_r: torch.Tensor
    scale_r: torch.Tensor
    finite_r: torch.Tensor
    hidden_rd: torch.Tensor | None = field(repr=False, default=None)

    def rows(self, rows: slice) -> "FirstTokens":
        """Some of the sequences."""
        return FirstTokens(
            logits_rv=self.logits_rv[rows],
            token_r=self.token_r[rows],
            gap_r=self.gap_r[rows],
            scale_r=self.scale_r[rows],
            finite_r=self.finite_r[rows],
            hidden_rd=None if self.hidden_rd is None else self.hidden_rd[rows],
        )


def finite_rows(logits_rv: torch.Tensor, hidden_rd: torch.Tensor | None = None) -> torch.Tensor:
    """Which sequences did not overflow, (r,): no NaN or +infinity among the logits, and hidden states of finite length.

    A final norm that squares an overflowing hidden state divides by infinity and gives zeros: finite logits that mean nothing.
    """
    finite = logits_rv.amax(-1).isfinite()
    if hidden_rd is None:
        return finite
    squares_r = hidden_rd.to(torch.promote_types(hidden_rd.dtype, torch.float32)).square().sum(-1)
    return finite & squares_r.isfinite().to(finite.device)


def read_firsts(
    logits_rv: torch.Tensor,
    hidden_rd: torch.Tensor | None = None,
    exact: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> FirstTokens:
    """Greedy choice from logits (r, vocabulary), float32.

    With `exact`, which gives float32 logits (r, k) of token ids (r, k), these decide among the best tokens: logits of half
    precision tie often, and a tie says nothing.
    """
    token_r, top = logits_rv.argmax(-1), logits_rv.topk(2, dim=-1).values
    if exact is not None:
        ids_rk = logits_rv.topk(min(CANDIDATES, logits_rv.shape[-1]), dim=-1).indices.sort(-1).values
        exact_rk = exact(ids_rk)
        token_r, top = ids_rk.gather(1, exact_rk.argmax(-1, keepdim=True))[:, 0], exact_rk.topk(2, dim=-1).values
    return FirstTokens(
        logits_rv=logits_rv,
        token_r=token_r,
        gap_r=top[:, 0] - top[:, 1],
        scale_r=logits_rv.abs().amax(-1),
        finite_r=finite_rows(logits_rv, hidden_rd),
        hidden_rd=hidden_rd,
    )


def make_answers(
    key: str,
    firsts: FirstTokens,
    more: Any | None,
    *,
    ends: frozenset[int],
    precision: "Precision",
    how: tuple[Mode, str | None] = ("branch", None),
) -> CellAnswers:
    """Join first tokens and what followed (`decode.Decoded` of the same rows, or None)."""
    rows = [[token] for token in firsts.token_r.tolist()]
    gap, finite, near = firsts.gap_r, firsts.finite_r, precision.near(firsts.gap_r, firsts.scale_r)
    if more is not None:
        for row, rest in zip(rows, more.tokens_rn.tolist(), strict=True):
            row.extend(token for token in rest if token >= 0)
        gap, finite = torch.minimum(gap, more.gap_r), finite & more.finite_r
        near = near | precision.near(more.gap_r, more.scale_r, rounded=True)
    mode, reason = how
    return CellAnswers(
        key=key,
        mode=mode,
        reason=reason,
        logits_bv=firsts.logits_rv,
        tokens=tuple(tuple(token for token in row if token not in ends) for row in rows),
        ended=tuple(row[-1] in ends for row in rows),
        gap_b=gap,
        near_tie_b=near & finite,
        finite_b=finite,
        hidden_bd=firsts.hidden_rd,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """How close two logits may be before another batching can swap them: `tie_nats` as measured for the model, otherwise the
    bound of `ROUNDING`."""

    dtype: torch.dtype
    tie_nats: float | None = None

    def near(self, gap_r: torch.Tensor, scale_r: torch.Tensor, *, rounded: bool = False) -> torch.Tensor:
        """Which gaps are near-ties; `rounded`: of logits in the model's own dtype, whose rounding comes on top."""
        if self.tie_nats is None:
            return gap_r <= ROUNDING[self.dtype] * scale_r
        own = torch.finfo(self.dtype).eps * scale_r if rounded and self.dtype.itemsize < 4 else 0.0
        return gap_r <= self.tie_nats + own
