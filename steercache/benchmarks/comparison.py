"""One row of an evaluation's table: a setting against the baseline on the same samples, failures counted, not hidden."""

from collections.abc import Iterable, Mapping, Sequence
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
    margin_of: str | None = None,
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
        margin_of=margin_of if margin is not None else None,
        status="failed" if raw is None else "ok",
        error=error or ("no answer was given" if raw is None else None),
        mode=mode,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongWay:
    """Samples that a cell moved the wrong way (after Tan et al. 2024, arXiv 2407.12404); in SQL: `trials_with_baseline`.

    `share`: right without steering and wrong with it, of the `n` samples that were answered in both. `margin_share`: whose
    answer margin fell, a tie counting half, of the `n_margins` that have margins of the same options in both. None: of none.
    """

    n: int
    share: float | None
    n_margins: int
    margin_share: float | None

    def __str__(self) -> str:
        margins = "" if self.margin_share is None else f" (margin {self.margin_share:.1%})"
        return "-" if self.share is None else f"{self.share:.1%}{margins}"


def wrong_way(pairs: Iterable[tuple[Answer, Answer]]) -> WrongWay:
    """The samples moved the wrong way among pairs of answers, unsteered and steered, to one sample each."""
    given = list(pairs)
    known = [(bool(was.correct), bool(now.correct)) for was, now in given if _judged(was) and _judged(now)]
    margins = [
        (np.float32(was.margin), np.float32(now.margin))  # as they are stored
        for was, now in given
        if was.margin is not None and now.margin is not None and _same_options(was, now)
    ]
    lost = sum(was and not now for was, now in known)
    fell = sum(1.0 if now < was else 0.5 if now == was else 0.0 for was, now in margins)
    return WrongWay(
        n=len(known),
        share=lost / len(known) if known else None,
        n_margins=len(margins),
        margin_share=fell / len(margins) if margins else None,
    )


def _judged(answer: Answer) -> bool:
    return answer.status == "ok" and answer.correct is not None


def _same_options(was: Answer, now: Answer) -> bool:
    """Whether two margins are of the same options; older files do not say."""
    return was.margin_of is None or now.margin_of is None or was.margin_of == now.margin_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A setting against the baseline: shares of right answers, their difference, its interval and tests.

    `n` samples answered in both; `n_failed` in either did not, and are left out of the rest (where the setting failed at all of
    them nothing is known: a gain between -1 and 1, p 1). `unread_before` and `unread_after` are the shares of answers that were
    read as no option (they count as wrong). `p_clustered` is the exact two-sided test by sign flips of whole pictures, which is
    McNemar's where every picture has one question. `clusters` says how much questions about one picture change together, and
    `detectable` is the smallest change that this test shows with power .8 with these pictures and as many samples changing as
    here (None: no change could be shown). `mcnemar` counts the changes; its own p ignores pictures and is named so. `wrong_way`
    has the shares of samples that the setting moved the wrong way.
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
    wrong_way: WrongWay


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
    if old and not samples and any(answer.status == "ok" for answer in old.values()):
        return _nothing_to_compare(old, new, after[0].cell_id)
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
        wrong_way=wrong_way((old[s], new[s]) for s in old),
    )


def right_share(answers: Sequence[Answer]) -> float:
    """Share of right answers among those that were given; 0 where none was given."""
    given = [answer for answer in answers if answer.status == "ok"]
    return sum(bool(answer.correct) for answer in given) / len(given) if given else 0.0


def unread_share(answers: Sequence[Answer]) -> float:
    """Share of the answers that were given and read as no option; 0 where none was given."""
    given = [answer for answer in answers if answer.status == "ok"]
    return sum(answer.parsed is None for answer in given) / len(given) if given else 0.0


def _nothing_to_compare(old: Mapping[str, Answer], new: Mapping[str, Answer], cell_id: str) -> Comparison:
    """What is known of a setting that failed at every sample: nothing."""
    ok = [answer for answer in old.values() if answer.status == "ok"]
    return Comparison(
        cell_id=cell_id,
        n=0,
        n_failed=len(old),
        before=right_share(ok),
        after=0.0,
        unread_before=unread_share(ok),
        unread_after=0.0,
        gain=Interval(estimate=0.0, low=-1.0, high=1.0, level=0.95, n=0, n_groups=0),
        mcnemar=mcnemar_exact(np.zeros(0, dtype=bool), np.zeros(0, dtype=bool)),
        p_clustered=1.0,
        clusters=Clustering(n=0, n_groups=0, design_effect=1.0, icc=None),
        detectable=None,
        letters=LetterShift(letters=(), before=(), after=(), right=(), distance=0.0),
        wrong_way=wrong_way(()),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedGain:
    """What a vector or a null is ranked by: right answers more than the baseline's, as a share of the `n` samples that the
    baseline answered. The `n_failed` that failed count as wrong: what overflows is no win, and leaving it out would let a cell
    choose its questions."""

    gain: float
    n: int
    n_failed: int

    @property
    def failed(self) -> bool:
        """Whether there is nothing to rank."""
        return self.n_failed == self.n


def ranked_gain(before: Sequence[Answer], after: Sequence[Answer]) -> RankedGain:
    """The gain of one cell's answers over the baseline's, both of the same samples in the same order.

    Raises:
        UsageError: the baseline answered none of them.
    """
    pairs = [(was, now) for was, now in zip(before, after, strict=True) if was.status == "ok"]
    if not pairs:
        raise UsageError("the baseline answered no question")
    # Of the differences, as the vector's own gain: a difference of means can miss a tie by its last bit.
    gain = float(np.mean([float(bool(now.correct)) - float(bool(was.correct)) for was, now in pairs]))
    return RankedGain(gain=gain, n=len(pairs), n_failed=sum(now.status == "failed" for _, now in pairs))


def rank_among(real: RankedGain, nulls: Sequence[RankedGain]) -> float | None:
    """Share of the vector and its nulls that gained at least as much; None without nulls.

    A null that failed throughout cannot be beaten, and counts as at least as good; a vector that failed throughout has rank 1.
    """
    if not nulls:
        return None
    if real.failed:
        return 1.0
    as_good = sum(null.failed or null.gain >= real.gain for null in nulls)
    return (1 + as_good) / (1 + len(nulls))


def adjusted(comparisons: Sequence[Comparison]) -> tuple[float, ...]:
    """Clustered p values adjusted for the number of rows of the table (Holm), in the table's order."""
    return tuple(float(p) for p in holm([c.p_clustered for c in comparisons]))


def _by_sample(answers: Sequence[Answer]) -> dict[str, Answer]:
    found = {answer.sample_id: answer for answer in answers}
    cells = {answer.cell_id for answer in answers}
    if len(found) != len(answers) or len(cells) != 1:
        raise UsageError(
            f"{len(answers)} answers of {len(found)} samples in {len(cells)} cells: expected one answer of each"
        )
    return found
