"""How long a model's answers are, for estimates of the time of decoding: from earlier answers, or from a few asked first.

A batch is decoded until its last answer ends, and answers that have ended leave it. So two numbers count: the steps of a batch,
and the tokens of an answer. What finished jobs decoded is kept in `calibration.json`; before the first one, a few questions are
answered without steering.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from steercache.answers.ways import ExecutionPlan, groups_of_results
from steercache.benchmarks.task import EncodedQuestion
from steercache.cache.calibration import record_costs, recorded_costs
from steercache.cache.paths import RootPaths
from steercache.cells.arms import ArmCell
from steercache.cells.options import EvalOptions
from steercache.models.spec import LoadedModel, ModelSpec
from steercache.steering.cells import CellAnswers

N_ASKED: Final = 6  # questions answered to find out
LEAST_ANSWERS: Final = 16 * N_ASKED  # for fewer answers than these, finding out would take too large a part of the time
_NAMES: Final = frozenset({"n_steps", "n_more"})


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerLengths:
    """Decoded tokens after the first: `n_steps` of a batch, `n_more` of an answer, in the mean."""

    n_steps: float
    n_more: float


@dataclass(slots=True)
class DecodedLengths:
    """Adds up what is decoded, by kind of answer; `mean_of` a kind is None where nothing was."""

    _sums: dict[str, list[float]] = field(default_factory=dict)

    def add(self, kind: str, lengths: Sequence[int]) -> None:
        """Count the answers of one group of results, which were decoded together."""
        if lengths:
            sums = self._sums.setdefault(kind, [0.0, 0.0, 0.0, 0.0])
            for i, x in enumerate((max(lengths), 1, sum(lengths), len(lengths))):
                sums[i] += x

    def mean_of(self, kind: str) -> AnswerLengths | None:
        """The means over the groups and answers of a kind."""
        if kind not in self._sums:
            return None
        steps, n_groups, more, n_answers = self._sums[kind]
        return AnswerLengths(n_steps=steps / n_groups, n_more=more / n_answers)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of answers that were counted."""
        return tuple(self._sums)


def decoded_lengths(result: CellAnswers) -> list[int]:
    """Tokens that were decoded after the first for each sample, the one that ended the answer among them.

    A cell whose first token ended its answer needed none.
    """
    return [max(0, len(tokens) - 1 + ended) for tokens, ended in zip(result.tokens, result.ended, strict=True)]


def known_lengths(
    paths: RootPaths, spec: ModelSpec, options: EvalOptions, kinds: Sequence[str]
) -> dict[str, AnswerLengths]:
    """What was decoded before for answers of these kinds, where anything was."""
    found = {}
    for kind in kinds:
        numbers = recorded_costs(paths, _key(spec, options, kind), _NAMES)
        if numbers is not None:
            found[kind] = AnswerLengths(**numbers)
    return found


def record_lengths(paths: RootPaths, spec: ModelSpec, options: EvalOptions, decoded: DecodedLengths) -> None:
    """Keep what a finished job decoded, half way from what was known."""
    before = known_lengths(paths, spec, options, decoded.kinds)
    for kind in decoded.kinds:
        now = decoded.mean_of(kind)
        if now is not None and options.decoding.limit_of(kind) > 1:
            old = before.get(kind, now)
            means = {name: (getattr(old, name) + getattr(now, name)) / 2 for name in _NAMES}
            record_costs(paths, _key(spec, options, kind), means)


def lengths_here(
    paths: RootPaths,
    loaded: LoadedModel,
    ready: Mapping[str, Sequence[EncodedQuestion]],
    baseline: ArmCell,
    options: EvalOptions,
) -> dict[str, AnswerLengths]:
    """Lengths of the answers to questions of each kind, whose pictures are decoded: known, or found out by asking them now."""
    known = known_lengths(paths, loaded.spec, options, tuple(ready))
    for kind, questions in ready.items():
        if kind in known or options.decoding.limit_of(kind) == 1 or not questions:
            continue
        cell = baseline.branch_cell("baseline", loaded.spec.hidden_size)
        how = replace(options.branching(kind), tie_nats=0.0)
        decoded = DecodedLengths()
        for group in groups_of_results(
            loaded, questions, [cell], wanted=frozenset({cell.key}), options=how, way=ExecutionPlan(mode="full")
        ):
            decoded.add(kind, [length for result in group for length in decoded_lengths(result)])
        found = decoded.mean_of(kind)
        if found is not None:
            known[kind] = found
    return known


def _key(spec: ModelSpec, options: EvalOptions, kind: str) -> str:
    return f"lengths/{spec.fingerprint[:16]}/{kind}/{options.decoding.limit_of(kind)}"
