"""Exact tests and false discovery rates against SciPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import false_discovery_control, fisher_exact

from steercache.core.errors import UsageError
from steercache.stats.exact import benjamini_hochberg, fisher_greater


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 300), st.data())
def test_fishers_test_is_that_of_scipy(n_marked: int, n_other: int, data: st.DataObject) -> None:
    inside = data.draw(st.lists(st.integers(0, n_marked), min_size=1, max_size=6))
    outside = [data.draw(st.integers(0, n_other)) for _ in inside]
    found = fisher_greater(inside, np.add(inside, outside), n_marked=n_marked, n_rows=n_marked + n_other)
    for p, a, c in zip(found, inside, outside, strict=True):
        expected = fisher_exact([[a, n_marked - a], [c, n_other - c]], alternative="greater").pvalue
        assert p == pytest.approx(expected, rel=1e-8, abs=1e-300)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_false_discovery_rates_are_those_of_scipy(p_values: list[float]) -> None:
    np.testing.assert_allclose(benjamini_hochberg(p_values), false_discovery_control(p_values, method="bh"), rtol=1e-12)


def test_counts_and_probabilities_that_cannot_be_are_refused() -> None:
    with pytest.raises(UsageError, match="exceed"):
        fisher_greater([3], [2], n_marked=5, n_rows=9)
    with pytest.raises(UsageError, match="marked"):
        fisher_greater([1], [2], n_marked=10, n_rows=9)
    with pytest.raises(UsageError, match="between 0 and 1"):
        benjamini_hochberg([0.5, 1.5])
