"""Answers that other processes compute: they get questions and cells, and give back what the model replied.

A task is a batch of questions with all the cells that its answers lack, so batches and groups of cells are those of a run in
one process, and so are the bits. Pictures and rows are read where they are needed. Answers are scored and written by the caller
alone.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from steercache.answers.model_workers import ModelWorker, packed
from steercache.answers.replies import CellReply, replies_to, with_pixels
from steercache.answers.ways import ExecutionPlan
from steercache.benchmarks.task import EncodedQuestion
from steercache.cells.arms import ArmCell
from steercache.cells.options import EvalOptions
from steercache.core.ids import canonical_json
from steercache.core.numerics import numeric_differences
from steercache.engines.crew import Crew
from steercache.steering.branch import BranchOptions
from steercache.store.durable import make_folder, read_bytes, write_file_atomically

SLICE_S: Final = 20.0  # after which a worker says what it has, so that a kill costs no more
OTHER_NUMERICS: Final = "other_numerics.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingBatch:
    """A batch of questions, the cells (by id) that lack answers to it, how these are run, and in which way."""

    batch: Sequence[EncodedQuestion]
    missing: frozenset[str]
    options: BranchOptions
    way: ExecutionPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskReplies:
    """What a worker has of a batch: questions (by number) whose pictures cannot be read, with the reason, and replies by group
    to the others. `left` are cells that are still to be run; `numerics` are the worker's, where they are not the caller's."""

    broken: Mapping[int, str]
    groups: tuple[tuple[CellReply, ...], ...]
    left: frozenset[str]
    numerics: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerTask:
    """One batch for a worker, packed; `cells` are the same bytes for all batches. `first`: say which pictures are broken."""

    batch_no: int
    cells: bytes = field(repr=False)
    batch: bytes = field(repr=False)
    wanted: frozenset[str]
    share: tuple[int, int] = (0, 1)
    first: bool = True

    def on(self, host: ModelWorker) -> TaskReplies:
        """Run cells over the batch, for at most `SLICE_S` seconds and one group more."""
        by_id, (batch, options, way) = host.unpacked_once(self.cells), host.unpacked(self.batch)
        blind = not way.needs_pixels(host.loaded.family)
        ready, broken = (list(batch), []) if blind else with_pixels(batch)
        number = {one.sample_id: i for i, one in enumerate(batch)}
        groups: list[tuple[CellReply, ...]] = []
        left, began = self.wanted, time.monotonic()
        replies = replies_to(host.loaded, ready, by_id, wanted=self.wanted, options=options, way=way, share=self.share)
        for group in replies if ready else ():
            groups.append(tuple(group))
            left -= {reply.key for reply in group}
            if time.monotonic() - began > SLICE_S:
                break
        else:
            left = frozenset()  # what is left then is another's share
        return TaskReplies(
            broken={number[one.sample_id]: one.error or "" for one in broken} if self.first else {},
            groups=tuple(groups),
            left=left,
            numerics=host.other_numerics,
        )


def with_crew(options: EvalOptions, crew: Crew[Any, Any] | None) -> EvalOptions:
    """The same options, with answers computed by these workers (`model_workers.model_crew`)."""
    return replace(options, compute=replace(options.compute, crew=crew))


def ask_crew(
    crew: Crew[AnswerTask, TaskReplies],
    pending: Sequence[PendingBatch],
    by_id: Mapping[str, ArmCell],
    take: Callable[[PendingBatch, TaskReplies], None],
) -> None:
    """Have all batches answered; `take` hears of each part as it comes. Raises as `engines.crew.do_work`."""
    if not pending:
        return
    cells, n_shares = packed(dict(by_id)), -(-crew.n_workers // len(pending))
    tasks = [
        AnswerTask(
            batch_no=no,
            cells=cells,
            batch=packed((_light(one.batch), one.options, one.way.for_batch(one.batch))),
            wanted=one.missing,
            share=(i, n),
            first=not i,
        )
        for no, one in enumerate(pending)
        for n in (1 if one.way.mode == "replay" else n_shares,)
        for i in range(n)
    ]

    def done(task: AnswerTask, replies: TaskReplies) -> None:
        take(pending[task.batch_no], replies)
        if replies.left:
            tasks.append(replace(task, wanted=replies.left, first=False))

    crew.do(tasks, done)


def keep_other_numerics(folder: Path, numerics: Mapping[str, Any]) -> None:
    """Note beside a sweep's answers that some were computed under these numerics too."""
    path = folder / OTHER_NUMERICS
    try:
        known = json.loads(read_bytes(path))
    except (OSError, ValueError, RecursionError):
        known = []
    if any(not numeric_differences(one, numerics) for one in known):
        return
    make_folder(folder)
    write_file_atomically(path, canonical_json([*known, numerics]))


def _light(batch: Sequence[EncodedQuestion]) -> tuple[EncodedQuestion, ...]:
    """Questions without what only the caller needs."""
    return tuple(
        replace(one, images=(), encoded=None if one.encoded is None else replace(one.encoded, patches=None))
        for one in batch
    )
