"""One batch of questions through the model in the way that was chosen: branched, in full, or replayed from a run's rows.

Results come in groups that are kept together. Groups are of all cells, whatever is known already, so that work that is taken up
again meets the same ones.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Final

from steercache.answers.replays import ReplayRun
from steercache.benchmarks.task import EncodedQuestion
from steercache.core.trials import Mode
from steercache.models.family import Family
from steercache.models.spec import LoadedModel
from steercache.steering.branch import BranchOptions, branch_from
from steercache.steering.cells import BranchCell, CellAnswers
from steercache.steering.groups import groups_of, options_beside
from steercache.steering.prefill import run_prefill
from steercache.steering.recompute import recompute
from steercache.steering.replay import replay
from steercache.trace.batches import PaddedBatch, pad_batch

_READ_WITH_PIXELS: Final = frozenset({"image_sizes", "batch_num_images"})  # by what arranges the vision tower's output


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionPlan:
    """How answers are computed; `rows` are what a replay starts from."""

    mode: Mode = "branch"
    rows: ReplayRun | None = field(default=None, repr=False)

    def needs_pixels(self, family: Family) -> bool:
        """Whether pictures have to be decoded: in a replay only where the forward reads more of them than their pixels."""
        more = (name for name in family.needs if not name.startswith("pixel_") and name not in _READ_WITH_PIXELS)
        return self.mode != "replay" or any(more) or bool(family.audio_needs)

    def for_batch(self, asked: Sequence[EncodedQuestion]) -> "ExecutionPlan":
        """The same with the rows of these questions alone."""
        return self if self.rows is None else replace(self, rows=self.rows.of(asked))


BRANCHED: Final = ExecutionPlan()


def groups_of_results(
    loaded: LoadedModel,
    ready: Sequence[EncodedQuestion],
    cells: Sequence[BranchCell],
    *,
    wanted: frozenset[str],
    options: BranchOptions,
    way: ExecutionPlan,
    share: tuple[int, int] = (0, 1),
) -> Iterator[Iterable[CellAnswers]]:
    """What the wanted cells (by key) answered to a batch of questions whose pictures are decoded, group by group.

    `share` (i, n) is the i-th of n parts of the groups; a replay is one group.
    """
    i, n = share
    if way.mode == "full":
        in_order = sorted(cells, key=lambda cell: (cell.layer, str(cell.target)))
        asked_for = [cell for cell in in_order[i::n] if cell.key in wanted]
        yield from ([result] for result in recompute(loaded, _padded(loaded, ready), asked_for, options))
    elif way.mode == "replay" and way.rows is not None:
        at_rows = [_where_rows_are(cell, cells) for cell in cells if cell.key in wanted]
        padded = _padded(loaded, ready, blind=not way.needs_pixels(loaded.family))
        yield replay(loaded, padded, at_rows, stored=way.rows.batch(ready), options=options)
    else:
        layers = sorted({layer for cell in cells for layer in cell.reads})
        prefill = run_prefill(loaded, _padded(loaded, ready), layers=layers)
        beside = options_beside(prefill, options)
        for group in islice(groups_of(prefill, cells, beside), i, None, n):
            yield branch_from(prefill, [cell for cell in group if cell.key in wanted], beside)


def _where_rows_are(cell: BranchCell, cells: Sequence[BranchCell]) -> BranchCell:
    """A cell that adds nothing can do so at any layer: at one where rows are read anyway."""
    if cell.delta_d.any():
        return cell
    below = min((other.below for other in cells if other.delta_d.any()), default=cell.below)
    return replace(cell, layer=below if cell.place == "resid_post" else below + 1)


def _padded(loaded: LoadedModel, ready: Sequence[EncodedQuestion], *, blind: bool = False) -> PaddedBatch:
    samples = [one.encoded for one in ready if one.encoded is not None]
    if blind:
        samples = [replace(sample, pixels=None) for sample in samples]
    return pad_batch(samples, padding_side="left", pad_id=loaded.pad_id)
