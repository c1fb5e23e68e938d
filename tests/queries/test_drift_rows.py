"""Which rows of two runs belong together: whole inputs by token and place, or their text tokens alone."""

from pathlib import Path

import pytest

from steercache.queries.session import Session, open_session
from tests.index.small import Sentence
from tests.queries.small_cache import add_run


@pytest.fixture
def session(tmp_path: Path) -> Session:
    """`asked` holds two questions, one of them twice; `seen` the first beside two pictures, and one of its own."""
    root = tmp_path / "cache"
    asked = [Sentence(text="how many", bos=True), Sentence(text="look under"), Sentence(text="how many", bos=True)]
    seen = [
        Sentence(text="how many", n_image=3),
        Sentence(text="how many", n_image=3, bos=True, kept=[0, 1, 2, 3, 5]),
        Sentence(text="many how", n_image=3),
    ]
    add_run(root, "asked", [asked])
    add_run(root, "seen", [seen], modality="multimodal", model="seer")
    return open_session(root)


def pairs(session: Session, **bindings: object) -> list[tuple[object, ...]]:
    table = session.query("drift_rows", **bindings).to_arrow_table().to_pylist()
    return [(row["row_idx"], row["other_row_idx"], row["piece"], row["role"]) for row in table]


def test_words_beside_pictures_find_those_without_one(session: Session) -> None:
    found = pairs(session, run="asked", other="seen", text_only=True)
    assert found == [(1, 3, "how", "text"), (2, 4, "many", "text"), (2, 9, "many", "text")]


def test_whole_inputs_differ_where_one_has_a_picture(session: Session) -> None:
    assert pairs(session, run="asked", other="seen") == []


def test_an_input_that_is_there_twice_is_compared_with_its_first(session: Session) -> None:
    found = pairs(session, run="asked", other="asked")
    assert [(a, b) for a, b, *_ in found] == [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (0, 5), (1, 6), (2, 7)]
    assert [role for *_, role in found] == ["first", "text", "text", "first", "text", "first", "text", "text"]
