"""The one choosing rule on answers: failed and unfinished cells are not chosen, a baseline without answers divides nothing."""

import pytest

from steercache.benchmarks.comparison import right_share
from steercache.core.trials import Answer
from steercache.sweeps.choosing import choose

SAMPLES = ["a", "b", "c"]


def answers(**cells: str) -> dict[tuple[str, str], Answer]:
    """By cell one letter a sample: r right, w wrong, f failed, - not asked."""
    return {
        (cell, sample): Answer(
            cell_id=cell,
            sample_id=sample,
            split="search",
            correct=None if letter == "f" else letter == "r",
            status="failed" if letter == "f" else "ok",
        )
        for cell, letters in cells.items()
        for sample, letter in zip(SAMPLES, letters, strict=True)
        if letter != "-"
    }


@pytest.mark.parametrize(
    ("cells", "alphas", "chosen"),
    [
        ({"x": "rww", "y": "rrw"}, [1, 9], "y"),
        ({"x": "rrw", "y": "wrr"}, [9, -2], "y"),
        ({"x": "rrw", "y": "wrr"}, [2, 2], "x"),
        ({"x": "fff", "y": "www"}, [1, 9], "y"),  # nothing is known of x
        ({"x": "rr-", "y": "rww"}, [1, 9], "y"),  # a race ended x early
        ({"x": "ffr", "y": "wrw"}, [1, 9], "x"),  # what failed is wrong, and x answered
        ({"x": "fff", "y": "fff"}, [9, 1], "y"),
    ],
)
def test_a_cell_is_chosen_by_right_answers_then_strength_then_order(
    cells: dict[str, str], alphas: list[float], chosen: str
) -> None:
    names = list(cells)
    assert names[choose(names, alphas, SAMPLES, answers(**cells))] == chosen


def test_where_every_question_failed_the_share_of_right_answers_is_0() -> None:
    assert right_share([*answers(x="fff").values()]) == 0
    assert right_share([*answers(x="frw").values()]) == 0.5
