"""Interval of a difference of paired shares by inverting the score test, which keeps its coverage where few samples change.

Source: Tango, "Equivalence test and confidence interval for the difference in proportions for the paired-sample design" (1998).
Questions that share pictures count as n / design effect independent ones (Yang, Sun & Hardin, "Confidence intervals for the
difference of marginal probabilities in clustered matched-pair binary data", 2012, compare such corrections), and Student's
quantile with g - 1 degrees for g pictures takes the place of the normal one. A bootstrap of so sparse a difference draws from
the few changes that were seen and covers too little (.89 to .93 at 95 % with 150 questions, 3 % helped and none hurt).
"""

import numpy as np

from steercache.stats.arrays import Float64Array

STEPS = 48  # halvings of an interval of length 2: far below one sample


def score_bounds(
    helped_c: Float64Array, hurt_c: Float64Array, n_c: Float64Array, critical_c: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """Lower and upper bounds (c,) of (helped - hurt) / n, where the score statistic equals the critical value.

    Counts may be fractions, as n is an effective number of samples.
    """
    estimate = (helped_c - hurt_c) / n_c
    low = _solve(helped_c, hurt_c, n_c, target=critical_c, below=np.full_like(estimate, -1.0), above=estimate)
    high = _solve(helped_c, hurt_c, n_c, target=-critical_c, below=estimate, above=np.full_like(estimate, 1.0))
    return low, high


def score_statistic(helped: Float64Array, hurt: Float64Array, n: Float64Array, delta: Float64Array) -> Float64Array:
    """(observed - expected difference) / its standard error under a true difference `delta`; falls with delta.

    The variance uses the share that is hurt, q, of the largest likelihood under the constraint.
    """
    b = -helped - hurt + (2 * n - helped + hurt) * delta
    c = -hurt * delta * (1 - delta)
    q = (np.sqrt(np.maximum(b**2 - 8 * n * c, 0)) - b) / (4 * n)
    variance = n * np.maximum(2 * q + delta * (1 - delta), 0)
    difference = helped - hurt - n * delta
    scale = np.sqrt(variance)
    limit = np.where(difference > 0, np.inf, np.where(difference < 0, -np.inf, 0.0))
    statistic: Float64Array = np.divide(difference, scale, out=limit, where=scale > 1e-150)
    return statistic


def _solve(
    helped: Float64Array,
    hurt: Float64Array,
    n: Float64Array,
    *,
    target: Float64Array,
    below: Float64Array,
    above: Float64Array,
) -> Float64Array:
    for _ in range(STEPS):
        middle = (below + above) / 2
        beyond = score_statistic(helped, hurt, n, middle) > target
        below, above = np.where(beyond, middle, below), np.where(beyond, above, middle)
    return (below + above) / 2
