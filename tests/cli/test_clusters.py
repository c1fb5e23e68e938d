"""The line about shared pictures below a table."""

import numpy as np

from steercache.benchmarks.comparison import compare
from steercache.cli.clusters import clusters_line
from steercache.core.trials import Answer


def answers(cell: str, right: np.ndarray) -> list[Answer]:
    return [
        Answer(cell_id=cell, sample_id=f"s{i}", split="test", raw="A", parsed="A", correct=bool(r), status="ok")
        for i, r in enumerate(right)
    ]


def test_pictures_are_named_where_questions_share_them_and_only_there() -> None:
    rng = np.random.default_rng(0)
    before, after = np.repeat(rng.random((2, 40)) < 0.5, 3, axis=1)
    pictures = {f"s{i}": f"p{i // 3}" for i in range(120)}
    line = clusters_line(compare(answers("a", before), answers("b", after), pictures))
    assert line is not None
    assert "120 questions of 40 pictures" in line
    assert "design effect 3.0" in line
    alone = {f"s{i}": f"p{i}" for i in range(120)}
    assert clusters_line(compare(answers("a", before), answers("b", after), alone)) is None
