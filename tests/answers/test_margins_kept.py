"""A margin is log p(right) - max log p(wrong): kept ones are used again only for the same options and right answer."""

import json
from pathlib import Path
from typing import Any

import pytest

from steercache.cells.model import find_model
from steercache.models.spec import LoadedModel
from steercache.queries.session import Session
from tests.sweeps.small_sweep import small_grid, stored_answers_of
from tests.world import World


@pytest.fixture(scope="module")
def text_model(world: World) -> LoadedModel:
    root = world.session.cache.root
    return find_model(str(root / "models" / "zoo-tiny-backbone"), root).load(root, dtype="float32")


def margins(
    session: Session, loaded: LoadedModel, folder: Path, rows: list[dict[str, Any]], **task: Any
) -> tuple[Any, dict[tuple[str, str], float]]:
    """A small sweep over questions without pictures: its task, and every margin by cell and sample."""
    folder.mkdir()
    (folder / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    small = {"targets": ["text"], "layers": [1], "alphas": [9], "n": None, "splits": ["search"]}
    tasks = [{"benchmark": {"path": "own.jsonl"}, **task}]
    (done,) = small_grid(session, loaded, folder, tasks=tasks, **small).tasks
    return done, {key: row["margin"] for key, row in stored_answers_of(session, done.sweep_id).items()}


def colours(answers: str) -> list[dict[str, Any]]:
    return [
        {"question": f"The cat is red. Which {i}?", "choices": ["red", "blue"], "answer": a, "split": "search"}
        for i, a in enumerate(answers)
    ]


def test_margins_of_a_corrected_answer_key_have_the_other_sign(
    own_session: Session, text_model: LoadedModel, tmp_path: Path
) -> None:
    first, was = margins(own_session, text_model, tmp_path / "one", colours("AAA"))
    second, now = margins(own_session, text_model, tmp_path / "two", colours("ABA"))
    assert was.keys() == now.keys()
    flipped = [key for key in was if now[key] != pytest.approx(was[key])]
    assert len({sample for _, sample in flipped}) == 1
    assert [now[key] for key in flipped] == pytest.approx([-was[key] for key in flipped])
    assert first.n_computed == 6
    assert (second.n_computed, second.n_reused) == (2, 4)


def test_margins_of_counts_are_against_the_counts_of_the_set_that_is_asked(
    own_session: Session, text_model: LoadedModel, tmp_path: Path
) -> None:
    def rows(*counts: int) -> list[dict[str, Any]]:
        return [{"question": f"How many {i}?", "answer": c, "split": "search"} for i, c in enumerate(counts)]

    _, few = margins(own_session, text_model, tmp_path / "few", rows(3, 4))
    _, many = margins(own_session, text_model, tmp_path / "many", rows(3, 4, 1, 2))
    again, alone = margins(own_session, text_model, tmp_path / "again", rows(3, 4))
    assert few.keys() < many.keys()
    assert any(many[key] < few[key] - 1e-4 for key in few)
    assert alone == pytest.approx(few)
    assert again.n_computed == 0
