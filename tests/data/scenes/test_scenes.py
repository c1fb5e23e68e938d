"""The drawn set: always the same for a seed, true to its own scenes, and in CV-Bench's schema."""

import io
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from steercache.core.errors import UsageError
from steercache.data.scenes import (
    COLOURS,
    SHAPES,
    TASKS,
    SceneExample,
    Task,
    iter_examples,
    make_example,
    plural,
    to_row,
    write_parquet,
)
from steercache.data.scenes.draw import fill_of
from steercache.data.scenes.layout import MIN_GAP


def true_answer(example: SceneExample) -> str:
    """The answer worked out again from the items' places and the question's words alone."""
    words = example.question.text.rstrip("?").split()
    items = example.scene.items
    if example.question.task == "Count":
        return str(sum(plural(item.shape) == words[2] for item in items))
    if example.question.task == "Attribute":
        return next(item.colour for item in items if item.shape == words[-1])
    if example.question.task == "Entity":
        return next(item.shape for item in items if item.colour == words[3])
    a, b = (next(item for item in items if item.shape == word) for word in (words[3], words[-1]))
    if set(example.question.choices) == {"left", "right"}:
        return "left" if a.x < b.x else "right"
    return "above" if a.y < b.y else "below"


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), idx=st.integers(0, 10**5), shifted=st.booleans())
def test_the_answer_is_what_the_picture_shows(seed: int, idx: int, shifted: bool) -> None:
    example = make_example(seed, idx, shifted=shifted)
    question = example.question
    assert question.word == true_answer(example)
    assert question.answer == f"({'ABCD'[question.choices.index(question.word)]})"
    assert len(set(question.choices)) == len(question.choices)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), idx=st.integers(0, 10**5))
def test_no_two_items_share_a_cell_of_the_five_by_five_grid(seed: int, idx: int) -> None:
    items = make_example(seed, idx).scene.items
    cells = {(int(item.x * 5), int(item.y * 5)) for item in items}
    assert len(cells) == len(items)
    for i, a in enumerate(items):
        assert all(max(abs(a.x - b.x), abs(a.y - b.y)) >= MIN_GAP for b in items[:i])


def test_an_example_does_not_depend_on_those_made_before_it() -> None:
    forward = [to_row(make_example(7, idx)) for idx in range(12)]
    backward = [to_row(make_example(7, idx)) for idx in reversed(range(12))]
    assert forward == backward[::-1]
    assert forward == [to_row(example) for example in iter_examples(7, 12)]


def test_another_seed_and_the_shifted_set_hold_other_pictures() -> None:
    pictures = {make_example(seed, 0, shifted=shifted).png() for seed in range(5) for shifted in (False, True)}
    assert len(pictures) == 10


@pytest.mark.parametrize("task", ["Relation", "Attribute", "Entity"])
def test_two_questions_about_one_picture_share_its_bytes_and_its_group(task: Task) -> None:
    first, second, third = (make_example(3, idx, tasks=[task]) for idx in (4, 5, 6))
    assert first.png() == second.png() != third.png()
    assert first.group_id == second.group_id != third.group_id
    assert first.question.prompt != second.question.prompt


def test_every_counting_question_has_a_picture_of_its_own() -> None:
    examples = [make_example(3, idx, tasks=["Count"]) for idx in range(20)]
    assert len({example.group_id for example in examples}) == 20


def test_an_items_middle_has_its_colour() -> None:
    for idx in range(30):
        example = make_example(11, idx)
        pixels = np.asarray(example.image())
        for item in example.scene.items:
            if item.shape != "moon":  # a crescent is empty in the middle
                middle = pixels[int(item.y * 100), int(item.x * 100)].astype(int)
                assert np.abs(middle - fill_of(item, shifted=False)).max() <= 3, item


@pytest.mark.parametrize("task", TASKS)
def test_answers_and_letters_are_balanced(task: Task) -> None:
    questions = [make_example(1, 2 * idx, tasks=[task]).question for idx in range(800)]
    for counts in (Counter(q.word for q in questions), Counter(q.answer for q in questions)):
        share = 1 / len(counts)
        slack = 4.5 * (share * (1 - share) / 800) ** 0.5
        assert all(abs(n / 800 - share) < slack for n in counts.values()), counts


def test_names_and_choices_are_words_of_the_set() -> None:
    for example in iter_examples(2, 40):
        if example.question.task == "Attribute":
            assert set(example.question.choices) <= set(COLOURS)
        if example.question.task == "Entity":
            assert set(example.question.choices) <= set(SHAPES)


def test_the_shifted_set_keeps_the_words_and_changes_the_look() -> None:
    plain = np.stack([np.asarray(make_example(5, i).image()).mean((0, 1)) for i in range(20)])
    shifted = np.stack([np.asarray(make_example(5, i, shifted=True).image()).mean((0, 1)) for i in range(20)])
    assert plain.mean() - shifted.mean() > 40  # light grounds against dark ones
    assert make_example(5, 0, shifted=True).source == "scenes-shifted"
    assert {make_example(5, i, shifted=True).question.text.split()[0] for i in range(20)} == {"Where", "How", "What"}


def test_a_picture_can_be_drawn_larger() -> None:
    assert make_example(5, 0).image(side=224).size == (224, 224)


@pytest.mark.parametrize(("seed", "idx", "tasks"), [(-1, 0, TASKS), (0, -1, TASKS), (0, 0, ()), (0, 0, ("Depth",))])
def test_a_wrong_call_is_refused_by_name(seed: int, idx: int, tasks: tuple[Task, ...]) -> None:
    with pytest.raises(UsageError):
        make_example(seed, idx, tasks=tasks)


def test_the_parquet_file_has_the_hubs_columns_and_types(tmp_path: Path) -> None:
    path = tmp_path / "test_2d.parquet"
    assert write_parquet(iter_examples(4, 9), path) == 9
    table = pq.read_table(path)
    types = {field.name: field.type for field in table.schema}
    assert types["image"] == pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    assert types["choices"] == pa.list_(pa.string())
    assert types["idx"] == pa.int64()
    assert {types[name] for name in ("type", "task", "question", "answer", "prompt", "filename", "source")} == {
        pa.string()
    }
    assert "group_id" not in types
    row = table.to_pylist()[3]
    assert row["prompt"].startswith(row["question"])
    assert Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB").size == (100, 100)
    assert row["image"]["bytes"] == make_example(4, 3).png()


def test_the_group_can_be_written_too(tmp_path: Path) -> None:
    write_parquet(iter_examples(4, 4), tmp_path / "a.parquet", group_id=True)
    rows = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert [row["group_id"] for row in rows] == [make_example(4, idx).group_id for idx in range(4)]


def test_an_empty_set_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        write_parquet([], tmp_path / "none.parquet")
    assert not (tmp_path / "none.parquet").exists()


def test_drawing_needs_no_torch() -> None:
    code = "import sys, steercache.data.scenes as s; s.make_example(0, 0).png(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
