"""Which features of an SAE respond to a concept: candidates with scores and reasons, from the activations of labelled rows.

Pure functions on the rows of one layer. `paper` is the published recipe (arXiv 2505.14071), which looks at anchor rows only;
`firing_rate` and `sparse_probe` also look at the control rows, so that a feature that fires everywhere is no candidate. A
method picks features before anybody has looked at what they mean: `sae.judge` and `sae.review` are for that.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from steercache.core.errors import UsageError
from steercache.core.features import FeatureActs
from steercache.stats.exact import benjamini_hochberg, fisher_greater

N_TOP: Final = 20  # features per sentence that get a rank, and the highest rank's denominator
N_KEEP: Final = 16  # features that a method picks
MIN_SENTENCES: Final = 2
Q_MAX: Final = 0.05
LISTED: Final = 200  # candidates of `firing_rate` that are kept, with those that were picked


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledActs:
    """Features of the anchor and control rows of one concept at one layer.

    `is_anchor` and `sentence` have shape (n,), one entry per row of `acts`; `sentence` numbers the sentences in any way.
    """

    acts: FeatureActs
    is_anchor: npt.NDArray[np.bool_]
    sentence: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.is_anchor.shape != (self.acts.n_rows,) or self.sentence.shape != (self.acts.n_rows,):
            raise ValueError(f"{self.is_anchor.shape} labels and {self.sentence.shape} sentences for {self.acts!r}")
        if not self.is_anchor.any():
            raise UsageError("no row is an anchor", hint="an SAE selection needs rows with label 1")

    @property
    def n_anchor(self) -> int:
        """Number of anchor rows."""
        return int(self.is_anchor.sum())

    def rates(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Share of the anchor rows and of the control rows in which each feature fires, shapes (s,); 0 without controls."""
        anchor = self.acts.rows(self.is_anchor).firing_counts() / self.n_anchor
        control = self.acts.rows(~self.is_anchor).firing_counts() / max(1, self.acts.n_rows - self.n_anchor)
        return anchor, control

    def sentence_max(self) -> FeatureActs:
        """The largest activation over a sentence's anchor rows, a row per sentence in ascending order."""
        anchors = self.acts.rows(self.is_anchor)
        names, number = np.unique(self.sentence[self.is_anchor], return_inverse=True)
        key = number[anchors.row_of_entry] * anchors.n_features + anchors.indices
        order = np.lexsort((-anchors.values, key))
        first = order[np.diff(key[order], prepend=-1) > 0]
        row, feature = np.divmod(key[first], anchors.n_features)
        values = anchors.values[first]
        return FeatureActs.from_triples(row, feature, values, n_rows=len(names), n_features=anchors.n_features)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A feature that a method considered. `rank` counts from 1: those that qualify come first, best score first.

    `n_sentences` are the sentences that speak for it, `p` and `q` the exact test's and its false discovery rate, where the
    method has them; `reason` says why it was picked or not.
    """

    feature: int
    rank: int
    score: float
    n_sentences: int
    rate_anchor: float
    rate_control: float
    picked: bool
    reason: str
    p: float | None = None
    q: float | None = None


Selector = Callable[[LabelledActs], tuple[Candidate, ...]]


def paper(
    rows: LabelledActs, *, n_top: int = N_TOP, n_keep: int = N_KEEP, min_sentences: int = MIN_SENTENCES
) -> tuple[Candidate, ...]:
    """The published recipe: features that are among the strongest at the anchors of several sentences.

    Per sentence the maximum over its anchor rows; its `n_top` strongest firing features get the weight 1 - (rank - 1) / n_top.
    A feature's score is the sum of its weights; it qualifies with `min_sentences` sentences, and the best `n_keep` are picked.
    Ties, within a sentence and between scores, go to the lower feature number.
    """
    peak = rows.sentence_max()
    of_row = peak.row_of_entry
    order = np.lexsort((peak.indices, -peak.values, of_row))
    rank = np.arange(peak.nnz) - peak.indptr[of_row[order]] + 1
    fires = (rank <= n_top) & (peak.values[order] > 0)
    feature, weight = peak.indices[order][fires], 1 - (rank[fires] - 1) / n_top
    score = np.bincount(feature, weights=weight, minlength=peak.n_features).astype(np.float64)
    hits = np.bincount(feature, minlength=peak.n_features).astype(np.int64)
    found = np.flatnonzero(hits)
    few = {
        f: f"among the {n_top} strongest of {hits[f]} sentence{_s(hits[f])}; needs {min_sentences}"
        for f in found.tolist()
    }
    return rank_candidates(
        rows,
        found,
        score=score,
        hits=hits,
        failed={f: few[f] for f in found.tolist() if hits[f] < min_sentences},
        n_keep=n_keep,
        by="summed rank weight",
    )


def firing_rate(
    rows: LabelledActs, *, n_keep: int = N_KEEP, min_sentences: int = MIN_SENTENCES, q_max: float = Q_MAX
) -> tuple[Candidate, ...]:
    """Features that fire at more of the anchor rows than of the control rows, by Fisher's exact test.

    The score is the difference of the firing rates. A feature qualifies with q <= `q_max` (Benjamini and Hochberg over every
    feature that fires at all) and anchors of `min_sentences` sentences. The test takes rows as independent, which tokens of one
    sentence are not quite: q orders features and keeps chance out, it is no claim about the concept.

    Raises:
        UsageError: there are no control rows.
    """
    check_controls(rows)
    fires = rows.acts.firing_counts()
    anchor = rows.acts.rows(rows.is_anchor).firing_counts()
    tested = np.flatnonzero(fires)
    p, q = np.ones(len(fires)), np.ones(len(fires))
    if len(tested):
        p[tested] = fisher_greater(anchor[tested], fires[tested], n_marked=rows.n_anchor, n_rows=rows.acts.n_rows)
        q[tested] = benjamini_hochberg(p[tested])
    rate_anchor, rate_control = rows.rates()
    score, hits = rate_anchor - rate_control, rows.sentence_max().firing_counts()
    found = np.flatnonzero(score > 0)
    failed = {}
    for f in found.tolist():
        if q[f] > q_max:
            failed[f] = f"q {q[f]:.2g} is above {q_max:g}"
        elif hits[f] < min_sentences:
            failed[f] = f"fires at the anchors of {hits[f]} sentence{_s(hits[f])}; needs {min_sentences}"
    ranked = rank_candidates(
        rows, found, score=score, hits=hits, failed=failed, n_keep=n_keep, by="difference of firing rates", p=p, q=q
    )
    return ranked[:LISTED]


def rank_candidates(
    rows: LabelledActs,
    found: npt.NDArray[np.int64],
    *,
    score: npt.NDArray[np.float64],
    hits: npt.NDArray[np.int64],
    failed: dict[int, str],
    n_keep: int,
    by: str,
    p: npt.NDArray[np.float64] | None = None,
    q: npt.NDArray[np.float64] | None = None,
) -> tuple[Candidate, ...]:
    """Candidates in order: those that qualify first, then by score, then by feature number."""
    rate_anchor, rate_control = rows.rates()
    # sums of the same weights in another order differ in their last bits, and are no order
    ordered = sorted(found.tolist(), key=lambda f: (f in failed, -round(float(score[f]), 9), f))
    made = []
    for at, f in enumerate(ordered):
        picked = f not in failed and at < n_keep
        place = f"place {at + 1} by {by}"
        made.append(
            Candidate(
                feature=f,
                rank=at + 1,
                score=float(score[f]),
                n_sentences=int(hits[f]),
                rate_anchor=float(rate_anchor[f]),
                rate_control=float(rate_control[f]),
                picked=picked,
                reason=failed.get(f) or (place if picked else f"{place}; the best {n_keep} are picked"),
                p=None if p is None else float(p[f]),
                q=None if q is None else float(q[f]),
            )
        )
    return tuple(made)


def check_controls(rows: LabelledActs) -> None:
    if rows.is_anchor.all():
        raise UsageError(
            "no row is a control, and this selection compares anchors with controls",
            hint="select rows of both labels, or use the selection 'paper'",
        )


def _s(n: Any) -> str:
    return "" if n == 1 else "s"
