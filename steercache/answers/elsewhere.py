"""Answers that other processes compute: they get questions and cells, and give back what the model replied.

A task is a batch of questions with all the cells that its answers lack, so batches and groups of cells are those of a run in
one process, and so are the bits. Each worker opens the cache and loads the model itself; pictures and rows are read where they
are needed. Answers are scored and written by the caller alone.
"""

import io
import json
import pickle
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, cast

import torch

from steercache.answers.replies import CellReply, replies_to, with_pixels
from steercache.answers.ways import ExecutionPlan
from steercache.benchmarks.task import EncodedQuestion
from steercache.cache.handle import CacheFolder
from steercache.cache.source import RunSource
from steercache.cells.arms import ArmCell
from steercache.cells.options import EvalOptions
from steercache.core.errors import NotFoundError, UsageError
from steercache.core.ids import canonical_json
from steercache.core.numerics import numeric_differences
from steercache.engines.crew import Crew, EngineOptions, crew_of
from steercache.models.memory import freed_memory_kept
from steercache.models.spec import LoadedModel, TokenizerBundle
from steercache.steering.branch import BranchOptions
from steercache.store.durable import make_folder, read_bytes, write_file_atomically
from steercache.trace.numerics import numerics_of

SLICE_S: Final = 20.0  # after which a worker says what it has, so that a kill costs no more
OTHER_NUMERICS: Final = "other_numerics.json"

Load = Callable[[], LoadedModel]
"""Loads a model in another process; picklable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingBatch:
    """A batch of questions, the cells (by id) that lack answers to it, how these are run, and in which way."""

    batch: Sequence[EncodedQuestion]
    missing: frozenset[str]
    options: BranchOptions
    way: ExecutionPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerTask:
    """One batch for a worker, packed; `cells` are the same bytes for all batches. `first`: say which pictures are broken."""

    batch_no: int
    cells: bytes = field(repr=False)
    packed: bytes = field(repr=False)
    wanted: frozenset[str]
    share: tuple[int, int] = (0, 1)
    first: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskReplies:
    """What a worker has of a batch: questions (by number) whose pictures cannot be read, with the reason, and replies by group
    to the others. `left` are cells that are still to be run; `numerics` are the worker's, where they are not the caller's."""

    broken: Mapping[int, str]
    groups: tuple[tuple[CellReply, ...], ...]
    left: frozenset[str]
    numerics: Mapping[str, Any] | None


@contextmanager
def answer_crew(
    loaded: LoadedModel,
    load: Load | None,
    root: Path,
    engine: EngineOptions,
    *,
    mixed_numerics: bool = False,
    on_note: Callable[[str], None] = lambda note: None,
) -> Iterator[Crew[AnswerTask, TaskReplies] | None]:
    """Workers for answers of the model `loaded`, which each loads by `load`; None where the caller is to compute itself.

    With `mixed_numerics` a worker that computes other last bits than this process takes part, and sweeps record it.

    Raises:
        UsageError: a model that cannot be loaded elsewhere. As `engines.crew.do_work` otherwise, from the crew.
    """
    if not engine.elsewhere:
        yield None
        return
    if load is None:
        raise UsageError(
            "each worker loads the model itself, and this one is an object in memory",
            hint="name the model, its manifest or its folder; or answer in this process",
        )
    start = partial(
        AnswerWorker,
        load,
        root.absolute(),
        _weights(loaded),
        numerics=numerics_of(loaded),
        mixed_numerics=mixed_numerics,
    )

    def learn(about: Mapping[str, Any]) -> None:
        if about:
            on_note(f"a worker computes under other numerics: {'; '.join(about['differences'])}")

    with crew_of(f"answers of {loaded.spec.name}", start, engine, on_worker=learn, on_note=on_note) as crew:
        yield crew


def with_crew(options: EvalOptions, crew: Crew[Any, Any] | None) -> EvalOptions:
    """The same options, with answers computed by these workers."""
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
    cells = _packed(dict(by_id))
    n_shares = -(-crew.n_workers // len(pending))
    tasks = [
        AnswerTask(
            batch_no=no,
            cells=cells,
            packed=_packed((_light(one.batch), one.options, one.way.for_batch(one.batch))),
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


class AnswerWorker:
    """A worker's model and cache.

    Raises:
        UsageError: it would compute other bits than the caller, or has other weights. NotFoundError: it does not see the cache.
    """

    def __init__(
        self,
        load: Load,
        root: Path,
        weights: Mapping[str, str],
        *,
        numerics: Mapping[str, Any],
        mixed_numerics: bool = False,
    ) -> None:
        if not root.is_dir():
            raise NotFoundError(
                "this node does not see the cache",
                place=str(root),
                hint="put the cache on a file system that all nodes share, under the same path",
            )
        torch.set_num_threads(int(numerics["threads"]))  # the number moves bits
        self._loaded, self._cache = load(), CacheFolder(root)
        if (found := _weights(self._loaded)) != weights:
            raise UsageError(
                f"this process loads another model than the caller's: {dict(found)}, not {dict(weights)}",
                place=self._loaded.spec.name,
                hint="give all workers the same files of the model, and the same dtype",
            )
        own = numerics_of(self._loaded)
        self._differences = numeric_differences(numerics, own)
        self._numerics = own if self._differences else None
        if self._differences and not mixed_numerics:
            raise UsageError(
                f"this process computes under other numerics than the caller: {'; '.join(self._differences)}",
                place=self._loaded.spec.name,
                hint="give all workers the same kind of machine, environment variables and library versions",
            )

    @property
    def about(self) -> Mapping[str, Any]:
        """In what its numerics differ from the caller's, where they do."""
        return {"differences": self._differences} if self._differences else {}

    def run(self, task: AnswerTask) -> TaskReplies:
        """Run cells over a batch, for at most `SLICE_S` seconds and one group more."""
        by_id = self._cells(task.cells)
        batch, options, way = self._unpacked(task.packed)
        blind = not way.needs_pixels(self._loaded.family)
        ready, broken = (list(batch), []) if blind else with_pixels(batch)
        number = {one.sample_id: i for i, one in enumerate(batch)}
        groups: list[tuple[CellReply, ...]] = []
        left, began = task.wanted, time.monotonic()
        with freed_memory_kept():
            for group in (
                replies_to(self._loaded, ready, by_id, wanted=task.wanted, options=options, way=way, share=task.share)
                if ready
                else ()
            ):
                groups.append(tuple(group))
                left -= {reply.key for reply in group}
                if time.monotonic() - began > SLICE_S:
                    break
            else:
                left = frozenset()  # what is left then is another's share
        return TaskReplies(
            broken={number[one.sample_id]: one.error or "" for one in broken} if task.first else {},
            groups=tuple(groups),
            left=left,
            numerics=self._numerics,
        )

    def _unpacked(self, packed: bytes) -> Any:
        return _Unpickler(io.BytesIO(packed), self._loaded.bundle, self._cache).load()

    @lru_cache(maxsize=2)  # noqa: B019  a worker lives as long as its process
    def _cells(self, packed: bytes) -> Mapping[str, ArmCell]:
        return cast(Mapping[str, ArmCell], self._unpacked(packed))


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


def _weights(loaded: LoadedModel) -> dict[str, str]:
    spec = loaded.spec
    return {"weights": spec.fingerprint, "tokenizer": spec.tokenizer_digest, "dtype": spec.dtype}


def _light(batch: Sequence[EncodedQuestion]) -> tuple[EncodedQuestion, ...]:
    """Questions without what only the caller needs."""
    return tuple(
        replace(one, images=(), encoded=None if one.encoded is None else replace(one.encoded, patches=None))
        for one in batch
    )


class _Pickler(pickle.Pickler):
    """Leaves out what each worker has itself: tokenizers, and the rows of runs."""

    def persistent_id(self, obj: Any) -> Any:
        if isinstance(obj, TokenizerBundle):
            return ("bundle", None)
        return ("rows", obj.run_id) if isinstance(obj, RunSource) else None

    def reducer_override(self, obj: Any) -> Any:
        return (MappingProxyType, (dict(obj),)) if isinstance(obj, MappingProxyType) else NotImplemented


class _Unpickler(pickle.Unpickler):
    """Puts the worker's own in; what it reads came from the caller's process, never from a file."""

    def __init__(self, file: io.BytesIO, bundle: TokenizerBundle, cache: CacheFolder) -> None:
        super().__init__(file)
        self._bundle, self._cache = bundle, cache

    def persistent_load(self, pid: Any) -> Any:
        kind, run_id = pid
        return self._bundle if kind == "bundle" else self._cache.source(run_id)


def _packed(what: Any) -> bytes:
    file = io.BytesIO()
    try:
        _Pickler(file, pickle.HIGHEST_PROTOCOL).dump(what)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise UsageError(
            f"these questions or vectors cannot be sent to workers: {error}", hint="answer in one process"
        ) from error
    return file.getvalue()
