"""Which question is for searching and which for testing: as published, or by picture.

The published splits come from pandas' `DataFrame.sample(frac=1)` and scikit-learn's `train_test_split`. Both draw one
permutation from numpy's legacy `RandomState`, whose stream is frozen; so they are made here without either package (the
tests hold them together).
"""

import hashlib
from collections import Counter
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


def grouped_split(
    groups: Sequence[str], plan: SplitPlan, *, tasks: Sequence[str] | None = None, seed: int = SEED
) -> Names:
    """The part ("search" or "test") of every row, shape (n,); questions about one picture are never on both sides.

    Pictures are ordered by a hash of seed and name, so that adding or removing a row moves few other pictures. They are put
    into the part of fixed size, whole, in that order, as long as one of their tasks still lacks rows there (never more than
    half of a tiny task is required). A picture that several tasks ask about is on the same side in all of them, so
    a task may get more than the plan's size. `tasks` has one name a row; without it the rows are one task.

    Raises:
        ValueError: not one task a row.
    """
    of_row = ["" for _ in groups] if tasks is None else tasks
    size = plan.n_test if plan.n_test is not None else plan.n_search or 0
    missing = {task: min(size, n // 2) for task, n in Counter(of_row).items()}
    counts: dict[str, Counter[str]] = {}
    for group, task in zip(groups, of_row, strict=True):
        counts.setdefault(group, Counter())[task] += 1
    small, rest = ("test", "search") if plan.n_test is not None else ("search", "test")
    chosen: set[str] = set()
    for group in sorted(counts, key=lambda g: hashlib.sha256(f"{seed}\0{g}".encode()).digest()):
        if any(missing[task] > 0 for task in counts[group]):
            chosen.add(group)
            for task, n in counts[group].items():
                missing[task] -= n
    names: Names = np.array([small if group in chosen else rest for group in groups], dtype=object)
    return names
