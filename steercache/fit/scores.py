"""How well scores tell the two sides apart, and how well a token's identity alone would."""

import numpy as np
import numpy.typing as npt

from steercache.fit.folds import FoldArray
from steercache.fit.sides import BoolArray

DoubleArray = npt.NDArray[np.float64]


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
