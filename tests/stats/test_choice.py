"""The choice rule on ties, and the bias of choosing on grids without and with an effect."""

import numpy as np
import pytest

from steercache.core.errors import UsageError
from steercache.stats.choice import choose_cell, rank_cells, selection_bias, with_test


def test_the_best_cell_is_chosen_and_ties_go_to_the_smallest_alpha() -> None:
    correct = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 1, 1], [0, 1, 1, 1]])
    assert choose_cell(correct, [0.1, 0.8, 0.4, 0.4]) == 2
    assert choose_cell(correct, [0.1, 0.2, 0.4, 0.4]) == 1
    assert choose_cell(correct, [0.1, 0.9, 0.9, 0.4]) == 3
    assert choose_cell(correct, [0.1, -0.2, 0.4, 0.4]) == 1
    assert choose_cell(correct, [0.1, 0.4, 0.4, 0.4]) == 1  # of equal alphas the first


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError):
        choose_cell(np.ones((3, 4)), [0.1, 0.2])
    with pytest.raises(UsageError):
        choose_cell(np.ones((0, 4)), [])
    with pytest.raises(UsageError, match="single picture"):
        selection_bias(np.ones((2, 4)), np.ones(4), ["a"] * 4, alphas=[1, 2])


def _null(rng: np.random.Generator, n_cells: int, n_pictures: int) -> tuple[np.ndarray, np.ndarray]:
    base = rng.random(n_pictures * 2) < 0.5
    flip = np.repeat(rng.random((n_cells, n_pictures)) < 0.15, 2, axis=1)
    return np.where(flip, rng.random((n_cells, n_pictures * 2)) < 0.5, base), base


def test_on_null_grids_the_naive_gain_is_large_and_the_corrected_one_is_about_zero() -> None:
    rng = np.random.default_rng(0)
    naive, corrected, test = [], [], []
    for run in range(16):
        right, base = _null(rng, 40, 120)
        fresh, fresh_base = _null(rng, 40, 120)
        groups = np.repeat(np.arange(120), 2)
        alphas = list(np.linspace(0.1, 1, 40))
        bias = selection_bias(right, base, groups, alphas=alphas, n_boot=100, seed=run)
        bias = with_test(bias, fresh[bias.chosen], fresh_base, groups)
        assert bias.chosen == choose_cell(right, alphas)
        assert bias.test is not None
        naive.append(bias.search.estimate)
        corrected.append(bias.held_out_gain)
        test.append(bias.test.estimate)
    assert np.mean(naive) > 0.025
    assert abs(np.mean(test)) < 0.01
    assert abs(np.mean(corrected)) < 0.25 * np.mean(naive)


def test_a_real_winner_wins_the_resamples_and_loses_little() -> None:
    rng = np.random.default_rng(1)
    right, base = _null(rng, 20, 150)
    right[7] = base | (rng.random(300) < 0.5)
    bias = selection_bias(right, base, np.repeat(np.arange(150), 2), alphas=[1.0] * 20, n_boot=300)
    assert bias.chosen == 7
    assert bias.frequency[7] > 0.99
    assert bias.frequency.sum() == pytest.approx(1)
    assert abs(bias.optimism) < 0.01
    assert bias.held_out_gain == pytest.approx(bias.search.estimate - bias.optimism)


def test_the_bias_equals_a_plain_loop_over_resamples() -> None:
    rng = np.random.default_rng(2)
    right, base = _null(rng, 6, 30)
    groups = np.repeat(np.arange(30), 2)
    alphas = [0.1, 0.2, 0.3, 0.3, 0.2, 0.1]
    delta = right.astype(float) - base
    gains = []
    for _ in range(1500):
        drawn = rng.integers(0, 30, 30)
        rows = np.concatenate([np.flatnonzero(groups == g) for g in drawn])
        out = ~np.isin(groups, drawn)
        winner = choose_cell(right[:, rows], alphas)
        gains.append(delta[winner, out].mean())
    bias = selection_bias(right, base, groups, alphas=alphas, n_boot=6000)
    assert bias.held_out_gain == pytest.approx(np.mean(gains), abs=4 * np.std(gains) / np.sqrt(1200))


def test_cells_that_did_not_finish_are_chosen_only_where_none_did() -> None:
    correct = np.array([[0, 0, 0], [0, 0, 0], [1, 1, 1]])
    assert choose_cell(correct, [0.1, 0.2, 0.3], finished_c=[False, True, False]) == 1
    assert choose_cell(correct, [0.1, 0.2, 0.3], finished_c=[True, True, False]) == 0
    assert choose_cell(correct, [0.1, 0.2, 0.3], finished_c=[False] * 3) == 2
    with pytest.raises(UsageError, match="finished or not"):
        choose_cell(correct, [0.1, 0.2, 0.3], finished_c=[True])
    bias = selection_bias(
        correct, [0, 1, 0], ["a", "b", "c"], alphas=[0.1, 0.2, 0.3], finished_c=[True, True, False], n_boot=50
    )
    assert (bias.chosen, bias.search.estimate) == (0, pytest.approx(-1 / 3))
    assert bias.frequency.tolist() == [1, 0, 0]


def test_a_ranking_begins_with_the_cell_that_is_chosen() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        correct = rng.integers(0, 2, size=(7, 5))
        alphas = rng.choice([-1.0, 0.5, 2.0], size=7).tolist()
        found = rank_cells(correct.sum(axis=1), alphas=alphas).tolist()
        by_hand = sorted(range(7), key=lambda c: (-correct[c].sum(), abs(alphas[c]), c))
        assert found == by_hand
        assert found[0] == choose_cell(correct, alphas)
