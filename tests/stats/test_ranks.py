"""Rank correlation against SciPy's."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from steercache.stats.ranks import mid_ranks, spearman

PAIRS = st.lists(st.tuples(st.integers(-5, 5), st.floats(-1e3, 1e3)), min_size=2, max_size=40)


@given(PAIRS)
def test_ranks_and_their_correlation_are_scipys(pairs: list[tuple[int, float]]) -> None:
    x, y = ([pair[k] for pair in pairs] for k in (0, 1))
    np.testing.assert_array_equal(mid_ranks(x), stats.rankdata(x))
    if len({*x}) == 1 or len({*y}) == 1:
        assert math.isnan(spearman(x, y))
    else:
        assert math.isclose(spearman(x, y), stats.spearmanr(x, y).statistic, abs_tol=1e-9)
