"""The dial of `scenes`: the easy set is what it was, each property does what it says, and names say how hard a set is."""

import hashlib
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steercache.core.errors import ManifestError, UsageError
from steercache.data import open_dataset
from steercache.data.benchmarks import open_benchmark
from steercache.data.benchmarks.catalogue import find_benchmark
from steercache.data.benchmarks.drawn import HARD, SEED
from steercache.data.scenes import TASKS, Difficulty, make_example, set_name
from steercache.manifests.load import parse_manifest
from tests.data.scenes.test_scenes import true_answer

PROPERTIES = [field.name for field in fields(Difficulty)]
LEVELS = st.floats(0, 1).map(lambda level: round(level, 3))
DIFFICULTIES = st.fixed_dictionaries(dict.fromkeys(PROPERTIES, LEVELS)).map(lambda found: Difficulty(**found))
EASY_SETS = {  # of the release before there was a dial
    False: "d93c020296bc4a0b8a5c201853c66141519bed27c9a953fa8e06f717b117dc2c",
    True: "7b09fbe515e44bf6bd78456240c7261c8f834bd44fb1b660428c1ab55d32ec0b",
}


@pytest.mark.parametrize("shifted", [False, True])
def test_the_easy_set_is_what_it_was(shifted: bool) -> None:
    seen = hashlib.sha256()
    for idx in range(16):
        example = make_example(5, idx, shifted=shifted)
        seen.update(example.image(side=40).tobytes())
        seen.update((example.question.prompt + example.question.answer + example.group_id).encode())
    assert seen.hexdigest() == EASY_SETS[shifted]


@settings(max_examples=60, deadline=None)
@given(difficulty=DIFFICULTIES, idx=st.integers(0, 10**5), task=st.sampled_from(TASKS), shifted=st.booleans())
def test_the_answer_is_what_the_picture_shows_however_hard(
    difficulty: Difficulty, idx: int, task: str, shifted: bool
) -> None:
    example = make_example(3, idx, tasks=[task], shifted=shifted, difficulty=difficulty)  # type: ignore[list-item]
    assert example.question.word == true_answer(example)
    if task == "Relation":
        a, b = example.question.names
        apart = abs(a.x - b.x) if example.question.axis == "x" else abs(a.y - b.y)
        assert 0.24 - 0.18 * difficulty.distance - 1e-9 <= apart <= 1 - 0.76 * difficulty.distance + 1e-9


def of(task: str, **levels: float) -> list[object]:
    return [make_example(8, 2 * i, tasks=[task], difficulty=Difficulty(**levels)) for i in range(40)]  # type: ignore[list-item]


@pytest.mark.parametrize("task", ["Relation", "Count"])
def test_each_property_moves_what_it_says(task: str) -> None:
    def mean(value: object, **levels: float) -> float:
        return float(np.mean([value(example) for example in of(task, **levels)]))  # type: ignore[operator]

    def n_others(example: object) -> float:
        return len(example.scene.items) - (len(example.question.names) if task == "Count" else 2)  # type: ignore[attr-defined]

    def radius(example: object) -> float:
        return float(np.mean([item.radius for item in example.scene.items]))  # type: ignore[attr-defined]

    def contrast(example: object) -> float:
        return float(np.asarray(example.image(), np.float64).std())  # type: ignore[attr-defined]

    def edges(example: object) -> float:
        return float(np.abs(np.diff(np.asarray(example.image(), np.float64), axis=0)).mean())  # type: ignore[attr-defined]

    assert mean(n_others, objects=1) == pytest.approx(mean(n_others) + 3, abs=0.6)
    assert mean(radius, size=1) == pytest.approx(mean(radius) / 2, rel=0.05)
    assert mean(contrast, palette=1) < 0.5 * mean(contrast)
    assert mean(edges, clutter=1) > 1.3 * mean(edges)

    def nearest(example: object) -> float:
        places = np.array([(item.x, item.y) for item in example.scene.items])  # type: ignore[attr-defined]
        apart = np.abs(places[:, None] - places[None]).max(-1) + 9 * np.eye(len(places))
        return float(apart.min()) if len(places) > 1 else 9.0

    assert min(nearest(example) for example in of(task)) >= 0.22
    assert 0.11 <= min(nearest(example) for example in of(task, distance=1)) < 0.22


@given(difficulty=DIFFICULTIES)
def test_a_name_says_the_difficulty(difficulty: Difficulty) -> None:
    assert Difficulty.of_label(difficulty.label) == difficulty
    name = set_name(difficulty=difficulty)
    assert find_benchmark(name).name == name


@pytest.mark.parametrize(
    "name", ["scenes-level2", "scenes-level", "scenes-hue0.5", "scenes-level0.5x", "scenes-shifted-0.5"]
)
def test_a_name_that_says_none_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        open_benchmark(name, limit=1)
    with pytest.raises(UsageError, match="from 0 to 1"):
        Difficulty(size=float("nan"))


def test_the_hard_set_has_500_questions_to_search_and_500_to_test_in_each_task() -> None:
    for task in TASKS:
        bench = open_benchmark("scenes-hard", task=task, limit=40)
        assert {e.labels.group_id.rsplit("-", 3)[0] for e in bench} == {f"scenes{HARD[task].label}"}
    bench = open_benchmark("scenes-hard", task="Relation")
    assert [len(bench.part(split)) for split in ("search", "test")] == [500, 500]
    groups = [{e.labels.group_id for e in bench.part(split)} for split in ("search", "test")]
    assert not groups[0] & groups[1]


def test_a_manifest_has_the_dial(tmp_path: Path) -> None:
    def first(source: str) -> bytes:
        text = f"kind: dataset\nversion: 1\nname: seen\nsource: {{type: scenes, seed: {SEED}, n: 1, {source}}}\n"
        return next(iter(open_dataset(parse_manifest(text, file="seen.yaml"), base_dir=tmp_path))).images[0].load()  # type: ignore[arg-type]

    assert first("difficulty: 0.5") == make_example(SEED, 0, difficulty=Difficulty.of(0.5)).png()
    assert first("difficulty: 1") == make_example(SEED, 0, difficulty=Difficulty.of(1)).png()
    assert first("difficulty: {size: 1}") == make_example(SEED, 0, difficulty=Difficulty(size=1)).png()
    assert first("shifted: false") == make_example(SEED, 0).png()
    for wrong in ("difficulty: 2", "difficulty: {hue: 1}", "difficulty: hard"):
        with pytest.raises(ManifestError, match="difficulty"):
            first(wrong)
