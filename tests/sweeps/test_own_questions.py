"""Own questions without pictures, answered by a text model: modes agree, splits hold, the ledger names the content."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from steercache.answers.replies import with_pixels
from steercache.benchmarks.task import ask, pick_rows
from steercache.cells.model import find_model
from steercache.core.errors import UsageError
from steercache.data.benchmarks import Benchmark, open_benchmark
from steercache.models.spec import LoadedModel
from steercache.queries.session import Session, open_session
from steercache.sweeps.evaluation import evaluate
from steercache.sweeps.ledger import read_entries
from tests.sweeps.small_run import options
from tests.sweeps.small_sweep import small_grid
from tests.world import World


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("own") / "cars.jsonl"
    colours = ("red", "blue", "green")
    rows = [
        {"question": f"The cat is {colours[i % 3]}. Which {i}?", "choices": colours, "answer": colours[i % 3]}
        for i in range(16)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def text_model(world: World) -> LoadedModel:
    root = world.session.cache.root
    return find_model(str(root / "models" / "zoo-tiny-backbone"), root).load(root, dtype="float32")


@pytest.mark.parametrize(
    "target", ["text", *(pytest.param(target, marks=pytest.mark.slow) for target in ("all", "last"))]
)
def test_branches_answer_as_full_passes_do(
    target: Any, questions: Path, text_model: LoadedModel, own_session: Session, tmp_path: Path
) -> None:
    benchmark = open_benchmark(str(questions))
    found: list[dict[tuple[str, str], Any]] = []
    shutil.copytree(own_session.cache.root, tmp_path / "second")
    for mode, session in (("branch", own_session), ("full", open_session(tmp_path / "second"))):
        asked = options(targets=(target,), mode=mode, controls=1, n=6, damage=False)
        vectors = [own_session.vector("counting")]
        one = evaluate(session, text_model, benchmark, vectors=vectors, options=asked)
        rows = session.sql("select * from answers where sweep_id = $s", s=one.sweep_id).to_arrow_table().to_pylist()
        found.append({(row["cell_id"], row["sample_id"]): (row["raw"], row["correct"]) for row in rows})
        assert one.n_samples == {"search": 6, "test": 6}
        assert {(row["status"], row["mode"]) for row in rows} == {("ok", mode)}
    assert found[0] == found[1]


def test_the_ledger_and_the_sweep_name_the_set_by_its_content(
    questions: Path, text_model: LoadedModel, own_session: Session
) -> None:
    benchmark = open_benchmark(str(questions))
    found = evaluate(own_session, text_model, benchmark, vectors=[], options=options(n=4))
    looks = read_entries(own_session.cache.root)
    assert [look.dataset for look in looks] == [benchmark.name] == [found.table.benchmark]
    assert benchmark.name.startswith("cars-")


def test_a_sweep_names_a_file_of_questions_beside_its_manifest(
    questions: Path, text_model: LoadedModel, own_session: Session
) -> None:
    tasks = [{"benchmark": {"path": questions.name}}]
    found = small_grid(
        own_session,
        text_model,
        questions.parent,
        tasks=tasks,
        targets=["text"],
        layers=[1, 2],
        n=4,
        model="tiny-backbone",
    )
    (task,) = found.tasks
    assert task.table.benchmark == open_benchmark(str(questions)).name
    assert {split.split: split.n for split in task.table.splits} == {"search": 4, "test": 4}
    with pytest.raises(UsageError, match="have no pictures"):
        small_grid(own_session, text_model, questions.parent, tasks=tasks, model="tiny-backbone")


def test_questions_of_text_have_no_pixels_and_a_text_model_refuses_pictures(
    questions: Path, text_model: LoadedModel, own_session: Session
) -> None:
    benchmark = open_benchmark(str(questions))
    asked = ask(pick_rows(benchmark, "search", n=3, orphans="test"), text_model.bundle, split="search")
    ready, broken = with_pixels(asked)
    assert (len(ready), broken) == (3, [])
    with pytest.raises(UsageError, match="reads no pictures"):
        evaluate(own_session, text_model, drawn(), vectors=[], options=options())


def drawn() -> Benchmark:
    return open_benchmark("scenes", task="Count", limit=6)
