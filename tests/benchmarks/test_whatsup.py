"""Single, pair and set accuracy of What'sUp, against counting by hand."""

import pytest

from steercache.benchmarks.whatsup import whatsup_score
from steercache.cli.sweep_tables import whatsup_line
from steercache.core.errors import UsageError

A = ["on", "under", "to the left of", "to the right of"]


def test_single_pair_and_set_accuracy_are_counted_by_hand() -> None:
    correct = [True, True, True, True, True, True, True, False, True, False, True, False]
    score = whatsup_score(correct, ["x"] * 4 + ["y"] * 4 + ["z"] * 4, A * 3)
    assert (score.individual, score.pair, score.whole_set) == (9 / 12, 3 / 6, 1 / 3)
    assert (score.n, score.n_pairs, score.n_sets, score.n_partial_sets) == (12, 6, 3, 0)
    assert score.n_right_pairs == 3
    assert whatsup_line(score) == "single 0.750, pairs 0.500 (3 of 6), sets 0.333 (3; 0 not whole)"


def test_sets_that_a_split_has_cut_are_counted_as_not_whole() -> None:
    score = whatsup_score([True, True, False], ["x", "x", "y"], ["in front of", "behind", "behind"])
    assert (score.pair, score.whole_set, score.n_partial_sets) == (1.0, None, 2)
    assert whatsup_line(score) == "single 0.667, pairs 1.000 (1 of 1), no whole set (2 not whole)"
    alone = whatsup_score([True], ["x"], ["on"])
    assert whatsup_line(alone) == "single 1.000, no whole pair, no whole set (1 not whole)"


def test_things_photographed_twice_make_two_sets() -> None:
    score = whatsup_score([True] * 4 + [False] * 4, ["x"] * 8, A * 2)
    assert (score.n_sets, score.whole_set) == (2, 0.5)


def test_captions_of_another_set_are_refused() -> None:
    with pytest.raises(UsageError, match="beside"):
        whatsup_score([True], ["x"], ["beside"])
    with pytest.raises(UsageError):
        whatsup_score([], [], [])
