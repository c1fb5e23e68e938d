"""What is still to be computed of some settings over some questions, batch by batch: what a prediction of costs is about."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np

from steercache.answers.batches import question_batches
from steercache.answers.lengths import AnswerLengths
from steercache.answers.store import Key
from steercache.benchmarks.task import EncodedQuestion
from steercache.cells.arms import ArmCell
from steercache.cells.options import EvalOptions
from steercache.core.examples import TOKEN_KINDS, EncodedSample
from steercache.models.spec import LoadedModel
from steercache.queries.token_clause import plan_tokens
from steercache.queries.token_table import facts_of

TEXT, IMAGE, TEMPLATE, VIDEO, AUDIO = (
    TOKEN_KINDS.index(kind) for kind in ("text", "image", "template", "video", "audio")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CellKind:
    """Cells alike in cost: steered at `layer` (None: the baseline), changing nothing before column `start`, or (`moves` False)
    nothing at all."""

    layer: int | None
    start: int = 0
    moves: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchWork:
    """One batch of `n_seq` questions padded to `n_tokens`: how many cells of each kind, and `n_more` tokens decoded after the
    first, at most; `n_likely` of them, where the answers that can be given are known to be shorter; or `lengths`, where answers
    like these were decoded before."""

    n_seq: int
    n_tokens: int
    n_more: int
    cells: tuple[tuple[CellKind, int], ...]
    n_likely: int | None = None
    lengths: AnswerLengths | None = None

    @property
    def n_steps(self) -> float:
        """Steps in which the batch is decoded after the first token, as far as is known."""
        likely = self.n_likely if self.lengths is None else self.lengths.n_steps
        return self.n_more if likely is None else min(self.n_more, likely)

    @property
    def n_row_steps(self) -> float:
        """Tokens decoded after the first for each answer, as far as is known."""
        return self.n_steps if self.lengths is None else min(self.n_more, self.lengths.n_more)

    @property
    def n_cells(self) -> int:
        """Cells of all kinds."""
        return sum(n for _, n in self.cells)


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingWork:
    """All batches that something is missing of; answers to compute, and those that the cache has already."""

    batches: tuple[BatchWork, ...] = field(repr=False)
    n_to_compute: int
    n_cached: int

    @property
    def first_tokens_only(self) -> bool:
        """Whether no answer is longer than a token."""
        return all(batch.n_more == 0 for batch in self.batches)


def work_of(
    asked: Sequence[EncodedQuestion],
    settings: Sequence[ArmCell],
    known: Collection[Key],
    *,
    loaded: LoadedModel,
    options: EvalOptions,
    lengths: Mapping[str, AnswerLengths] = MappingProxyType({}),
) -> PendingWork:
    """What `Runner.run` would have to do. A batch is computed for every cell that lacks an answer of its questions. `lengths`
    are those of answers, by kind, where they are known."""
    by_id = {s.cell.cell_id: s for s in settings}
    n_cached, n_to_compute, batches = 0, 0, []
    firsts = _firsts(asked, settings, loaded)
    for batch in question_batches(asked, options, loaded.bundle):
        missing = Counter(i for i in by_id for one in batch if (i, one.sample_id) not in known)
        n_to_compute += missing.total()
        n_cached += len(by_id) * len(batch) - missing.total()
        if missing:
            work = _batch_work(batch, [by_id[i] for i in missing], loaded, options, firsts)
            batches.append(replace(work, lengths=lengths.get(batch[0].kind)))
    return PendingWork(batches=tuple(batches), n_to_compute=n_to_compute, n_cached=n_cached)


def _batch_work(
    batch: Sequence[EncodedQuestion],
    settings: Sequence[ArmCell],
    loaded: LoadedModel,
    options: EvalOptions,
    firsts: Mapping[str, Mapping[str, int]],
) -> BatchWork:
    samples = [one.encoded for one in batch if one.encoded is not None]
    width = max(sample.n_tokens for sample in samples)
    starts: dict[str, int] = {}
    for target in {part.target for setting in settings for part in setting.parts} | {"all"}:
        known = firsts.get(target)
        at = [_first(s, target) if known is None else known[s.sample_id] for s in samples]
        starts[target] = (
            0 if _looks_ahead(loaded) else min(width - s.n_tokens + i for s, i in zip(samples, at, strict=True))
        )
    last = loaded.spec.n_layers - 1
    kinds = Counter(_kind(setting, starts, last=last) for setting in settings)
    return BatchWork(
        n_seq=len(samples),
        n_tokens=width,
        n_more=options.decoding.limit_of(batch[0].kind) - 1,
        n_likely=_likely(batch, loaded),
        cells=tuple(
            sorted(kinds.items(), key=lambda item: (-1 if item[0].layer is None else item[0].layer, item[0].start))
        ),
    )


def _likely(batch: Sequence[EncodedQuestion], loaded: LoadedModel) -> int | None:
    """Tokens after the first of the longest option, and the one that ends it: a batch is decoded until all its answers end."""
    texts = {str(one.labels.answer) for one in batch if one.labels.answer is not None}
    if not texts or batch[0].kind not in ("choice", "count"):
        return None
    return max(len(loaded.tokenizer.encode(text, add_special_tokens=False)) for text in texts)


def _kind(setting: ArmCell, starts: Mapping[str, int], *, last: int) -> CellKind:
    clauses = setting.clauses
    moves = any(  # of the last block's output only the last token is read
        part.layer < last or part.target in ("all", "last") or part.target in clauses for part in setting.parts
    )
    start = min((starts[part.target] for part in setting.parts), default=starts["all"])
    return CellKind(layer=None if setting.below is None else max(0, setting.below), start=start, moves=moves)


def _looks_ahead(loaded: LoadedModel) -> bool:
    """Whether tokens of a prompt attend to later ones (PaliGemma), so that a change reaches all of it."""
    token_types = loaded.family.token_types
    return token_types is not None and token_types[1] == "suffix"


def _firsts(
    asked: Sequence[EncodedQuestion], settings: Sequence[ArmCell], loaded: LoadedModel
) -> dict[str, dict[str, int]]:
    """By target written as SQL and sample: the first token that is selected, the last where none is; 0 where activations
    decide."""
    found: dict[str, dict[str, int]] = {}
    samples = [one.encoded for one in asked if one.encoded is not None]
    for text, clause in {text: clause for s in settings for text, clause in s.clauses.items()}.items():
        if clause.layers:
            found[text] = dict.fromkeys((one.sample_id for one in samples), 0)
            continue
        weights = plan_tokens(clause, [facts_of(one) for one in samples], tokenizer=loaded.bundle.tokenizer)
        found[text] = {
            sample.sample_id: int(np.flatnonzero(one)[0]) if one.any() else len(one) - 1
            for sample, one in zip(samples, weights, strict=True)
        }
    return found


def _first(sample: EncodedSample, target: str) -> int:
    """The first token that a target steers in a sample."""
    shown = (IMAGE, VIDEO, AUDIO)
    kinds = {
        "image": (IMAGE,),
        "video": (VIDEO,),
        "audio": (AUDIO,),
        "text": (TEXT, TEMPLATE),
        "both": (*shown, TEXT, TEMPLATE),
    }.get(target)
    if kinds is None:
        return 0 if target == "all" else sample.n_tokens - 1
    hit = np.flatnonzero(np.isin(sample.kind, kinds))
    return int(hit[0]) if len(hit) else 0
