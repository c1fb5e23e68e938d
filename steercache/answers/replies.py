"""What a model replied to a batch of questions, cell by cell, before it is scored: small, and the same from any process."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy.typing as npt
import torch

from steercache.answers.lengths import decoded_lengths
from steercache.answers.option_tokens import margin_of, option_ids
from steercache.answers.ways import ExecutionPlan, groups_of_results
from steercache.benchmarks.task import EncodedQuestion
from steercache.cells.arms import ArmCell
from steercache.core.errors import SteercacheError
from steercache.core.trials import Mode
from steercache.models.spec import LoadedModel
from steercache.steering.branch import BranchOptions
from steercache.steering.cells import CellAnswers
from steercache.steering.forward import exact_logits
from steercache.trace.prompt import ImageError


@dataclass(frozen=True, slots=True, kw_only=True)
class CellReply:
    """What one cell (by `key`) replied to the questions of a batch, one entry for each; the fields are those of `CellAnswers`,
    with the tokens as text (`raws`). `lengths` are tokens that were decoded after the first."""

    key: str
    mode: Mode
    reason: str | None
    raws: tuple[str, ...]
    margins: tuple[float | None, ...]
    margins_of: tuple[str | None, ...]
    finite: tuple[bool, ...]
    near_ties: tuple[bool, ...]
    lengths: tuple[int, ...]
    selected: Mapping[str, npt.NDArray[Any]] = field(repr=False, default_factory=dict)


def replies_to(
    loaded: LoadedModel,
    ready: Sequence[EncodedQuestion],
    by_id: Mapping[str, ArmCell],
    *,
    wanted: frozenset[str],
    options: BranchOptions,
    way: ExecutionPlan,
    share: tuple[int, int] = (0, 1),
) -> Iterator[list[CellReply]]:
    """What the wanted cells (by id) reply to questions whose pictures are decoded, group by group; of `share` (i, n) the i-th
    of n parts of the groups."""
    ids = [option_ids(one, loaded.tokenizer) for one in ready]
    margins, kinds = margins_of(ids, loaded), tuple(margin_of(some) for some in ids)
    cells = [setting.branch_cell(cell_id, loaded.spec.hidden_size) for cell_id, setting in by_id.items()]
    for group in groups_of_results(loaded, ready, cells, wanted=wanted, options=options, way=way, share=share):
        # one at a time: each holds the logits of a batch
        yield [_reply(result, loaded.tokenizer, margins(result), kinds) for result in group]


def _reply(
    result: CellAnswers, tokenizer: Any, margin_b: Sequence[float | None], margin_of_b: tuple[str | None, ...]
) -> CellReply:
    return CellReply(
        key=result.key,
        mode=result.mode,
        reason=result.reason,
        raws=tuple(tokenizer.decode(list(one), skip_special_tokens=True).strip() for one in result.tokens),
        margins=tuple(margin_b),
        margins_of=margin_of_b,
        finite=tuple(result.finite_b.tolist()),
        near_ties=tuple(result.near_tie_b.tolist()),
        lengths=tuple(decoded_lengths(result)),
        selected={target: selected_bt.cpu().numpy() for target, selected_bt in result.selected.items()},
    )


def with_pixels(batch: Sequence[EncodedQuestion]) -> tuple[list[EncodedQuestion], list[EncodedQuestion]]:
    """The batch with its pictures decoded, and those whose pictures can no longer be."""
    ready, broken = [], []
    for one in batch:
        encoded = one.encoded
        if encoded is None or encoded.pixels is None:
            ready.append(one)
            continue
        try:
            pixels = encoded.pixels()
        except ImageError as error:
            broken.append(replace(one, encoded=None, error=str(error)))
        except SteercacheError as error:
            broken.append(replace(one, encoded=None, error=error.message))
        else:
            ready.append(replace(one, encoded=replace(encoded, pixels=_held(pixels))))
    return ready, broken


def _held(pixels: Any) -> Callable[[], Any]:
    return lambda: pixels


def margins_of(ids: Sequence[Sequence[int]], loaded: LoadedModel) -> Callable[[CellAnswers], list[float | None]]:
    """Per question, log p(right) - max log p(wrong) of the first token, in float32 from the last block's output; None where
    options are not told apart by their first token. `ids` are those of `option_ids`, question by question."""
    width = max(map(len, ids), default=0)
    padded = [[*some, *[some[0] if some else 0] * (width - len(some))] for some in ids]

    def margins(result: CellAnswers) -> list[float | None]:
        if not width:
            return [None] * len(ids)
        ids_bk = torch.tensor(padded, device=result.logits_bv.device)
        if result.hidden_bd is None:
            logits_bk = result.logits_bv.gather(1, ids_bk)
        else:
            logits_bk = exact_logits(loaded, result.hidden_bd, ids_bk)
        rows = logits_bk.tolist()  # differences of logits are differences of log probabilities
        return [row[0] - max(row[1 : len(some)]) if some else None for some, row in zip(ids, rows, strict=True)]

    return margins
