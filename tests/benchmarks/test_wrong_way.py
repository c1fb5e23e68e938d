"""Samples moved the wrong way, against numpy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steercache.benchmarks.comparison import WrongWay, wrong_way
from steercache.core.trials import Answer

Given = tuple[bool | None, float | None]
GIVEN = st.tuples(st.sampled_from([True, False, None]), st.sampled_from([None, -1.0, 0.0, 0.5]))


def answer(cell: str, at: int, given: Given, *, of: str | None = "options") -> Answer:
    correct, margin = given
    return Answer(
        cell_id=cell,
        sample_id=str(at),
        split="search",
        raw=None if correct is None else "A",
        correct=correct,
        status="failed" if correct is None else "ok",
        margin=margin,
        margin_of=of,
    )


@settings(max_examples=30, deadline=None)
@given(pairs=st.lists(st.tuples(GIVEN, GIVEN), max_size=12))
def test_shares_are_those_of_the_answers_and_margins_that_both_cells_have(pairs: list[tuple[Given, Given]]) -> None:
    found = wrong_way((answer("a", i, was), answer("b", i, now)) for i, (was, now) in enumerate(pairs))
    right = np.array([[was[0], now[0]] for was, now in pairs if None not in (was[0], now[0])], dtype=bool).reshape(
        -1, 2
    )
    change = np.array([now[1] - was[1] for was, now in pairs if was[1] is not None and now[1] is not None])
    assert (found.n, found.n_margins) == (len(right), len(change))
    assert found.share == (pytest.approx((right[:, 0] & ~right[:, 1]).mean()) if len(right) else None)
    assert found.margin_share == (pytest.approx(0.5 - np.sign(change).mean() / 2) if len(change) else None)


def test_margins_of_other_options_are_not_compared_and_older_files_do_not_say() -> None:
    was = answer("a", 0, (True, 1.0))
    assert wrong_way([(was, answer("b", 0, (True, 0.0), of="other"))]) == WrongWay(
        n=1, share=0.0, n_margins=0, margin_share=None
    )
    assert wrong_way([(was, answer("b", 0, (False, 0.0), of=None))]) == WrongWay(
        n=1, share=1.0, n_margins=1, margin_share=1.0
    )


def test_margins_are_compared_as_they_are_stored() -> None:
    pair = (answer("a", 0, (True, 0.1)), answer("b", 0, (True, 0.1 - 1e-12)))  # equal in float32
    assert wrong_way([pair]).margin_share == 0.5
    assert str(wrong_way([pair])) == "0.0% (margin 50.0%)"
    assert str(wrong_way([])) == "-"
