"""From answers to a table: what each arm chose on the search split, how it compares, and what its controls reached."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from steercache.answers.damage import Damage
from steercache.answers.store import Key
from steercache.benchmarks.comparison import Comparison, RankedGain, adjusted, compare, ranked_gain
from steercache.benchmarks.task import EncodedQuestion, Part
from steercache.benchmarks.whatsup import WhatsUpScore, whatsup_score
from steercache.cells.arms import Arm, ArmCell, Role
from steercache.core.trials import Answer, Cell
from steercache.stats.choice import SelectionBias, choose_cell, selection_bias, with_test

Answers = Mapping[Key, Answer]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlResult:
    """What one control gained at the setting that it chose itself (`RankedGain`), and what that breaks (None: not measured)."""

    name: str
    kind: str
    cell: Cell
    gain: float
    n: int
    n_failed: int
    damage: Damage | None = None

    @property
    def ranked(self) -> RankedGain:
        """What it is ranked by."""
        return RankedGain(gain=self.gain, n=self.n, n_failed=self.n_failed)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalRow:
    """One row of the table: an arm against the baseline on one split, at the setting chosen on the search split.

    `p_holm` is adjusted for all rows of the split. `rank_p` is the share of vector and controls that gained at least as much;
    None without controls. `bias` says what choosing was worth, where there was a choice. `damage` is what the setting does to
    unrelated prompts (None: no vector, or not measured).
    """

    name: str
    role: Role
    split: Part
    method: str | None
    concept: str | None
    lineage: str | None
    cell: Cell
    comparison: Comparison
    p_holm: float
    controls: tuple[ControlResult, ...] = ()
    rank_p: float | None = None
    bias: SelectionBias | None = None
    whatsup: WhatsUpScore | None = None
    damage: Damage | None = None


def best_setting(settings: Sequence[ArmCell], asked: Sequence[EncodedQuestion], answers: Answers) -> ArmCell:
    """The arm's setting with most right answers; of equals that of the smallest strength, then the first."""
    if len(settings) == 1:
        return settings[0]
    correct = np.stack([right_of(s.cell.cell_id, asked, answers) for s in settings])
    return settings[choose_cell(correct, [s.cell.alpha for s in settings])]


def right_of(cell_id: str, asked: Sequence[EncodedQuestion], answers: Answers) -> Bools:
    """Whether each question was answered right in a cell, shape (n,); failed ones were not."""
    return np.array([bool(answers[cell_id, one.sample_id].correct) for one in asked])


def compared(
    cell_id: str, baseline_id: str, asked: Sequence[EncodedQuestion], answers: Answers, *, seed: int
) -> Comparison:
    """One cell against the baseline over the questions of a split.

    Raises:
        UsageError: no question was answered in both.
    """
    before = [answers[baseline_id, one.sample_id] for one in asked]
    after = [answers[cell_id, one.sample_id] for one in asked]
    groups = {one.sample_id: one.group_id for one in asked}
    right = {one.sample_id: one.labels.answer for one in asked if one.labels.answer is not None}
    return compare(before, after, groups, right=right, seed=seed)


def control_result(
    arm: Arm, cell: Cell, baseline_id: str, asked: Sequence[EncodedQuestion], answers: Answers
) -> ControlResult:
    """What a cell gained, as vectors and nulls are ranked. Raises UsageError where the baseline answered nothing."""
    cell_id = cell.cell_id  # a digest: made once
    found = ranked_gain(*([answers[i, one.sample_id] for one in asked] for i in (baseline_id, cell_id)))
    return ControlResult(
        name=arm.name, kind=arm.kind or "", cell=cell, gain=found.gain, n=found.n, n_failed=found.n_failed
    )


def bias_of(
    settings: Sequence[ArmCell], baseline_id: str, asked: Sequence[EncodedQuestion], answers: Answers, *, seed: int
) -> SelectionBias | None:
    """How much of the search gain came from choosing; None where there was no choice, or a single picture.

    Over the questions that the baseline answered; what a cell failed at is wrong, as where it was chosen. So a strength that
    overflows says nothing about another one.
    """
    ids = [s.cell.cell_id for s in settings]
    answered = _answered((baseline_id,), asked, answers)
    if len(settings) < 2 or len({one.group_id for one in answered}) < 2:
        return None
    correct = np.stack([right_of(cell_id, answered, answers) for cell_id in ids])
    baseline = right_of(baseline_id, answered, answers)
    alphas = [s.cell.alpha for s in settings]
    return selection_bias(correct, baseline, [a.group_id for a in answered], alphas=alphas, seed=seed)


def tested_bias(
    bias: SelectionBias | None, cell_id: str, baseline_id: str, asked: Sequence[EncodedQuestion], answers: Answers
) -> SelectionBias | None:
    """The same with the chosen cell's gain on the test split."""
    if bias is None:
        return None
    answered = _answered((baseline_id, cell_id), asked, answers)
    chosen, baseline = right_of(cell_id, answered, answers), right_of(baseline_id, answered, answers)
    return with_test(bias, chosen, baseline, [a.group_id for a in answered])


def _answered(cell_ids: Sequence[str], asked: Sequence[EncodedQuestion], answers: Answers) -> list[EncodedQuestion]:
    """The questions that all these cells answered."""
    return [one for one in asked if all(answers[cell_id, one.sample_id].status == "ok" for cell_id in cell_ids)]


def whatsup_of(cell_id: str, asked: Sequence[EncodedQuestion], answers: Answers) -> WhatsUpScore | None:
    """What'sUp's three accuracies, for that benchmark; failed samples are left out, and their sets are partial."""
    ok = [one for one in asked if answers[cell_id, one.sample_id].status == "ok"]
    if not ok or any("set_id" not in one.labels.meta or "relation" not in one.labels.meta for one in ok):
        return None
    return whatsup_score(
        right_of(cell_id, ok, answers).tolist(),
        [one.labels.meta["set_id"] for one in ok],
        [one.labels.meta["relation"] for one in ok],
    )


def with_holm(rows: Sequence[EvalRow]) -> tuple[EvalRow, ...]:
    """Rows of one split with p values adjusted for their number."""
    return tuple(replace(row, p_holm=p) for row, p in zip(rows, adjusted([r.comparison for r in rows]), strict=True))
