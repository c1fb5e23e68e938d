"""Exact tests on counts of many features at once, and p values adjusted for their number by false discovery rate."""

from collections.abc import Sequence
from math import comb

import numpy as np
import numpy.typing as npt

from steercache.core.errors import UsageError
from steercache.stats.arrays import Float64Array, finite


def fisher_greater(n_marked_hits: npt.ArrayLike, n_hits: npt.ArrayLike, *, n_marked: int, n_rows: int) -> Float64Array:
    """One-sided p values of Fisher's exact test, shape (s,): are hits more frequent among the marked rows?

    `n_hits` (s,) counts each feature's hits among all `n_rows` rows, `n_marked_hits` (s,) those among the `n_marked` marked
    ones. Given the margins the latter is hypergeometric; p is the probability of so many or more. Rows count as independent.

    Raises:
        UsageError: counts that contradict each other.
    """
    marked, hits = np.asarray(n_marked_hits, np.int64), np.asarray(n_hits, np.int64)
    n_other = n_rows - n_marked
    if marked.shape != hits.shape or not 0 <= n_marked <= n_rows:
        raise UsageError(f"{marked.shape} and {hits.shape} counts, {n_marked} of {n_rows} rows marked")
    if np.any((marked < 0) | (marked > np.minimum(hits, n_marked)) | (hits - marked > n_other)):
        raise UsageError("hits among marked rows exceed the hits or the marked rows")
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n_rows + 1)))])

    def log_choose(n: int, k: npt.NDArray[np.int64]) -> Float64Array:
        found: Float64Array = log_factorial[n] - log_factorial[k] - log_factorial[n - k]
        return found

    pairs, index = np.unique(np.stack([marked, hits]), axis=1, return_inverse=True)
    p = np.empty(pairs.shape[1], np.float64)
    for at, (low, total) in enumerate(pairs.T.tolist()):
        possible = np.arange(max(0, total - n_other), min(total, n_marked) + 1)
        logs = log_choose(n_marked, possible) + log_choose(n_other, total - possible)
        weights = np.exp(logs - logs.max())
        p[at] = weights[possible >= low].sum() / weights.sum()
    result: Float64Array = np.minimum(p[index.reshape(-1)], 1.0)
    return result


def overlap_p(n_common: int, n_drawn: int, *, n_marked: int, n_all: int) -> float:
    """Probability that `n_drawn` of `n_all` things, drawn at random without replacement, have `n_common` or more of the
    `n_marked` ones among them: the upper tail of the hypergeometric distribution, in whole numbers until the last division.

    Raises:
        UsageError: counts that contradict each other.

    >>> overlap_p(1, 2, n_marked=2, n_all=4)  # 1 - 1 / 6
    0.8333333333333334
    """
    if not (0 <= n_common <= min(n_drawn, n_marked) and max(n_drawn, n_marked) <= n_all):
        raise UsageError(f"{n_common} in common of {n_drawn} drawn and {n_marked} marked of {n_all}")
    fewer = range(max(0, n_drawn - (n_all - n_marked)), n_common)
    below = sum(comb(n_marked, i) * comb(n_all - n_marked, n_drawn - i) for i in fewer)
    total = comb(n_all, n_drawn)
    return (total - below) / total


def benjamini_hochberg(p_values: Sequence[float] | Float64Array) -> Float64Array:
    """P values adjusted by the step-up rule of Benjamini and Hochberg (1995), in the order given, shape (s,).

    Those at most q form a set whose expected share of false discoveries is at most q, for tests that are independent or
    positively dependent.

    Raises:
        UsageError: a value that is no probability.
    """
    p = finite(p_values, "p values")
    if not np.all((p >= 0) & (p <= 1)):
        raise UsageError("p values must lie between 0 and 1")
    order = np.argsort(p, kind="stable")[::-1]
    steps = np.minimum.accumulate(p[order] * len(p) / np.arange(len(p), 0, -1))
    adjusted: Float64Array = np.empty_like(p)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted
