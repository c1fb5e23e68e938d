"""The grid's statistics against plain recomputations, where cells saw different samples too."""

from dataclasses import replace

import numpy as np
import pytest

from steercache.benchmarks.task import EncodedQuestion
from steercache.cells.arms import Arm, ArmCell
from steercache.core.errors import UsageError
from steercache.core.examples import Labels
from steercache.core.trials import Answer, Cell
from steercache.stats.paired import paired_interval, paired_intervals
from steercache.sweeps.evaluation import table
from steercache.sweeps.grid.table import grid_rows

N = 40


def cell(alpha: float) -> Cell:
    return Cell(
        vector_id="v" if alpha else None,
        layer=1 if alpha else None,
        alpha=alpha,
        target="image",
        model_fingerprint="m",
        prompt_id="p",
    )


def questions() -> list[EncodedQuestion]:
    """Two questions about every picture."""
    return [
        EncodedQuestion(
            sample_id=f"s{i}", place=f"row {i}", split="search", labels=Labels(), group_id=f"g{i // 2}", encoded=None
        )
        for i in range(N)
    ]


def answers_of(name: Cell, states: str) -> dict[tuple[str, str], Answer]:
    """One letter a sample: r right, w wrong, f failed, - not asked."""
    return {
        (name.cell_id, f"s{i}"): Answer(
            cell_id=name.cell_id,
            sample_id=f"s{i}",
            split="search",
            correct=None if letter == "f" else letter == "r",
            status="failed" if letter == "f" else "ok",
        )
        for i, letter in enumerate(states)
        if letter != "-"
    }


def test_many_intervals_at_once_are_those_of_one_at_a_time() -> None:
    rng = np.random.default_rng(3)
    delta = rng.integers(-1, 2, size=(5, N)).astype(float)
    delta[2] = 0
    delta[3] *= 0.5  # values of their own, which are bootstrapped
    pictures = [f"g{i // 2}" for i in range(N)]
    for row, interval in zip(delta, paired_intervals(delta, pictures), strict=True):
        assert interval == paired_interval(row, pictures)
    with pytest.raises(UsageError, match="not finite"):
        paired_intervals([[1.0, float("nan")]], ["a", "b"])


def test_gains_are_over_what_both_answered_and_cells_that_saw_less_get_no_family_p() -> None:
    base, full, part, none = cell(0.0), cell(1.0), cell(2.0), cell(3.0)
    answers = (
        answers_of(base, "f" + "w" * (N - 1))
        | answers_of(full, "fr" + "w" * (N - 2))
        | answers_of(part, "rrr" + "-" * (N - 3))
        | answers_of(none, "f" + "-" * (N - 1))
    )
    arm = Arm(name="v", role="vector")
    settings = [ArmCell(arm=arm, cell=c) for c in (none, full, part)]
    rows = grid_rows(settings, base.cell_id, questions(), answers, dropped=frozenset({part.cell_id}))
    by_alpha = {row.cell.alpha: row for row in rows}
    assert [row.cell.alpha for row in rows] == [1.0, 3.0, 2.0]  # the dropped one last, however right it was
    assert (by_alpha[1.0].n_seen, by_alpha[1.0].n_failed, by_alpha[1.0].right) == (N, 1, 1 / (N - 1))
    assert by_alpha[1.0].gain is not None
    assert (by_alpha[1.0].gain.estimate, by_alpha[1.0].gain.n) == (1 / (N - 1), N - 1)
    assert (by_alpha[2.0].n_seen, by_alpha[2.0].right) == (3, 1.0)
    assert by_alpha[2.0].gain is not None
    assert (by_alpha[2.0].gain.estimate, by_alpha[2.0].gain.n) == (1.0, 2)  # the baseline failed on the first
    assert (by_alpha[3.0].n_seen, by_alpha[3.0].n_failed, by_alpha[3.0].gain) == (1, 1, None)
    assert {row.p_family for row in rows} == {None}


def test_the_family_p_of_a_strong_cell_is_small_and_of_noise_large() -> None:
    rng = np.random.default_rng(0)
    base = cell(0.0)
    was = rng.random(N) < 0.3
    strong, answers = was | (np.arange(N) % 2 == 0), {}
    for alpha, right in [(0.0, was), (1.0, strong), *((float(a), rng.random(N) < 0.3) for a in range(2, 12))]:
        answers |= answers_of(cell(alpha), "".join("r" if r else "w" for r in right))
    settings = [ArmCell(arm=Arm(name="v", role="vector"), cell=cell(float(a))) for a in range(1, 12)]
    rows = grid_rows(settings, base.cell_id, questions(), answers)
    p = {row.cell.alpha: row.p_family for row in rows}
    assert rows[0].cell.alpha == 1.0
    assert p[1.0] is not None
    assert p[1.0] < 0.01
    assert all(value is not None and value > 0.05 for alpha, value in p.items() if alpha != 1.0)


def test_the_gain_of_choosing_is_of_the_questions_that_the_tables_gain_is_of() -> None:
    plain, weak, strong = cell(0.0), cell(1.0), cell(2.0)
    answers = answers_of(plain, "rwwwrwww" * 5) | answers_of(weak, "rwrwrwww" * 5)
    broken = {f"s{i}" for i in (0, 1, 7, 20)}  # a picture that cannot be read fails in every cell
    answers |= answers_of(strong, "rrrwrwww" * 5)
    for (cell_id, sample), one in list(answers.items()):
        if sample in broken:
            answers[cell_id, sample] = replace(one, correct=None, status="failed")
    asked = questions()
    settings = [ArmCell(arm=Arm(name="v", role="vector"), cell=c) for c in (weak, strong)]
    bias = table.tested_bias(
        table.bias_of(settings, plain.cell_id, asked, answers, seed=0), strong.cell_id, plain.cell_id, asked, answers
    )
    gain = table.compared(strong.cell_id, plain.cell_id, asked, answers, seed=0).gain
    assert gain.estimate == pytest.approx(9 / 36)  # 10 became right, one of them is broken
    assert bias is not None
    assert bias.chosen == 1
    assert bias.search == bias.test == gain
    whole = [one for one in asked if one.sample_id not in broken]
    assert table.bias_of(settings, plain.cell_id, whole, answers, seed=0).held_out_gain == bias.held_out_gain  # type: ignore[union-attr]
    assert table.bias_of(settings, plain.cell_id, whole[:1], answers, seed=0) is None
