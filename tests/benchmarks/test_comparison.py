"""A table's row from stored answers: failures stay in the count, and the numbers are those of the parts."""

import numpy as np
import pytest

from steercache.benchmarks.comparison import adjusted, compare, make_answer
from steercache.core.errors import UsageError
from steercache.core.examples import Labels
from steercache.core.trials import Answer
from steercache.stats.clusters import clustering
from steercache.stats.paired import holm, mcnemar_exact, paired_interval
from steercache.stats.signs import sign_flip_p

LABELS = Labels(split="test", choices=("left", "right"), answer="B", meta={"kind": "choice"})


def _answers(cell: str, raws: list[str | None]) -> list[Answer]:
    return [make_answer(LABELS, raw, cell_id=cell, sample_id=f"s{i}") for i, raw in enumerate(raws)]


def test_words_become_an_answer_and_no_words_a_failed_one() -> None:
    right, unread, failed = _answers("c", ["(b)", "who knows", None])
    assert (right.parsed, right.correct, right.status, right.split) == ("B", True, "ok", "test")
    assert (unread.parsed, unread.correct, unread.status) == (None, False, "ok")
    assert (failed.correct, failed.status, failed.error) == (None, "failed", "no answer was given")
    with pytest.raises(UsageError, match="s9"):
        make_answer(Labels(), "A", cell_id="c", sample_id="s9")


def test_a_row_holds_the_numbers_of_its_parts_and_counts_the_failed() -> None:
    rng = np.random.default_rng(0)
    old = [str(x) for x in rng.choice(["A", "B"], 120)]
    new: list[str | None] = [str(x) for x in np.where(rng.random(120) < 0.3, "B", old)]
    new[5] = new[17] = None
    groups = {f"s{i}": f"p{i // 2}" for i in range(120)}
    row = compare(_answers("base", list(old)), _answers("cell", new)[::-1], groups, right=dict.fromkeys(groups, "B"))
    kept = [i for i in range(120) if new[i] is not None]
    was, now = np.array([old[i] == "B" for i in kept]), np.array([new[i] == "B" for i in kept])
    assert (row.cell_id, row.n, row.n_failed) == ("cell", 118, 2)
    assert (row.before, row.after) == (was.mean(), now.mean())
    assert row.mcnemar == mcnemar_exact(was, now)
    assert row.gain == paired_interval(now.astype(float) - was, [f"p{i // 2}" for i in kept])
    assert row.p_clustered == sign_flip_p(now.astype(float) - was, [f"p{i // 2}" for i in kept]) < 0.01
    assert row.clusters == clustering(now.astype(float) - was, [f"p{i // 2}" for i in kept])
    assert row.letters.after == (int((~now).sum()), int(now.sum()))
    assert row.letters.right == (0, 118)
    assert row.detectable is not None
    assert row.detectable > 0.05
    assert adjusted([row, row]) == tuple(holm([row.p_clustered] * 2))


def test_answers_that_could_not_be_read_are_counted_on_both_sides() -> None:
    groups = {f"s{i}": f"p{i}" for i in range(4)}
    row = compare(_answers("base", ["A", "who knows", "B", None]), _answers("cell", ["A or B", "", "B", "B"]), groups)
    assert (row.n, row.unread_before, row.unread_after) == (3, 1 / 3, 2 / 3)


def test_of_a_cell_that_failed_throughout_nothing_is_known() -> None:
    groups = {f"s{i}": "p" for i in range(2)}
    found = compare(_answers("a", ["A", "B"]), _answers("b", [None, None]), groups)
    assert (found.n, found.n_failed, found.p_clustered, found.detectable) == (0, 2, 1.0, None)
    assert (found.gain.low, found.gain.high) == (-1.0, 1.0)
    assert (found.mcnemar.helped, found.mcnemar.hurt) == (0, 0)


def test_answers_that_do_not_pair_are_refused() -> None:
    groups = {f"s{i}": "p" for i in range(3)}
    one, two = _answers("a", ["A", "B"]), _answers("b", ["A", "B", "B"])
    with pytest.raises(UsageError, match="1 samples"):
        compare(one, two, groups)
    with pytest.raises(UsageError, match="in 2 cells"):
        compare(two, [*two[:2], *_answers("c", ["A", "B", "B"])[2:]], groups)
    with pytest.raises(UsageError, match="0 samples"):
        compare(_answers("a", [None, None]), _answers("b", ["A", "A"]), groups)
    with pytest.raises(UsageError, match="without a picture"):
        compare(one, _answers("b", ["A", "B"]), {})
