"""A forward pass that is not finite is a failed answer with a reason, and changes no verdict about anything else."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steercache.benchmarks.comparison import RankedGain, rank_among
from steercache.data.benchmarks import open_benchmark
from steercache.queries.session import Session
from steercache.steering.cells import NOT_FINITE
from steercache.steering.effects import WordMassPlan, word_mass_effect
from steercache.steering.mass_curves import rank_of_best, summarise_mass
from steercache.sweeps.evaluation import evaluate
from steercache.sweeps.grid import GridOptions
from tests.sweeps.small_run import options, vector
from tests.sweeps.small_sweep import small_grid, stored_answers_of
from tests.world import World

HUGE = 1e30
NULLS = GridOptions(nulls=3, null_kinds=("random",))
SMALL = {"n": 8, "layers": [3], "targets": ["text"]}


def test_a_strength_that_overflows_fails_and_changes_no_other_verdict(
    own_session: Session, world: World, tmp_path: Path
) -> None:
    counting = own_session.vector("counting")
    own_session.save(
        replace(counting, name="long", values=counting.values * np.float32(1e13), provenance={"by": "hand"})
    )
    same = {**SMALL, "vectors": ["long"], "allow_foreign": True}
    alphas = [3e-13, 9e-13]
    (plain,) = small_grid(own_session, world.loaded, tmp_path / "a", options=NULLS, alphas=alphas, **same).tasks
    (more,) = small_grid(own_session, world.loaded, tmp_path / "b", options=NULLS, alphas=[*alphas, 1e6], **same).tasks
    (row,) = [r for r in more.cells if r.cell.alpha == 1e6]
    assert (row.n_seen, row.n_failed, row.right, row.gain) == (8, 8, 0.0, None)
    for was, now in zip(plain.choices, more.choices, strict=True):
        assert now.cell == was.cell
        assert now.comparison == was.comparison
        tested = [task.table.row("test", now.name) for task in (plain, more)]
        assert tested[0] is not None
        assert tested[1] is not None
        assert tested[0].comparison == tested[1].comparison
        assert now.rank_p == was.rank_p is not None
        assert was.bias is not None
        assert now.bias is not None
        assert now.bias.search == was.bias.search
    stored = stored_answers_of(own_session, more.sweep_id)
    failed = [r for (cell, _), r in stored.items() if cell == row.cell.cell_id]
    assert {r["status"] for r in failed} == {"failed"}
    assert all(NOT_FINITE in r["error"] and r["raw"] is None and r["margin"] is None for r in failed)
    assert all(r["margin"] is None or np.isfinite(r["margin"]) for r in stored.values())
    assert own_session.sql("select status from sweeps where sweep_id = $s", s=more.sweep_id).fetchall() == [
        ("partly_failed",)
    ]


def test_an_evaluation_of_what_overflows_has_a_row_that_says_so(own_session: Session, world: World) -> None:
    found = evaluate(
        own_session,
        world.loaded,
        open_benchmark("scenes", task="Count", form="number"),
        vectors=[own_session.vector("counting")],
        options=options(
            alphas=(HUGE,), n=6, controls=2, control_kinds=("random",), prompting="", split="search", damage=True
        ),
    )
    (row,) = found.rows
    assert (row.comparison.n, row.comparison.n_failed) == (0, 6)
    assert (row.rank_p, row.p_holm) == (1.0, 1.0)
    assert not row.comparison.gain.excludes_zero
    assert row.damage is not None
    assert row.damage.n_failed == 16
    assert "failed" in str(row.damage)
    assert found.failures == ()  # the baseline answered


masses = st.lists(st.floats(0, 1), min_size=6, max_size=6)


@given(rows=st.lists(masses, min_size=3, max_size=6))
def test_a_strength_at_which_all_fails_changes_no_rank(rows: list[list[float]]) -> None:
    mass_vap = np.array(rows).reshape(len(rows), 2, 3)
    failing = np.concatenate([mass_vap, np.full((len(rows), 1, 3), np.nan)], axis=1)
    assert rank_of_best(failing) == rank_of_best(mass_vap) == by_hand(mass_vap.mean(axis=2).max(axis=1))
    plain, more = summarise_mass(mass_vap, (1.0, 3.0)), summarise_mass(failing, (1.0, 3.0, 1e6))
    assert more[:2] == plain
    assert np.isnan(more[2].mass)
    assert (more[2].p_random, more[2].n_failed) == (1.0, 3)


def by_hand(scores: Sequence[float] | np.ndarray[Any, Any]) -> float:
    return (1 + sum(s >= scores[0] for s in scores[1:])) / len(scores)


def test_a_random_direction_that_fails_is_not_beaten() -> None:
    mass_vap = np.array([[[0.9, 0.9]], [[np.nan, np.nan]], [[0.1, np.nan]], [[0.2, 0.3]]])
    assert rank_of_best(mass_vap) == 2 / 4
    assert rank_of_best(mass_vap[[1, 0, 2, 3]]) == 1.0


gains = st.tuples(st.integers(-4, 4), st.integers(0, 4)).map(lambda g: RankedGain(gain=g[0] / 4, n=4, n_failed=g[1]))


@given(real=gains, nulls=st.lists(gains, min_size=1, max_size=20), beaten=st.integers(1, 5))
def test_failing_nulls_never_make_a_vector_look_better(real: RankedGain, nulls: list[RankedGain], beaten: int) -> None:
    failed = [RankedGain(gain=-1.0, n=4, n_failed=4)] * beaten
    before, after = rank_among(real, nulls), rank_among(real, [*nulls, *failed])
    assert before is not None
    assert after is not None
    assert after >= before or np.isclose(after, before)
    assert rank_among(RankedGain(gain=1.0, n=4, n_failed=4), nulls) == 1.0


@pytest.mark.parametrize("scale", [1e20, 1e30])
def test_words_under_what_overflows_are_failed_answers(world: World, scale: float) -> None:
    loaded = world.loaded
    some = vector(np.random.default_rng(0).normal(size=(6, loaded.spec.hidden_size)).astype(np.float32))
    plan = WordMassPlan(
        words=("one", "two"), layer=2, alphas=(0.5, scale), prompts=("There are four", "The dog has"), n_random=2
    )
    effect = word_mass_effect(loaded, some, plan)
    huge = {c.cell_id for c in effect.cells if c.alpha == scale}
    assert {a.status for a in effect.answers if a.cell_id in huge} == {"failed"}
    assert {a.score for a in effect.answers if a.cell_id in huge} == {None}
    assert {a.status for a in effect.answers if a.cell_id not in huge} == {"ok"}
