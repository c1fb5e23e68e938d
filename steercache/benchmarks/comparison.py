"""One row of an evaluation's table: a setting against the baseline on the same samples, failures counted, not hidden."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from steercache.benchmarks.scoring import score_answer
from steercache.core.errors import UsageError
from steercache.core.examples import Labels
from steercache.core.trials import Answer, Mode
from steercache.stats.family import LetterShift, letter_shift, max_t
from steercache.stats.paired import Interval, McNemar, holm, mcnemar_exact, paired_interval
from steercache.stats.power import smallest_effect


def make_answer(
    labels: Labels,
    raw: str | None,
    *,
    cell_id: str,
    sample_id: str,
    margin: float | None = None,
    error: str | None = None,
    mode: Mode | None = None,
) -> Answer:
    """Score a model's words by the sample's labels (`meta["kind"]`); without words the answer is a failed one.

    Raises:
        UsageError: the labels have no right answer or no known kind.
    """
    if labels.answer is None:
        raise UsageError("the sample has no right answer to score against", place=sample_id)
    score = score_answer(raw, kind=labels.meta.get("kind", "choice"), answer=labels.answer, choices=labels.choices)
    return Answer(
        cell_id=cell_id,
        sample_id=sample_id,
        split=labels.split or "",
        raw=raw,
        parsed=score.parsed,
        correct=score.correct,
        margin=margin,
        status="failed" if raw is None else "ok",
        error=error or ("no answer was given" if raw is None else None),
        mode=mode,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A setting against the baseline: shares of right answers, their difference, and what may be said of it.

    `n` samples answered in both; `n_failed` in either did not, and are left out of the rest. `p_clustered` is two-sided by
    sign flips of whole pictures; `detectable` is the smallest change that n samples, as many of them changing as here, show
    with power .8 (None: no change could be shown).
    """

    cell_id: str
    n: int
    n_failed: int
    before: float
    after: float
    gain: Interval
    mcnemar: McNemar
    p_clustered: float
    detectable: float | None
    letters: LetterShift


def compare(
    before: Sequence[Answer],
    after: Sequence[Answer],
    groups: Mapping[str, str],
    *,
    right: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Comparison:
    """Compare one cell's answers with the baseline's on the same samples; `groups` maps a sample to its picture.

    Raises:
        UsageError: other samples, one sample twice, answers of several cells, or none that both answered.
    """
    old, new = _by_sample(before), _by_sample(after)
    if old.keys() != new.keys():
        raise UsageError(f"{len(old.keys() ^ new.keys())} samples were answered in one cell and not in the other")
    samples = [s for s in old if old[s].status == new[s].status == "ok"]
    unknown = [s for s in samples if s not in groups]
    if not samples or unknown:
        raise UsageError(
            f"{len(samples)} samples were answered in both cells, {len(unknown)} of them without a picture"
        )
    was = np.array([bool(old[s].correct) for s in samples])
    now = np.array([bool(new[s].correct) for s in samples])
    pictures = [groups[s] for s in samples]
    delta = now.astype(np.float64) - was
    return Comparison(
        cell_id=after[0].cell_id,
        n=len(samples),
        n_failed=len(old) - len(samples),
        before=float(was.mean()),
        after=float(now.mean()),
        gain=paired_interval(delta, pictures, seed=seed),
        mcnemar=mcnemar_exact(was, now),
        p_clustered=float(max_t(delta[None], pictures, two_sided=True, seed=seed).p_alone[0]),
        detectable=smallest_effect(len(samples), discordant=float(np.abs(delta).mean())),
        letters=letter_shift(
            [old[s].parsed for s in samples],
            [new[s].parsed for s in samples],
            [right.get(s) for s in samples] if right else (),
        ),
    )


def adjusted(comparisons: Sequence[Comparison]) -> tuple[float, ...]:
    """Clustered p values adjusted for the number of rows of the table (Holm), in the table's order."""
    return tuple(float(p) for p in holm([c.p_clustered for c in comparisons]))


def _by_sample(answers: Sequence[Answer]) -> dict[str, Answer]:
    found = {answer.sample_id: answer for answer in answers}
    cells = {answer.cell_id for answer in answers}
    if len(found) != len(answers) or len(cells) != 1:
        raise UsageError(
            f"{len(answers)} answers of {len(found)} samples in {len(cells)} cells: one answer each is wanted"
        )
    return found
