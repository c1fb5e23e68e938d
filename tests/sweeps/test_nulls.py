"""The search among null directions: simulated grids, `eval`'s own controls, and cached gradients by hand."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from steercache.answers.batches import Runner
from steercache.answers.store import SweepWriter, stored_answers
from steercache.benchmarks.comparison import ranked_gain
from steercache.benchmarks.questions import questions_of
from steercache.benchmarks.task import EncodedQuestion, ask, pick_rows
from steercache.cells.arms import Arm, ArmCell, settings_of
from steercache.cells.controls import random_controls
from steercache.core.errors import UsageError
from steercache.core.examples import Labels
from steercache.core.trials import Answer, Cell
from steercache.core.vectors import SteeringVector
from steercache.data.benchmarks import open_benchmark
from steercache.queries.session import Session
from steercache.screening.nulls import screen_nulls
from steercache.steering.screen import GradientScreen
from steercache.sweeps.choices import best_setting, choice_of
from steercache.sweeps.evaluation import evaluate
from steercache.sweeps.nulls import null_settings
from steercache.sweeps.record import SweepRecord
from steercache.sweeps.table import ControlResult
from steercache.sweeps.tabulate import rank_controls
from tests.sweeps.small_run import options, vector
from tests.world import World

N, N_NULLS, N_CELLS = 100, 9, 3
SAID = tuple(Answer(cell_id="c", sample_id="s", split="search", correct=right) for right in (False, True))


def setting(arm: int | None, cell: int = 0) -> ArmCell:
    """Cell number `cell` of an arm; None is the baseline."""
    made = Cell(
        vector_id=None if arm is None else str(arm),
        layer=None if arm is None else cell,
        alpha=0.0 if arm is None else 1.0 + cell,
        target="text",
        model_fingerprint="f",
        prompt_id="plain",
    )
    role, of = ("baseline", None) if arm is None else ("control", "0") if arm else ("vector", None)
    return ArmCell(arm=Arm(name=str(arm), role=role, of=of), cell=made)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Placed:
    cell: Cell
    gain: float
    nulls: tuple[ControlResult, ...]
    p: float | None


@dataclass(frozen=True)
class Grids:
    """Settings and ids of a real vector (arm 0) and its nulls, made once."""

    baseline: ArmCell = field(default_factory=lambda: setting(None))
    arms: tuple[tuple[ArmCell, ...], ...] = field(
        default_factory=lambda: tuple(tuple(setting(a, c) for c in range(N_CELLS)) for a in range(1 + N_NULLS))
    )
    asked: tuple[EncodedQuestion, ...] = field(
        default_factory=lambda: tuple(
            EncodedQuestion(
                sample_id=str(i), place=str(i), split="search", labels=Labels(), group_id=str(i), encoded=None
            )
            for i in range(N)
        )
    )

    def answers(self, right_acn: Any, baseline_n: Any) -> dict[tuple[str, str], Answer]:
        found = {}
        rows = [(self.baseline, baseline_n)]
        rows += [(s, right_acn[a, c]) for a, arm in enumerate(self.arms) for c, s in enumerate(arm)]
        for one, right in rows:
            cell_id = one.cell.cell_id
            found.update({(cell_id, str(i)): SAID[int(r)] for i, r in enumerate(right)})
        return found

    def placed(self, right_acn: Any, baseline_n: Any, *, null_cells: int = N_CELLS, n_nulls: int = N_NULLS) -> Placed:
        """What every arm took, stored as a sweep, and where the real vector's stands among the nulls'."""
        answers = self.answers(right_acn, baseline_n)
        arms = [self.arms[0], *(arm[:null_cells] for arm in self.arms[1 : 1 + n_nulls])]
        taken = [best_setting(arm, self.asked, answers) for arm in arms]
        choices = [choice_of(taken[0], rule="exhaustive", n_cells=N_CELLS)]
        choices += [choice_of(one, rule="exhaustive", n_cells=null_cells) for one in taken[1:]]
        every = (self.baseline, *(s for arm in self.arms for s in arm))
        record = SweepRecord(
            sweep_id="s",
            name="s",
            status="complete",
            manifest={},
            cells={s.cell.cell_id: s.cell for s in every},
            answers={"search": answers},
            questions=questions_of({"search": self.asked}),
            choices=(choice_of(self.baseline, rule="single", n_cells=1), *choices),
        )
        controls, p = rank_controls(choices[0], record, "search")
        was, now = ([answers[one.cell.cell_id, q.sample_id] for q in self.asked] for one in (self.baseline, taken[0]))
        return Placed(cell=taken[0].cell, gain=ranked_gain(was, now).gain, nulls=controls, p=p)

    def p(self, right_acn: Any, baseline_n: Any, *, null_cells: int = N_CELLS) -> float:
        placed = self.placed(right_acn, baseline_n, null_cells=null_cells)
        assert placed.p is not None
        return placed.p


GRIDS = Grids()


def draw(rng: np.random.Generator) -> tuple[Any, Any]:
    """Right answers of every arm and cell, and of the baseline: questions differ in difficulty, arms do not."""
    ease_n = rng.beta(2, 2, size=N)
    common_cn = rng.normal(size=(N_CELLS, N))  # cells of one number hang together over arms
    own_acn = rng.normal(size=(1 + N_NULLS, N_CELLS, N))
    share = np.argsort(np.argsort((common_cn + own_acn).reshape(-1))).reshape(own_acn.shape) / own_acn.size
    return share < ease_n, rng.random(N) < ease_n


def test_p_is_uniform_where_the_vector_means_nothing() -> None:
    rng = np.random.default_rng(0)
    p = np.array([GRIDS.p(*draw(rng)) for _ in range(200)])
    assert set(np.round(p * (1 + N_NULLS), 9)) <= set(range(1, 2 + N_NULLS))
    for k in range(1, 1 + N_NULLS):
        level = k / (1 + N_NULLS)
        assert (p <= level + 1e-9).mean() <= level + 3 * np.sqrt(level * (1 - level) / 200)
    assert (p <= 0.5).mean() > 0.3  # ties make it larger, not useless


def test_nulls_that_do_not_search_would_be_beaten_too_often() -> None:
    rng = np.random.default_rng(0)
    p = np.array([GRIDS.p(*draw(rng), null_cells=1) for _ in range(200)])
    assert (p <= 0.1).mean() > 0.17


def test_a_planted_cell_is_found_and_gets_the_least_p() -> None:
    rng = np.random.default_rng(1)
    for _ in range(5):
        right, baseline = draw(rng)
        right[0, 1] |= rng.random(N) < 0.6
        placed = GRIDS.placed(right, baseline)
        assert placed.p == 1 / (1 + N_NULLS)
        assert placed.cell == GRIDS.arms[0][1].cell
        assert placed.gain == pytest.approx(right[0, 1].mean() - baseline.mean())
        best = [max(row.mean() for row in arm) - baseline.mean() for arm in right[1:]]
        assert [null.gain for null in placed.nulls] == pytest.approx(best)


def test_without_nulls_there_is_no_p() -> None:
    right, baseline = draw(np.random.default_rng(2))
    assert GRIDS.placed(right, baseline, n_nulls=0).p is None


def test_nulls_of_a_grid_are_those_that_eval_gives_the_same_search(own_session: Session, world: World) -> None:
    asked_for = options(layers=(1, 3), alphas=(3.0, 9.0), controls=4, split="search", prompting="", damage=False, n=10)
    bench = open_benchmark("scenes", task="Count", form="number", limit=60)
    vec = own_session.vector("counting")
    found = evaluate(own_session, world.loaded, bench, vectors=[vec], options=asked_for)
    (row,) = found.rows
    grids, notes = null_settings(own_session, world.loaded, vec, asked_for)
    assert [len(grid) for grid in grids] == [4] * 4
    assert not notes
    assert all(np.allclose(g[0].arm.vector.norms, vec.norms, rtol=1e-5) for g in grids if g[0].arm.vector is not None)
    asked = ask(pick_rows(bench, "search", n=10, orphans="search"), world.loaded.bundle, split="search")
    real = settings_of(Arm(name=vec.name, role="vector", vector=vec), world.loaded, asked_for)
    (baseline,) = settings_of(Arm(name="baseline", role="baseline"), world.loaded, asked_for)
    every = [baseline, *real, *(s for grid in grids for s in grid)]
    runner = Runner(
        loaded=world.loaded,
        options=asked_for,
        writer=SweepWriter(cache=own_session.cache, name="nulls", manifest={}),
        known=stored_answers(own_session.cache, [s.cell.cell_id for s in every]),
    )
    answers = runner.run(asked, every)
    assert runner.tally.n_computed == 0  # the same vectors, cells and samples
    taken = [best_setting(some, asked, answers) for some in (real, *grids)]
    assert taken[0].cell == row.cell
    assert [one.cell for one in taken[1:]] == [control.cell for control in row.controls]

    def gain(one: ArmCell) -> float:
        right = [bool(answers[one.cell.cell_id, q.sample_id].correct) for q in asked]
        return float(np.mean(right)) - float(
            np.mean([bool(answers[baseline.cell.cell_id, q.sample_id].correct) for q in asked])
        )

    gains = [gain(one) for one in taken]
    assert [control.gain for control in row.controls] == pytest.approx(gains[1:])
    assert row.rank_p == (1 + sum(null >= gains[0] - 1e-12 for null in gains[1:])) / 5


def planted_screen(rng: np.random.Generator, toward: np.ndarray[Any, Any], layers: Sequence[int]) -> GradientScreen:
    """Gradients of 40 samples with two or three options; that of the right one leans towards a direction."""
    n, k, d = 40, 3, len(toward)
    margins = rng.normal(size=(n, k)).astype(np.float32)
    margins[::3, 2] = np.nan
    right = rng.integers(0, 2, size=n)
    gradients = {layer: rng.normal(size=(n, k, d)).astype(np.float32) for layer in layers}
    for g in gradients.values():
        g[np.arange(n), right] += toward
    return GradientScreen(layers=tuple(layers), gradient_of=gradients.__getitem__, margins=margins, right=right)


def best_shift_by_hand(screens: dict[str, GradientScreen], vec: SteeringVector, layers: Any, alphas: Any) -> float:
    best = -np.inf
    for screen in screens.values():
        n_options = (~np.isnan(screen.margins)).sum(1)
        for layer in layers:
            moved = []
            for i, (row, right) in enumerate(zip(screen.margins, screen.right, strict=True)):
                wrong = [j for j in range(3) if j != right and not np.isnan(row[j])]
                worst = max(wrong, key=lambda j: row[j])
                g = screen.gradient_of(layer)[i]
                moved.append((g[right] - g[worst]) @ vec.at(layer) * (n_options[i] - 1) / n_options[i])
            best = max(best, *(alpha * np.mean(moved) for alpha in alphas))
    return float(best)


def test_screened_nulls_search_the_same_grid_by_cached_gradients() -> None:
    rng = np.random.default_rng(5)
    toward = rng.normal(size=16)
    screens = {target: planted_screen(rng, toward, (0, 2, 5)) for target in ("image", "text")}
    planted = vector(np.tile(toward, (6, 1)).astype(np.float32))
    nothing = vector(rng.normal(size=(6, 16)).astype(np.float32), name="nothing")
    layers, alphas = (2, 5), (-0.5, 1.0, 2.0)
    for vec in (planted, nothing):
        nulls = random_controls(vec, count=99, seed=3)
        found = screen_nulls(screens, vec, nulls, layers=layers, alphas=alphas)
        by_hand = [best_shift_by_hand(screens, v, layers, alphas) for v in (vec, *nulls)]
        assert found.shift == pytest.approx(by_hand[0], rel=1e-4)
        np.testing.assert_allclose(found.null_shifts, by_hand[1:], rtol=1e-4)
        assert found.p == (1 + sum(shift >= by_hand[0] for shift in by_hand[1:])) / 100
        assert set(found.ranks) == {"image", "text"}
        if vec is planted:
            assert found.p == 0.01
            assert all(np.allclose(ranks, 0.01) for ranks in found.ranks.values())
        else:
            assert found.p > 0.05


def test_a_screening_of_nulls_says_what_it_lacks() -> None:
    rng = np.random.default_rng(5)
    screens = {"text": planted_screen(rng, rng.normal(size=16), (0, 2))}
    vec = vector(rng.normal(size=(6, 16)).astype(np.float32))
    nulls = random_controls(vec, count=2)
    with pytest.raises(UsageError, match="no gradients at layer 5"):
        screen_nulls(screens, vec, nulls, layers=(2, 5), alphas=(1.0,))
    with pytest.raises(UsageError, match="needs nulls"):
        screen_nulls(screens, vec, (), layers=(2,), alphas=(1.0,))
