"""One row of an evaluation's table: a setting against the baseline on the same samples, failures counted, not hidden."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from steercache.benchmarks.scoring import score_answer
from steercache.core.errors import UsageError
from steercache.core.examples import Labels
from steercache.core.trials import Answer, Mode
from steercache.stats.clusters import Clustering, clustering
from steercache.stats.family import LetterShift, letter_shift
from steercache.stats.paired import Interval, McNemar, holm, mcnemar_exact, paired_interval
from steercache.stats.power import smallest_effect
from steercache.stats.signs import sign_flip_p


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

    `n` samples answered in both; `n_failed` in either did not, and are left out of the rest. `unread_before` and
    `unread_after` are the shares of answers that were read as no option (they count as wrong). `p_clustered` is the exact
    two-sided test by sign flips of whole pictures, which is McNemar's where every picture has one question. `clusters` says how
    much questions about one picture change together, and `detectable` is the smallest change that this test shows with power
    .8 with these pictures and as many samples changing as here (None: no change could be shown). `mcnemar` counts the
    changes; its own p ignores pictures and is named so.
    """

    cell_id: str
    n: int
    n_failed: int
    before: float
    after: float
    unread_before: float
    unread_after: float
    gain: Interval
    mcnemar: McNemar
    p_clustered: float
    clusters: Clustering
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
    clusters = clustering(delta, pictures)
    return Comparison(
        cell_id=after[0].cell_id,
        n=len(samples),
        n_failed=len(old) - len(samples),
        before=float(was.mean()),
        after=float(now.mean()),
        unread_before=unread_share([old[s] for s in samples]),
        unread_after=unread_share([new[s] for s in samples]),
        gain=paired_interval(delta, pictures, seed=seed),
        mcnemar=mcnemar_exact(was, now),
        p_clustered=sign_flip_p(delta, pictures),
        clusters=clusters,
        detectable=smallest_effect(
            len(samples), discordant=float(np.abs(delta).mean()), design_effect=clusters.design_effect
        ),
        letters=letter_shift(
            [old[s].parsed for s in samples],
            [new[s].parsed for s in samples],
            [right.get(s) for s in samples] if right else (),
        ),
    )


def unread_share(answers: Sequence[Answer]) -> float:
    """Share of the answers that were given and read as no option; 0 where none was given."""
    given = [answer for answer in answers if answer.status == "ok"]
    return sum(answer.parsed is None for answer in given) / len(given) if given else 0.0


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
