"""The smallest effect that n paired samples could show, questions about one picture counted together."""

import math
from functools import lru_cache

import numpy as np

from steercache.core.errors import UsageError
from steercache.stats.binomial import log_binomial

STEPS = 40  # halvings of the interval searched: far below one sample


@lru_cache(maxsize=512)
def _critical(n_discordant: int, level: float) -> int:
    """Largest k such that a split of at most k against the rest is significant; -1 if none is."""
    if n_discordant == 0:
        return -1
    tail = 2 * np.cumsum(np.exp(log_binomial(n_discordant) - n_discordant * math.log(2)))
    k = int(np.searchsorted(tail, level, side="right")) - 1
    return min(k, (n_discordant - 1) // 2)


def mcnemar_power(n: int, effect: float, *, discordant: float, level: float = 0.05) -> float:
    """Probability that exact McNemar at `level` finds a change of accuracy of `effect` in n independent pairs.

    `discordant` is the share of samples whose rightness changes; of those (discordant + effect) / 2 become right.

    Raises:
        UsageError: no samples, or rates that are not between 0 and 1.
    """
    if n < 1 or not 0 < discordant <= 1 or not abs(effect) <= discordant or not 0 < level < 1:
        raise UsageError(f"n {n}, effect {effect}, discordant {discordant}, level {level} is no design")
    right = (discordant + effect) / (2 * discordant)
    counts = np.arange(n + 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_p = log_binomial(n) + counts * math.log(discordant) + (n - counts) * math.log1p(-min(discordant, 1 - 1e-15))
    weight = np.exp(log_p)
    total = 0.0
    for m in np.flatnonzero(weight > 1e-10):
        k = _critical(int(m), level)
        if k >= 0:
            total += float(weight[m]) * _two_tails(int(m), k, right)
    return min(1.0, total)


def _two_tails(m: int, k: int, right: float) -> float:
    """P(X <= k) + P(X >= m - k) for X binomial with m draws of probability `right`."""
    tiny = 1e-300
    x = np.arange(m + 1)
    p = np.exp(log_binomial(m) + x * math.log(max(right, tiny)) + (m - x) * math.log(max(1 - right, tiny)))
    return float(p[: k + 1].sum() + p[m - k :].sum())


def smallest_effect(
    n: int, *, discordant: float, design_effect: float = 1.0, power: float = 0.8, level: float = 0.05
) -> float | None:
    """Smallest change of accuracy that the exact test by picture finds with probability `power`; None if n samples show none.

    With a `design_effect` above 1 (`clusters.clustering`) the n samples count as n / design_effect independent ones. Exact for
    one question per picture, and for pictures whose questions change all together.

    Raises:
        UsageError: no samples, or rates that are not between 0 and 1.
    """
    if n < 1 or not 0 <= discordant <= 1 or not 0 < power < 1 or not 0 < level < 1 or not 1 <= design_effect <= n:
        raise UsageError(
            f"n {n}, discordant {discordant}, design effect {design_effect}, power {power}, level {level} is no design"
        )
    n_effective = int(n / design_effect + 1e-9)
    if discordant == 0 or mcnemar_power(n_effective, discordant, discordant=discordant, level=level) < power:
        return None
    low, high = 0.0, discordant
    for _ in range(STEPS):
        middle = (low + high) / 2
        if mcnemar_power(n_effective, middle, discordant=discordant, level=level) < power:
            low = middle
        else:
            high = middle
        if high - low < 1e-5:
            break
    return high
