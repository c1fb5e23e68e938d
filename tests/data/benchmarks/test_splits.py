"""The published splits equal pandas' and scikit-learn's; grouped ones never part a picture."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from steercache.core.errors import UsageError
from steercache.data.benchmarks.splits import SplitPlan, check_rule, grouped_split, paper_split


@pytest.mark.parametrize("n_rows", [151, 650, 788, 600, 2638])
def test_the_cv_bench_split_is_the_tail_of_a_pandas_shuffle(n_rows: int) -> None:
    shuffled = pd.DataFrame({"row": range(n_rows)}).sample(frac=1, random_state=42)
    ours = paper_split(n_rows, SplitPlan(n_test=150))
    assert set(np.flatnonzero(ours == "test")) == set(shuffled["row"].to_numpy()[-150:])
    assert set(np.flatnonzero(ours == "search")) == set(shuffled["row"].to_numpy()[:-150])


@pytest.mark.parametrize("n_rows", [101, 143, 200, 408, 412, 70_000])
def test_the_other_splits_are_those_of_scikit_learn(n_rows: int) -> None:
    test, search = train_test_split(np.arange(n_rows), test_size=100, random_state=42)
    ours = paper_split(n_rows, SplitPlan(n_search=100))
    assert set(np.flatnonzero(ours == "search")) == set(search)
    assert set(np.flatnonzero(ours == "test")) == set(test)


def test_relation_and_count_of_cv_bench_have_the_published_sizes() -> None:
    sizes = {n: int((paper_split(n, SplitPlan(n_test=150)) == "search").sum()) for n in (650, 788)}
    assert sizes == {650: 500, 788: 638}


def test_sets_smaller_than_the_published_sizes_are_cut_as_published() -> None:
    assert (paper_split(21, SplitPlan(n_test=150)) == "test").sum() == 10
    _, search = train_test_split(np.arange(57), test_size=int(57 * 0.2), random_state=42)
    assert set(np.flatnonzero(paper_split(57, SplitPlan(n_search=100)) == "search")) == set(search)


@given(st.lists(st.sampled_from([f"picture {i}" for i in range(12)]), min_size=2, max_size=80), st.integers(1, 60))
def test_no_picture_is_on_both_sides_of_a_grouped_split(groups: list[str], size: int) -> None:
    for plan in (SplitPlan(n_test=size), SplitPlan(n_search=size)):
        sides: dict[str, set[str]] = {}
        names = grouped_split(groups, plan)
        for group, side in zip(groups, names, strict=True):
            sides.setdefault(group, set()).add(side)
        assert all(len(s) == 1 for s in sides.values())
        fixed = "test" if plan.n_test is not None else "search"
        filled = sum(1 for side in names if side == fixed)
        largest = max(groups.count(g) for g in groups)
        assert min(size, len(groups) // 2) <= filled < min(size, len(groups) // 2) + largest


questions = st.tuples(
    st.sampled_from([f"picture {i}" for i in range(9)]), st.sampled_from(["Relation", "Count", "Depth"])
)


@given(st.lists(questions, min_size=2, max_size=80), st.integers(1, 30))
def test_no_picture_is_on_both_sides_in_any_tasks_and_every_task_has_its_size(
    rows: list[tuple[str, str]], size: int
) -> None:
    groups, tasks = zip(*rows, strict=True)
    names = grouped_split(groups, SplitPlan(n_test=size), tasks=tasks)
    side = dict(zip(groups, names, strict=True))
    assert [side[g] for g in groups] == list(names)
    for task in set(tasks):
        n_test = sum(name == "test" for name, of in zip(names, tasks, strict=True) if of == task)
        assert n_test >= min(size, tasks.count(task) // 2)


def test_tasks_without_a_common_picture_are_split_as_if_each_were_alone() -> None:
    rows = [(f"{task}/{i % 40}", task) for i in range(90) for task in ("Relation", "Count")]
    names = grouped_split([g for g, _ in rows], SplitPlan(n_test=30), tasks=[t for _, t in rows])
    for task in ("Relation", "Count"):
        alone = grouped_split([g for g, t in rows if t == task], SplitPlan(n_test=30))
        assert [n for n, (_, t) in zip(names, rows, strict=True) if t == task] == list(alone)


def test_a_grouped_split_does_not_depend_on_the_order_of_the_rows() -> None:
    groups = [f"p{i % 37}" for i in range(120)]
    before = dict(zip(groups, grouped_split(groups, SplitPlan(n_test=30)), strict=True))
    after = dict(zip(groups[::-1], grouped_split(groups[::-1], SplitPlan(n_test=30)), strict=True))
    assert before == after


def test_an_unknown_rule_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="random"):
        check_rule("random")
