"""Questions through the model: batched by length, every setting over each batch in the way that was chosen."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from steercache.answers.elsewhere import AnswerTask, PendingBatch, TaskReplies, ask_crew, keep_other_numerics
from steercache.answers.lengths import DecodedLengths, record_lengths
from steercache.answers.replies import CellReply, replies_to, with_pixels
from steercache.answers.store import Key, StoredAnswer, SweepWriter
from steercache.answers.target_tokens import TargetTokens, selected_tokens
from steercache.answers.ties import tie_nats_here
from steercache.answers.ways import BRANCHED, ExecutionPlan
from steercache.benchmarks.comparison import make_answer
from steercache.benchmarks.task import EncodedQuestion, Progress
from steercache.cache.calibration import record_outcome
from steercache.cells.arms import ArmCell
from steercache.cells.options import EvalOptions
from steercache.core.trials import Answer, Mode
from steercache.engines.crew import Crew
from steercache.models.rope import length_rule
from steercache.models.spec import LoadedModel, TokenizerBundle
from steercache.steering.branch import BranchOptions
from steercache.steering.cells import NOT_FINITE
from steercache.trace.batches import plan_batches


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a run was predicted to take for so many answers, before corrections, by the costs kept under `key`."""

    key: str
    seconds: float
    n_answers: int


@dataclass(slots=True, kw_only=True)
class AnswerTally:
    """What came out while answers were computed. `near_ties` lists what another batching may answer otherwise; `full` has the
    cells that could not branch, and why; `n_not_finite` answers failed because a forward pass was not finite; `decoded` has the
    lengths of the answers; `missed` says by target written as SQL and question whether it selected nothing."""

    n_computed: int = 0
    n_reused: int = 0
    n_not_finite: int = 0
    near_ties: list[Key] = field(default_factory=list)
    full: dict[str, str] = field(default_factory=dict)
    decoded: DecodedLengths = field(default_factory=DecodedLengths, repr=False)
    missed: dict[str, dict[str, bool]] = field(default_factory=dict, repr=False)

    def lines(self) -> list[str]:
        """One line for every target written as SQL that selected nothing of some questions, which were not steered."""
        lines = []
        for text, questions in self.missed.items():
            places = [place for place, missed in questions.items() if missed]
            if places:
                some = ", ".join(places[:5]) + (", ..." if len(places) > 5 else "")
                lines.append(
                    f"{text}: no token of {len(places)} of {len(questions)} questions, which are not steered ({some})"
                )
        return lines


@dataclass(slots=True, kw_only=True)
class Runner:
    """Answers settings over questions, in a `way` that may change between runs. `known` answers are not asked for again;
    `tally` counts what comes out. `planned` is how many answers are wanted in all, where the caller knows."""

    loaded: LoadedModel = field(repr=False)
    options: EvalOptions
    writer: SweepWriter = field(repr=False)
    known: dict[Key, StoredAnswer] = field(repr=False)
    progress: Progress | None = None
    planned: int | None = None
    way: ExecutionPlan = BRANCHED
    expected: Expected | None = None
    tally: AnswerTally = field(default_factory=AnswerTally)
    _selected: TargetTokens = field(default_factory=TargetTokens, repr=False)
    _ties: list[float | None] = field(default_factory=list)
    _total: int = 0
    _done: int = 0

    @property
    def tie_nats(self) -> float | None:
        """Gaps between logits up to this are near-ties; measured at the first batch that is computed, once per machine."""
        if not self._ties:
            self._ties.append(tie_nats_here(self.writer.cache, self.loaded))
        return self._ties[0]

    def run(self, asked: Sequence[EncodedQuestion], settings: Sequence[ArmCell]) -> dict[Key, Answer]:
        """Every answer of `settings` to `asked`, failed ones among them."""
        by_id = {s.cell.cell_id: s for s in settings}
        self.writer.ask_for({cell_id: s.cell for cell_id, s in by_id.items()})
        self._total += len(asked) * len(by_id)
        found: dict[Key, Answer] = {}
        if by_id and asked and self.expected is not None:
            _ = self.tie_nats  # measured before the clock starts
        started, n_before = time.perf_counter(), self.tally.n_computed

        def keep(answers: Sequence[Answer]) -> None:
            found.update({(a.cell_id, a.sample_id): a for a in answers})
            self.writer.add(answers)
            self.count(len(answers))

        for answers in self._known(asked, by_id):
            keep(answers)
        batches, crew = question_batches(asked, self.options, self.loaded.bundle), self.options.compute.crew
        if crew is None:
            for batch in batches:
                for answers in self._batch(batch, by_id):
                    keep(answers)
        else:
            self._elsewhere(crew, list(batches), by_id, keep)
        self._keep_selected(asked)
        self._learn(time.perf_counter() - started, self.tally.n_computed - n_before)
        return found

    def _keep_selected(self, asked: Sequence[EncodedQuestion]) -> None:
        """Keep the tokens that targets written as SQL selected, and note where they selected none, now or before."""
        cache, spec = self.writer.cache, self.loaded.spec
        self._selected.keep(cache, spec)
        for text in self.options.axes.clauses:
            known = selected_tokens(cache, spec, text)
            of_target = self.tally.missed.setdefault(text, {})
            of_target |= {one.place: not known[one.sample_id].any() for one in asked if one.sample_id in known}

    def _learn(self, seconds: float, n_answers: int) -> None:
        """Correct later predictions by this run, where it did what was predicted (a race or a failed picture does less)."""
        expected, self.expected = self.expected, None
        if (
            expected is not None
            and expected.key
            and n_answers == expected.n_answers
            and self.options.compute.crew is None
        ):
            paths = self.writer.cache.paths
            record_outcome(paths, expected.key, predicted_s=expected.seconds, seconds=seconds)
            record_lengths(paths, self.loaded.spec, self.options, self.tally.decoded)

    def count(self, n_answers: int) -> None:
        """Count answers that are done, or that are not needed."""
        self._done += n_answers
        if self.progress is not None:
            self.progress("answers", self._done, self.planned or self._total)

    def _known(self, asked: Sequence[EncodedQuestion], by_id: Mapping[str, ArmCell]) -> Iterator[list[Answer]]:
        """Answers for which nothing is run: of questions that cannot be asked, and those that the cache has."""
        broken = [one for one in asked if one.encoded is None]
        yield [failed_answer(one, cell_id) for one in broken for cell_id in by_id]
        reused = [
            (one, cell_id, self.known[cell_id, one.sample_id])
            for one in asked
            if one.encoded is not None
            for cell_id in by_id
            if (cell_id, one.sample_id) in self.known
        ]
        self.tally.n_reused += len(reused)
        yield [scored(one, cell_id, said) for one, cell_id, said in reused]

    def _missing(self, batch: Sequence[EncodedQuestion], by_id: Mapping[str, ArmCell]) -> frozenset[str]:
        """Cells that lack an answer to the batch."""
        return frozenset(i for i in by_id if any((i, one.sample_id) not in self.known for one in batch))

    def _branching(self, batch: Sequence[EncodedQuestion]) -> BranchOptions:
        return replace(self.options.branching(batch[0].kind), tie_nats=self.tie_nats)

    def _elsewhere(
        self,
        crew: Crew[AnswerTask, TaskReplies],
        batches: Sequence[Sequence[EncodedQuestion]],
        by_id: Mapping[str, ArmCell],
        keep: Callable[[Sequence[Answer]], None],
    ) -> None:
        """Have workers run what is missing; what they reply is scored here."""
        lacking = [(batch, missing) for batch in batches if (missing := self._missing(batch, by_id))]
        pending = [
            PendingBatch(batch=batch, missing=missing, options=self._branching(batch), way=self.way)
            for batch, missing in lacking
        ]

        def take(asked: PendingBatch, replies: TaskReplies) -> None:
            if replies.numerics is not None:
                keep_other_numerics(self.writer.folder, replies.numerics)
            failed = [replace(asked.batch[i], encoded=None, error=why) for i, why in replies.broken.items()]
            keep([failed_answer(one, cell_id) for one in failed for cell_id in by_id if cell_id in asked.missing])
            ready = [one for i, one in enumerate(asked.batch) if i not in replies.broken]
            for group in replies.groups:
                keep(self._scored(ready, group))

        ask_crew(crew, pending, by_id, take)

    def _batch(self, batch: Sequence[EncodedQuestion], by_id: Mapping[str, ArmCell]) -> Iterator[list[Answer]]:
        missing = self._missing(batch, by_id)
        if not missing:
            return
        ready, broken = with_pixels(batch) if self.way.needs_pixels(self.loaded.family) else (list(batch), [])
        yield [failed_answer(one, cell_id) for one in broken for cell_id in by_id if cell_id in missing]
        if not ready:
            return
        options = self._branching(ready)
        for group in replies_to(self.loaded, ready, by_id, wanted=missing, options=options, way=self.way):
            yield self._scored(ready, group)

    def _scored(self, ready: Sequence[EncodedQuestion], group: Sequence[CellReply]) -> list[Answer]:
        """The answers of cells that were run together, scored and counted; those that are known are left out."""
        answers = [answer for reply in group for answer in self._of_cell(ready, reply)]
        self.tally.decoded.add(ready[0].kind, [length for reply in group for length in reply.lengths])
        self.tally.n_computed += len(answers)
        return answers

    def _of_cell(self, ready: Sequence[EncodedQuestion], reply: CellReply) -> Iterator[Answer]:
        for target, selected_bt in reply.selected.items():
            samples = [one.encoded for one in ready if one.encoded is not None]
            self._selected.add(target, samples, selected_bt)
        if reply.reason is not None and self.way.mode != "full":
            self.tally.full[reply.key] = reply.reason
        for i, one in enumerate(ready):
            if (reply.key, one.sample_id) in self.known:
                continue
            if not reply.finite[i]:
                self.tally.n_not_finite += 1
                yield failed_answer(replace(one, error=NOT_FINITE), reply.key, mode=reply.mode)
                continue
            if reply.near_ties[i]:
                self.tally.near_ties.append((reply.key, one.sample_id))
            said = StoredAnswer(
                raw=reply.raws[i], margin=reply.margins[i], margin_of=reply.margins_of[i], mode=reply.mode
            )
            yield scored(one, reply.key, said)


def question_batches(
    asked: Sequence[EncodedQuestion], options: EvalOptions, bundle: TokenizerBundle
) -> Iterator[tuple[EncodedQuestion, ...]]:
    """Questions of one kind and like length together; depends on the questions alone, not on what is known already."""
    for kind in sorted({one.kind for one in asked}):
        same = [one for one in asked if one.kind == kind and one.encoded is not None]
        lengths = [one.encoded.n_tokens for one in same if one.encoded is not None]
        rule = length_rule(bundle, n_new=options.decoding.limit_of(kind) - 1)
        for members in plan_batches(lengths, tokens_per_batch=options.compute.tokens_per_batch, rule=rule):
            yield tuple(same[i] for i in members)


def failed_answer(one: EncodedQuestion, cell_id: str, *, mode: Mode | None = None) -> Answer:
    """The failed answer of a sample that could not be encoded, or whose forward pass was not finite."""
    return Answer(
        cell_id=cell_id,
        sample_id=one.sample_id,
        split=one.split,
        status="failed",
        error=f"{one.place}: {one.error or 'could not be asked'}",
        mode=mode,
    )


def scored(one: EncodedQuestion, cell_id: str, said: StoredAnswer) -> Answer:
    """The model's text for a question, scored as an answer."""
    return make_answer(
        replace(one.labels, split=one.split),
        said.raw,
        cell_id=cell_id,
        sample_id=one.sample_id,
        margin=said.margin,
        margin_of=said.margin_of,
        mode=said.mode,
    )
