"""How well scores tell the two sides apart, and how well a token's identity alone would."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from steercache.fit.folds import FoldArray
from steercache.fit.sides import BoolArray

DoubleArray = npt.NDArray[np.float64]
# 97.5 % quantiles of Student's t, by degrees of freedom from 1
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def auc(scores: DoubleArray, label: BoolArray) -> float:
    """Area under the ROC curve: the chance that a concept row scores above another one, ties counting half.

    Both sides must have rows. (Mann-Whitney U over n1 * n0.)
    """
    distinct, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    middle_rank = np.cumsum(counts) - (counts - 1) / 2
    n_concept = int(np.count_nonzero(label))
    rank_sum = float(middle_rank[inverse][label].sum())
    u = rank_sum - n_concept * (n_concept + 1) / 2
    return u / (n_concept * (len(label) - n_concept)) if len(distinct) else 0.5


def fold_aucs(scores: DoubleArray, label: BoolArray, *, fold: FoldArray, usable: tuple[int, ...]) -> list[float]:
    """AUC inside each usable fold."""
    return [auc(scores[fold == f], label[fold == f]) for f in usable]


def fold_interval(aucs: Sequence[float]) -> tuple[float | None, float | None]:
    """95 % interval of the mean AUC of k folds, within 0 and 1; (None, None) for fewer than two folds.

    The folds share training rows, so the variance of their mean is s^2 (1/k + 1/(k - 1)) and not s^2/k: the corrected resampled
    t-test of Nadeau and Bengio (2003), where each fold is tested on 1/(k - 1) of the rows that it was trained on.

    >>> [round(end, 3) for end in fold_interval([0.8, 0.9, 0.85, 0.9, 0.8])]
    [0.757, 0.943]
    """
    k = len(aucs)
    if k < 2:
        return None, None
    half = _T[min(k - 1, len(_T)) - 1] * float(np.std(aucs, ddof=1)) * (1 / k + 1 / (k - 1)) ** 0.5
    mean = float(np.mean(aucs))
    return max(0.0, mean - half), min(1.0, mean + half)


def token_scores(token_id: npt.NDArray[np.int32], label: BoolArray, *, fold: FoldArray) -> DoubleArray:
    """Held-out scores of a classifier that knows a row's token id and nothing else, shape (n,).

    Outside the row's fold, the share of rows with that token that carry the concept, drawn towards the overall share by one
    row's worth; a token never seen gets the overall share.
    """
    token = np.unique(token_id, return_inverse=True)[1]
    n_tokens = int(token.max()) + 1
    scores = np.empty(len(token))
    for f in range(int(fold.max()) + 1):
        train, test = fold != f, fold == f
        share = label[train].mean() if train.any() else label.mean()
        seen = np.bincount(token[train], minlength=n_tokens)
        hits = np.bincount(token[train], weights=label[train], minlength=n_tokens)
        scores[test] = ((hits + share) / (seen + 1))[token[test]]
    return scores
