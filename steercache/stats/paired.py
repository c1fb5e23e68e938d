"""What a difference between two settings on the same samples shows, and what it cannot.

Everything is paired (the same samples before and after) and clustered by picture: questions about one picture are resampled,
or change sign, together. Arrays: `delta_n` is after minus before per sample, `group_n` any labels of pictures.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from steercache.core.errors import UsageError

Floats = npt.NDArray[np.float64]
CHUNK: Final = 4_000_000  # resampling weights held at a time
AT_ONCE: Final = 256  # rows whose means are held at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean with its interval; `n_groups` pictures carry it, `level` is the two-sided coverage."""

    estimate: float
    low: float
    high: float
    level: float
    n: int
    n_groups: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


def group_index(groups: Sequence[Any] | npt.NDArray[Any], n: int) -> tuple[npt.NDArray[np.intp], int]:
    """Each sample's picture as a number, shape (n,), and how many pictures there are.

    Raises:
        UsageError: not one group per sample, or no sample.
    """
    if len(groups) != n or n == 0:
        raise UsageError(f"{len(groups)} groups for {n} samples", hint="give one picture per sample, and at least one")
    _, index = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    return index.reshape(-1), int(index.max()) + 1


def sum_by_group(values_cn: npt.NDArray[Any], index: npt.NDArray[np.intp], n_groups: int) -> Floats:
    """Sums of the last axis by picture, shape (c, g)."""
    order = np.argsort(index, kind="stable")
    starts = np.searchsorted(index[order], np.arange(n_groups))
    sums: Floats = np.add.reduceat(np.asarray(values_cn, dtype=np.float64)[..., order], starts, axis=-1)
    return sums


def resamples(rng: np.random.Generator, n_groups: int, n_boot: int) -> Iterator[Floats]:
    """How often each picture is drawn, with replacement, in blocks of shape (b, g)."""
    block = max(1, CHUNK // n_groups)
    for start in range(0, n_boot, block):
        size = min(block, n_boot - start)
        drawn = rng.integers(n_groups, size=(size, n_groups)) + np.arange(size)[:, None] * n_groups
        counts = np.bincount(drawn.reshape(-1), minlength=size * n_groups)
        yield counts.reshape(size, n_groups).astype(np.float64)


def paired_interval(
    delta_n: npt.ArrayLike,
    groups: Sequence[Any] | npt.NDArray[Any],
    *,
    level: float = 0.95,
    n_boot: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Bootstrap interval of a mean difference, pictures drawn with replacement.

    Percentile interval at levels widened for few pictures (Hesterberg 2015, "expanded percentile"). Where no picture differs
    at all the bootstrap would say [0, 0]: then the bounds are what n pictures without a change still allow,
    1 - (1 - level)^(1/g), since no change seen is not no change.

    Raises:
        UsageError: not one group per sample, no sample, or a value that is not a number.
    """
    delta = np.asarray(delta_n, dtype=np.float64)
    (found,) = paired_intervals(delta.reshape(1, -1), groups, level=level, n_boot=n_boot, seed=seed)
    return found


def paired_intervals(
    delta_cn: npt.ArrayLike,
    groups: Sequence[Any] | npt.NDArray[Any],
    *,
    level: float = 0.95,
    n_boot: int = 10_000,
    seed: int = 0,
) -> tuple[Interval, ...]:
    """`paired_interval` of every row of (c, n), all from the same draws. Raises as that."""
    delta = np.asarray(delta_cn, dtype=np.float64)
    index, n_groups = group_index(groups, delta.shape[1])
    if not np.all(np.isfinite(delta)):
        raise UsageError("differences hold values that are no numbers", hint="leave failed samples out, and count them")
    if not 0 < level < 1:
        raise UsageError(f"level {level} is not between 0 and 1")
    estimates = delta.mean(axis=1)
    reach = (1 - (1 - level) ** (1 / n_groups)) * np.maximum(1.0, np.abs(delta[:, 0]))
    bounds = np.stack([estimates - reach, estimates + reach])
    moving = np.flatnonzero((delta != delta[:, :1]).any(axis=1))
    tail = _expanded_tail((1 - level) / 2, n_groups)
    counts = np.bincount(index, minlength=n_groups).astype(float)
    for start in range(0, len(moving), AT_ONCE):
        rows = moving[start : start + AT_ONCE]
        sums = sum_by_group(delta[rows], index, n_groups)
        rng = np.random.default_rng(seed)
        means = np.concatenate([(w @ sums.T) / (w @ counts)[:, None] for w in resamples(rng, n_groups, n_boot)])
        bounds[:, rows] = np.quantile(means, [tail, 1 - tail], axis=0)
    return tuple(
        Interval(
            estimate=float(estimate), low=float(low), high=float(high), level=level, n=delta.shape[1], n_groups=n_groups
        )
        for estimate, low, high in zip(estimates, *bounds, strict=True)
    )


def _expanded_tail(tail: float, n: int) -> float:
    """The normal tail whose quantile is Student's t (n - 1 degrees) stretched by sqrt(n / (n - 1))."""
    if n < 2:
        return tail
    normal = NormalDist()
    stretched = student_quantile(tail, n - 1) * math.sqrt(n / (n - 1))
    return normal.cdf(stretched)


def student_quantile(p: float, df: float) -> float:
    """Quantile of Student's t by the Cornish-Fisher series (Abramowitz & Stegun 26.7.5); 1e-3 at 5 degrees and more."""
    z = NormalDist().inv_cdf(p)
    g1 = (z**3 + z) / 4
    g2 = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    g3 = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    g4 = (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160
    return z + g1 / df + g2 / df**2 + g3 / df**3 + g4 / df**4


@dataclass(frozen=True, slots=True, kw_only=True)
class McNemar:
    """Samples that became right (`helped`) and wrong (`hurt`), and the exact two-sided p of such a split by chance."""

    helped: int
    hurt: int
    p: float


def mcnemar_exact(before_n: npt.ArrayLike, after_n: npt.ArrayLike) -> McNemar:
    """McNemar's test on right/wrong pairs, binomial, not clustered: for questions that share pictures read it beside `max_t`.

    Raises:
        UsageError: arrays of different length.
    """
    before, after = np.asarray(before_n, dtype=bool), np.asarray(after_n, dtype=bool)
    if before.shape != after.shape:
        raise UsageError(f"{before.size} answers before and {after.size} after")
    helped, hurt = int(np.sum(after & ~before)), int(np.sum(before & ~after))
    n, k = helped + hurt, min(helped, hurt)
    logs = log_binomial(n) - n * math.log(2)
    p = min(1.0, 2 * float(np.exp(logs[: k + 1]).sum()))
    return McNemar(helped=helped, hurt=hurt, p=p)


def log_binomial(n: int) -> Floats:
    """log of n over k for k = 0..n."""
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    result: Floats = log_factorial[n] - log_factorial - log_factorial[::-1]
    return result


def holm(p_values: Sequence[float] | Floats) -> Floats:
    """P values adjusted for their number by Holm's step-down rule, in the order given.

    Raises:
        UsageError: a value that is no probability.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if not np.all((p >= 0) & (p <= 1)):
        raise UsageError("p values must lie between 0 and 1")
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted: Floats = np.empty_like(p)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted


def rank_p(real: float, controls: Sequence[float] | Floats) -> float:
    """Share of {real, controls} at least as large as `real`: exact under exchangeability, never below 1 / (1 + k)."""
    values = np.asarray(controls, dtype=np.float64)
    return (1 + int(np.sum(values >= real))) / (1 + values.size)
