"""What training differences say about a vector: against plain loops over pairs, with directions fitted without them."""

import numpy as np
import pytest

from steercache.fit import diagnose, mean_shift
from steercache.fit.folds import assign_folds, group_rows
from steercache.fit.pairs import differences, paired_units
from steercache.fit.separation import d_prime
from steercache.fit.sides import split_sides
from tests.fit.planted import cos, planted
from tests.fit.test_pca import pairs


def test_the_differences_are_those_of_a_loop_over_sentences() -> None:
    sel, _ = planted(7)
    rows = sel.gather(1).astype(np.float64)
    found = differences(sel, split_sides(sel), 1)
    for unit, value in zip(found.unit_p, found.values_pd, strict=True):
        mine = sel.sample_idx == unit
        label = np.asarray(sel.label) == 1
        expected = rows[mine & label].mean(axis=0) - rows[mine & ~label].mean(axis=0)
        np.testing.assert_allclose(value, expected, atol=1e-6)
    some = differences(sel, split_sides(sel), 1, units=found.unit_p[::2])
    np.testing.assert_array_equal(some.values_pd, found.values_pd[::2])


def test_the_spread_of_differences_is_that_of_a_loop_over_folds() -> None:
    sel, positive, negative = pairs(25, 10)
    measured = diagnose(sel, mean_shift(sel), n_draws=0).diagnostics[0]
    sides = split_sides(sel)
    fold = assign_folds(group_rows(sel, sides), sides.label)
    of_pair = np.array([fold[np.asarray(sel.pair) == p][0] for p in range(25)])
    deltas = positive - negative
    cosines, scores = [], np.empty(len(sel))
    for p, delta in enumerate(deltas):
        without = deltas[of_pair != of_pair[p]].mean(axis=0)
        cosines.append(cos(delta, without))
        scores[np.asarray(sel.pair) == p] = sel.gather(0)[np.asarray(sel.pair) == p] @ without
    assert measured["difference_cosine"] == pytest.approx(np.mean(cosines), abs=1e-5)
    assert measured["difference_cosine_std"] == pytest.approx(np.std(cosines), abs=1e-5)
    assert measured["wrong_way"] == np.mean(np.array(cosines) < 0) > 0
    label = np.asarray(sel.label) == 1
    apart = []
    for f in range(int(fold.max()) + 1):
        one, other = scores[label & (fold == f)], scores[~label & (fold == f)]
        apart.append((one.mean() - other.mean()) / np.sqrt((one.var() + other.var()) / 2))
    assert measured["d_prime"] == pytest.approx(np.mean(apart), abs=1e-4)


def test_a_planted_direction_has_few_wrong_ways_and_labels_by_chance_have_half() -> None:
    sel, _ = planted(120, strength=6.0)
    nothing, something = diagnose(sel, mean_shift(sel), n_draws=0).diagnostics
    assert something["wrong_way"] < 0.05 < 0.3 < nothing["wrong_way"] < 0.7
    assert something["difference_cosine"] > 0.4 > 0.1 > abs(nothing["difference_cosine"])
    assert something["d_prime"] > 2 > 0.5 > abs(nothing["d_prime"])


def test_sentences_of_one_side_are_no_pairs() -> None:
    sel, _ = planted(6)
    label = np.asarray(sel.label).copy()
    label[sel.sample_idx < 4] = 0
    sides = split_sides(type(sel)(**{f: getattr(sel, f) for f in sel.__slots__} | {"label": label}))
    assert paired_units(sides).tolist() == [4, 5]


def test_scores_that_do_not_vary_have_no_d_prime() -> None:
    assert d_prime(np.array([1.0, 1.0, 0.0]), np.array([True, True, False])) is None
