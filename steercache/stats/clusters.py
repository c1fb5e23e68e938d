"""How much questions about one picture change together: the design effect of a clustered mean."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from steercache.stats.arrays import Float64Array, finite, group_index, sum_by_group


@dataclass(frozen=True, slots=True, kw_only=True)
class Clustering:
    """`n` samples of `n_groups` pictures. The variance of their mean is `design_effect` times that of n independent samples,
    so they show as much as n / design_effect of those. `icc` is the intra-class correlation that gives this effect at these
    sizes of pictures: 1 + (m - 1) icc with m the mean size of a sample's picture; None with one question per picture.
    """

    n: int
    n_groups: int
    design_effect: float
    icc: float | None

    @property
    def n_effective(self) -> float:
        """Independent samples that show as much."""
        return self.n / self.design_effect


def clustering(delta_n: npt.ArrayLike, groups: Sequence[Any] | npt.NDArray[Any]) -> Clustering:
    """The clustering of differences by picture. Raises UsageError as `finite` and `group_index`."""
    delta = finite(delta_n, "differences")
    index, n_groups = group_index(groups, delta.size)
    effect = float(design_effects(delta.reshape(1, -1), index, n_groups)[0])
    sizes = np.bincount(index, minlength=n_groups)
    spread = float((sizes**2).sum() / delta.size) - 1
    return Clustering(
        n=delta.size,
        n_groups=n_groups,
        design_effect=effect,
        icc=(effect - 1) / spread if spread > 0 else None,
    )


def design_effects(
    delta_cn: Float64Array, index: npt.NDArray[np.intp], n_groups: int, *, cautious: bool = False
) -> Float64Array:
    """Per row (c,): the linearised variance of the mean over pictures, divided by that of independent samples.

    At least 1, as a smaller estimate is noise more often than not, and at most the mean size of a sample's picture. Rows
    without any difference get the largest effect that they could have. `cautious` adds one picture that changes as a whole, so
    that few changes do not pass for independent ones. Source: Kish, "Survey Sampling" (1965).
    """
    n = delta_cn.shape[1]
    sizes = np.bincount(index, minlength=n_groups).astype(np.float64)
    largest = float((sizes**2).sum() / n)
    if n_groups < 2 or n_groups == n:
        return np.full(len(delta_cn), largest)
    mean = delta_cn.mean(axis=1, keepdims=True)
    sums = sum_by_group(delta_cn, index, n_groups) - mean * sizes
    between = n_groups / (n_groups - 1) * (sums**2).sum(axis=1)
    alone = n / (n - 1) * ((delta_cn - mean) ** 2).sum(axis=1)
    if cautious:
        between, alone = between + largest**2, alone + largest
    effect = np.divide(between, alone, out=np.full(len(delta_cn), largest), where=alone > 0)
    clipped: Float64Array = np.clip(effect, 1.0, largest)
    return clipped
