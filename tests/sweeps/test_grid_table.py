"""The grid's statistics against plain recomputations, where cells saw different samples too."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from steercache.benchmarks.questions import StoredQuestion
from steercache.core.errors import UsageError
from steercache.core.trials import Answer, Cell, Choice
from steercache.stats.choice import SelectionBias
from steercache.stats.paired import paired_interval, paired_intervals
from steercache.sweeps.cell_rows import CellRow, cell_rows
from steercache.sweeps.choosing import Answers
from steercache.sweeps.record import SweepRecord
from steercache.sweeps.tabulate import sweep_table

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


def questions() -> tuple[StoredQuestion, ...]:
    """Two questions about every picture."""
    return tuple(
        StoredQuestion(sample_id=f"s{i}", place=f"row {i}", split="search", right=None, group_id=f"g{i // 2}")
        for i in range(N)
    )


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
    rows = rows_of((none, full, part), base, answers, dropped=frozenset({part.cell_id}))
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
    rows = rows_of([cell(float(a)) for a in range(1, 12)], base, answers)
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
    record = record_of(plain, (weak, strong), answers, asked=questions())
    table = sweep_table(record)
    search, test = (table.row(split, "v") for split in ("search", "test"))
    assert search is not None
    assert test is not None
    gain = search.comparison.gain
    assert gain.estimate == pytest.approx(9 / 36)  # 10 became right, one of them is broken
    assert test.bias is not None
    assert test.bias.chosen == 1
    assert test.bias.search == test.bias.test == gain
    whole = tuple(one for one in questions() if one.sample_id not in broken)
    assert bias_on(record, whole).held_out_gain == test.bias.held_out_gain  # type: ignore[union-attr]
    assert bias_on(record, whole[:1]) is None
    assert [f.place for f in table.failures] == [f"row {i}" for i in (0, 1, 7, 20)] * 2


def rows_of(cells: Sequence[Cell], base: Cell, answers: Answers, **asked: Any) -> tuple[CellRow, ...]:
    by_id = {one.cell_id: one for one in cells}
    return cell_rows(dict.fromkeys(by_id, "v"), by_id, base.cell_id, questions(), answers, **asked)


def record_of(base: Cell, cells: Sequence[Cell], answers: Answers, *, asked: tuple[StoredQuestion, ...]) -> SweepRecord:
    """An evaluation that was asked the same on both splits, and took its last cell."""
    return SweepRecord(
        sweep_id="s",
        name="s",
        status="complete",
        manifest={},
        cells={one.cell_id: one for one in (base, *cells)},
        answers={"search": answers, "test": answers},
        questions=tuple(replace(one, split=None) for one in asked),
        choices=(
            Choice(arm="baseline", role="baseline", cell_id=base.cell_id, rule="single", n_cells=1),
            Choice(
                arm="v",
                role="vector",
                vector_id="v",
                cell_id=cells[-1].cell_id,
                rule="exhaustive",
                n_cells=len(cells),
            ),
        ),
    )


def bias_on(record: SweepRecord, asked: tuple[StoredQuestion, ...]) -> SelectionBias | None:
    row = sweep_table(replace(record, questions=tuple(replace(one, split=None) for one in asked))).row("search", "v")
    assert row is not None
    return row.bias
