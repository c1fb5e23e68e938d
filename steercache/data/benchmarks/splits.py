"""Which question is for searching and which for testing: as published, or by picture.

The published splits come from pandas' `DataFrame.sample(frac=1)` and scikit-learn's `train_test_split`. Both draw one
permutation from numpy's legacy `RandomState`, whose stream is frozen; so they are made here without either package (the
tests hold them together).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from steercache.core.errors import UsageError

SplitRule = Literal["paper", "grouped"]
SPLIT_RULES: tuple[SplitRule, ...] = ("grouped", "paper")
SEED = 42  # the published one, for both rules

Names = npt.NDArray[np.object_]


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitPlan:
    """How large the parts of one set are: either `n_test` or `n_search` rows are set aside, the rest is the other part."""

    n_test: int | None = None
    n_search: int | None = None

    def __post_init__(self) -> None:
        if (self.n_test is None) == (self.n_search is None):
            raise ValueError("give either n_test or n_search")


def check_rule(rule: str) -> SplitRule:
    """Narrow a user's word to a split rule. Raises UsageError when it is neither."""
    for known in SPLIT_RULES:
        if rule == known:
            return known
    raise UsageError(f"unknown split rule {rule!r}", hint=f"one of: {', '.join(SPLIT_RULES)}")


def paper_split(n_rows: int, plan: SplitPlan, *, seed: int = SEED) -> Names:
    """The part ("search" or "test") of every row, shape (n_rows,), as the published code draws them.

    Sets too small for the published sizes are cut as the published code cuts them: half for testing, or a fifth for search.
    """
    order = np.random.RandomState(seed).permutation(n_rows)
    names: Names = np.full(n_rows, "search", dtype=object)
    if plan.n_test is not None:
        n_test = plan.n_test if plan.n_test < n_rows else n_rows // 2
        names[order[n_rows - n_test :]] = "test"
        return names
    n_search = plan.n_search or 0
    if n_search >= n_rows:
        n_search = int(n_rows * 0.2)
    names[order[n_search:]] = "test"
    return names


def grouped_split(groups: Sequence[str], plan: SplitPlan, *, seed: int = SEED) -> Names:
    """The part ("search" or "test") of every row, shape (n,); questions about one picture are never on both sides.

    Pictures are ordered by a hash of seed and name, so that a row more or less moves no other picture across, and the part
    of fixed size is filled with whole pictures until it has at least its size (never more than half of a tiny set).
    """
    counts: dict[str, int] = {}
    for group in groups:
        counts[group] = counts.get(group, 0) + 1
    wanted = plan.n_test if plan.n_test is not None else plan.n_search or 0
    wanted = min(wanted, len(groups) // 2)
    small, rest = ("test", "search") if plan.n_test is not None else ("search", "test")
    chosen: set[str] = set()
    filled = 0
    for group in sorted(counts, key=lambda g: hashlib.sha256(f"{seed}\0{g}".encode()).digest()):
        if filled >= wanted:
            break
        chosen.add(group)
        filled += counts[group]
    names: Names = np.array([small if group in chosen else rest for group in groups], dtype=object)
    return names
