"""What a difference between two settings on the same samples shows, and what it cannot.

Everything is paired (the same samples before and after) and clustered by picture unless its name says otherwise: questions
about one picture are resampled, change sign, or are counted together. Arrays: `delta_n` is after minus before per sample,
`groups` any labels of pictures.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from steercache.core.errors import UsageError
from steercache.stats.arrays import Float64Array, finite, group_index, sum_by_group, zero_or_one
from steercache.stats.binomial import log_binomial
from steercache.stats.clusters import design_effects
from steercache.stats.score_interval import score_bounds

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


def resamples(rng: np.random.Generator, n_groups: int, n_boot: int) -> Iterator[Float64Array]:
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
    """Interval of a mean difference, clustered by picture.

    Differences of right and wrong answers (-1, 0, 1) have Tango's score interval at an effective number of samples
    (`score_interval`, `clusters`): it keeps its coverage where few samples change. Where none changes at all it is what n
    pictures without a change still allow, since no change seen is not no change. Other differences have a bootstrap interval,
    pictures drawn with replacement: percentiles widened for few pictures (Hesterberg 2015, "expanded percentile").

    Raises:
        UsageError: not one group per sample, no sample, or a value that is not a finite number.
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
    delta = finite(delta_cn, "differences")
    index, n_groups = group_index(groups, delta.shape[1])
    if not 0 < level < 1:
        raise UsageError(f"level {level} is not between 0 and 1")
    signs = np.isin(delta, (-1, 0, 1)).all(axis=1)
    bounds = np.empty((2, len(delta)))
    bounds[:, signs] = _score_intervals(delta[signs], index, n_groups, level)
    bounds[:, ~signs] = _bootstrap_intervals(delta[~signs], index, n_groups, level, n_boot=n_boot, seed=seed)
    return tuple(
        Interval(
            estimate=float(estimate), low=float(low), high=float(high), level=level, n=delta.shape[1], n_groups=n_groups
        )
        for estimate, low, high in zip(delta.mean(axis=1), *bounds, strict=True)
    )


def _score_intervals(delta_cn: Float64Array, index: npt.NDArray[np.intp], n_groups: int, level: float) -> Float64Array:
    """Score bounds (2, c) at the effective number of samples of each row."""
    effect = design_effects(delta_cn, index, n_groups, cautious=True)
    n_c = delta_cn.shape[1] / effect
    critical = -student_quantile((1 - level) / 2, max(n_groups - 1, 1)) if n_groups > 1 else math.inf
    helped, hurt = (delta_cn > 0).sum(axis=1) / effect, (delta_cn < 0).sum(axis=1) / effect
    return np.stack(score_bounds(helped, hurt, n_c, np.full(len(delta_cn), critical)))


def _bootstrap_intervals(
    delta_cn: Float64Array, index: npt.NDArray[np.intp], n_groups: int, level: float, *, n_boot: int, seed: int
) -> Float64Array:
    """Percentile bounds (2, c), all rows from the same draws of pictures."""
    bounds = np.stack([delta_cn.mean(axis=1)] * 2)
    tail = _expanded_tail((1 - level) / 2, n_groups)
    counts = np.bincount(index, minlength=n_groups).astype(float)
    for start in range(0, len(delta_cn), AT_ONCE):
        rows = slice(start, start + AT_ONCE)
        sums = sum_by_group(delta_cn[rows], index, n_groups)
        rng = np.random.default_rng(seed)
        means = np.concatenate([(w @ sums.T) / (w @ counts)[:, None] for w in resamples(rng, n_groups, n_boot)])
        bounds[:, rows] = np.quantile(means, [tail, 1 - tail], axis=0)
    return bounds


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
    """Samples that became right (`helped`) and wrong (`hurt`), and the exact two-sided p of such a split by chance.

    `p_unclustered` takes every question as independent, which questions that share a picture are not: its error rate is then
    above its level (.09 to .16 at .05 with 5 questions a picture). `signs.sign_flip_p` is the same test by picture.
    """

    helped: int
    hurt: int
    p_unclustered: float


def mcnemar_exact(before_n: npt.ArrayLike, after_n: npt.ArrayLike) -> McNemar:
    """McNemar's exact test on right/wrong pairs, not clustered by picture.

    Raises:
        UsageError: arrays of different length, or values other than 0 and 1.
    """
    before, after = zero_or_one(before_n, "answers before"), zero_or_one(after_n, "answers after")
    if before.shape != after.shape:
        raise UsageError(f"{before.size} answers before and {after.size} after")
    helped, hurt = int(np.sum(after & ~before)), int(np.sum(before & ~after))
    n, k = helped + hurt, min(helped, hurt)
    logs = log_binomial(n) - n * math.log(2)
    p = min(1.0, 2 * float(np.exp(logs[: k + 1]).sum()))
    return McNemar(helped=helped, hurt=hurt, p_unclustered=p)


def holm(p_values: Sequence[float] | Float64Array) -> Float64Array:
    """P values adjusted for their number by Holm's step-down rule, in the order given.

    Raises:
        UsageError: a value that is no probability.
    """
    p = finite(p_values, "p values")
    if not np.all((p >= 0) & (p <= 1)):
        raise UsageError("p values must lie between 0 and 1")
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted: Float64Array = np.empty_like(p)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted


def rank_p(real: float, controls: Sequence[float] | Float64Array) -> float:
    """Share of {real, controls} at least as large as `real`: exact under exchangeability, never below 1 / (1 + k).

    Raises:
        UsageError: a value that is not finite: NaN is not at least as large as anything, so it would make p small.
    """
    value = float(finite(real, "values to be ranked"))
    values = finite(controls, "controls")
    return (1 + int(np.sum(values >= value))) / (1 + values.size)
