"""The race's promise on planted and null grids, its evidence against exact probabilities, and the work it saves."""

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steercache.core.errors import UsageError
from steercache.stats.evidence import forbidden_lead, read_on, start_lead_bets
from steercache.stats.racing import RaceResult, race

Right = npt.NDArray[np.bool_]


def _run(right: Right, **options: object) -> RaceResult:
    return race(*right.shape, lambda cells, samples: right[np.ix_(cells, samples)], **options)  # type: ignore[arg-type]


def _kept(right: Right, result: RaceResult) -> bool:
    totals = right.sum(axis=1)
    return bool(totals.max() - totals[result.best] <= result.tolerance * right.shape[1] + 1e-9)


def _all_evidence(x: npt.NDArray[np.int_], *, start: int, n_samples: int, lead: int) -> npt.NDArray[np.float64]:
    bets = start_lead_bets(x[:, :start], n_samples=n_samples, lead=lead)
    return read_on(bets, np.arange(len(x)), x[:, start:])


def _population(n: int, discordant: int, lead: int) -> npt.NDArray[np.int_]:
    plus = (discordant + lead) // 2
    minus = plus - lead
    return np.array([1] * plus + [-1] * minus + [0] * (n - plus - minus))


@pytest.mark.parametrize(
    ("n", "discordant", "lead"), [(100, 10, 2), (500, 50, 6), (500, 6, 6), (50, 50, 2), (200, 101, 3)]
)
@pytest.mark.parametrize("start", [0, 7])
def test_evidence_against_what_is_true_ever_reaches_a_level_no_more_often_than_allowed(
    n: int, discordant: int, lead: int, start: int
) -> None:
    rng = np.random.default_rng(n + start)
    x = rng.permuted(np.tile(_population(n, discordant, lead), (3000, 1)), axis=1)
    highest = _all_evidence(x, start=start, n_samples=n, lead=lead).max(axis=1)
    for level in (0.5, 0.05, 0.01):
        share = float(np.mean(highest >= -math.log(level)))
        assert share <= level + 3 * math.sqrt(level * (1 - level) / 3000)
    assert np.mean(highest >= math.log(2)) > 0.1  # it is evidence, not silence


def test_evidence_is_a_martingale_at_the_edge_of_the_hypothesis() -> None:
    """Over all orders of a tiny split whose lead is exactly the forbidden one, K has mean 1 at every time but the last."""
    population = (1, 1, -1, 0, 0, 1)
    orders = np.array(sorted(set(_permutations(population))))
    weights = np.ones(len(orders))  # every distinct order is equally likely
    evidence = np.exp(_all_evidence(orders, start=0, n_samples=6, lead=2))
    means = np.average(evidence, axis=0, weights=weights)
    np.testing.assert_allclose(means[:-1], 1.0, atol=1e-9)
    assert means[-1] <= 1 + 1e-9


def _permutations(items: tuple[int, ...]) -> list[tuple[int, ...]]:
    if len(items) <= 1:
        return [items]
    return [
        (item, *rest)
        for i, item in enumerate(items)
        if item not in items[:i]
        for rest in _permutations(items[:i] + items[i + 1 :])
    ]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 20), st.integers(1, 4))
def test_evidence_read_in_blocks_equals_evidence_read_at_once(seed: int, start: int, lead: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(-1, 2, size=(3, 40))
    whole = _all_evidence(x, start=start, n_samples=60, lead=lead)
    bets = start_lead_bets(x[:, :start], n_samples=60, lead=lead)
    cuts = sorted({start, *rng.integers(start, 41, size=3).tolist(), 40})
    parts = [read_on(bets, np.arange(3), x[:, a:b]) for a, b in itertools.pairwise(cuts)]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(bets.best, np.maximum(whole.max(axis=1), 0), rtol=1e-9, atol=1e-9)


def test_a_lead_that_can_no_longer_be_reached_is_refuted_for_certain() -> None:
    x = np.array([[-1] * 6 + [0] * 3])
    evidence = _all_evidence(x, start=0, n_samples=10, lead=1)
    assert evidence[0, -1] > 1e6
    assert evidence[0, 1] < 1e6


def test_the_forbidden_lead_is_the_first_whole_sample_beyond_the_tolerance() -> None:
    for n in (50, 100, 150, 500, 638):
        lead = forbidden_lead(0.01, n)
        assert (lead - 1) / n <= 0.01 + 1e-12 < lead / n + 1e-12


def _grid(rng: np.random.Generator, kind: str, *, n_cells: int, n: int) -> Right:
    """Cells that differ from a baseline in few samples: without effect, or one region better and strong alphas broken."""
    base = rng.random(n) < 0.55
    strength = np.tile([0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0], n_cells // 7 + 1)[:n_cells]
    right = np.empty((n_cells, n), dtype=np.bool_)
    for i, a in enumerate(strength):
        up = down = min(0.3, 0.08 * a)
        if kind == "planted":
            up += 0.10 * min(a, 0.8) if i % 3 == 0 else 0.0
            down += 0.3 if a >= 1 else 0.0
        r = rng.random(n)
        right[i] = np.where(base, r >= down / 0.55, r < up / 0.45)
    return right


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["planted", "null"])
def test_the_promise_is_kept_in_200_resamples_of_one_grid_of_full_size(kind: str) -> None:
    """As `make bench` reports it: 112 cells, 500 samples, the split drawn anew from one grid each time."""
    rng = np.random.default_rng(12)
    grid = _grid(rng, kind, n_cells=112, n=2000)
    results = []
    for run in range(200):
        right = grid[:, rng.choice(2000, 500, replace=False)]
        result = _run(right, seed=run)
        results.append((_kept(right, result), result.work))
    kept, work = np.mean(results, axis=0)
    assert kept >= 0.95
    assert work < 0.9


@pytest.mark.parametrize("kind", ["planted", "null"])
def test_the_promise_is_kept_on_grids_with_and_without_an_effect(kind: str) -> None:
    rng = np.random.default_rng(3)
    n_runs, kept, work = 100, 0, []
    for run in range(n_runs):
        right = _grid(rng, kind, n_cells=28, n=200)
        result = _run(right, seed=run, look_every=10)
        kept += _kept(right, result)
        work.append(result.work)
    assert kept / n_runs >= 0.95
    assert np.mean(work) < (0.75 if kind == "planted" else 0.95)


def test_the_promise_holds_where_the_best_cell_hides_and_fails_when_the_level_is_given_away() -> None:
    """All cells alike but one, that is better by just more than the tolerance: the hardest grid for early stopping."""
    rng = np.random.default_rng(4)
    n, n_runs = 300, 150
    lead = forbidden_lead(0.01, n)
    failures = {0.05: 0, 0.9: 0}
    for run in range(n_runs):
        right = np.tile(rng.random(n) < 0.5, (8, 1))
        best = int(rng.integers(8))
        right[best, np.flatnonzero(~right[best])[:lead]] = True
        for error in failures:
            failures[error] += not _kept(right, _run(right, seed=run, error=error, look_every=20))
    assert failures[0.05] / n_runs <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / n_runs)
    assert failures[0.9] / n_runs > 0.1


def test_successors_are_named_and_the_promise_survives_them() -> None:
    """The first reference is the worst cell, so everything depends on the chain of references."""
    rng = np.random.default_rng(5)
    n_runs, kept, chains = 60, 0, 0
    for run in range(n_runs):
        shares = rng.permutation(np.linspace(0.4, 0.7, 12))
        base = rng.random(300)
        right = np.array([np.where(rng.random(300) < 0.7, base, rng.random(300)) < share for share in shares])
        result = _run(right, seed=run, first=int(np.argmin(right.sum(axis=1))), look_every=15)
        kept += _kept(right, result)
        chains += len(result.references) > 2
    assert kept / n_runs >= 0.95
    assert chains > 20


def test_a_clear_winner_is_found_with_little_work() -> None:
    rng = np.random.default_rng(6)
    right = rng.random((50, 500)) < 0.4
    right[31] = rng.random(500) < 0.9
    result = _run(right, seed=0)
    assert result.best == 31
    assert not result.exact
    assert result.work < 0.25
    assert result.seen[31] == result.seen.max() < 500
    assert (result.dropped_by[np.arange(50) != 31] >= 0).all()


def test_each_answer_is_asked_for_once_and_the_account_is_right() -> None:
    rng = np.random.default_rng(7)
    right = _grid(rng, "planted", n_cells=21, n=150)
    asked = np.zeros_like(right, dtype=int)

    def evaluate(cells: npt.NDArray[np.int64], samples: npt.NDArray[np.int64]) -> Right:
        asked[np.ix_(cells, samples)] += 1
        return right[np.ix_(cells, samples)]

    result = race(21, 150, evaluate, seed=2)
    assert asked.max() == 1
    assert asked.sum(axis=1).tolist() == result.seen.tolist()
    assert result.work == pytest.approx(asked.mean())
    for cell in range(21):
        read = result.order[: result.seen[cell]]
        assert asked[cell, read].all()
        assert result.mean[cell] == pytest.approx(right[cell, read].mean())


def test_equal_cells_give_the_first_one_and_without_tolerance_the_result_is_exact() -> None:
    right = np.tile(np.random.default_rng(8).random(80) < 0.5, (6, 1))
    assert _run(right, seed=1).best == 0
    graded = np.array([np.arange(60) < k for k in (30, 31, 33, 33)])
    for seed in range(8):
        assert _run(graded, seed=seed, tolerance=0.0, error=1e-12).best == 2


def test_the_same_seed_gives_the_same_race() -> None:
    right = _grid(np.random.default_rng(9), "planted", n_cells=14, n=120)
    one, two, other = (_run(right, seed=s) for s in (5, 5, 6))
    assert one.seen.tolist() == two.seen.tolist()
    assert one.order.tolist() != other.order.tolist()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(1, 30), st.integers(0, 1000), st.integers(1, 40))
def test_small_and_odd_races_end_with_a_cell_that_was_read(n_cells: int, n: int, seed: int, step: int) -> None:
    right = np.random.default_rng(seed).random((n_cells, n)) < 0.5
    result = _run(right, seed=seed, look_every=step)
    assert 0 <= result.best < n_cells
    assert result.dropped_by[result.best] == -1
    if result.exact:
        survivors = np.flatnonzero(result.seen == n)
        assert right[result.best].sum() == right[survivors].sum(axis=1).max()


def test_answers_of_another_shape_or_kind_are_refused() -> None:
    with pytest.raises(UsageError, match="shape"):
        race(3, 10, lambda cells, samples: np.ones((1, 1)))
    with pytest.raises(UsageError, match="0/1"):
        race(3, 10, lambda cells, samples: np.full((len(cells), len(samples)), 0.5))
    with pytest.raises(UsageError):
        race(0, 10, lambda cells, samples: np.ones((0, 0)))
    with pytest.raises(UsageError, match="none of 3 cells"):
        race(3, 10, lambda cells, samples: np.ones((0, 0)), first=3)
