"""What the system refuses while files are read (open files, memory, permissions) is said to be that, and no damage."""

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from steercache.answers.mode import FILE_NAME, begun_in
from steercache.benchmarks.questions import read_questions
from steercache.cache.answer_files import read_answers
from steercache.cache.handle import CacheFolder, open_cache
from steercache.cache.sweep_files import read_choices, read_sweep_files
from steercache.cache.sweeps import begin_sweep, save_choices, save_sweep
from steercache.cache.vector_files import read_vector
from steercache.cache.vectors import save_vector
from steercache.core.errors import BudgetError
from steercache.core.trials import Answer, Cell, Choice
from steercache.core.vectors import SteeringVector
from steercache.index.schemas import ANSWERS, check_parquet

MANIFEST = {"kind": "test"}


def cell(number: int) -> Cell:
    return Cell(
        vector_id=None, layer=None, alpha=float(number), target="all", model_fingerprint="f" * 64, prompt_id="p"
    )


@contextmanager
def open_files(*, spare: int = 0) -> Iterator[None]:
    """A process that may open so many files more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    try:
        while True:
            try:
                held.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                break
        for _ in range(spare):
            os.close(held.pop())
        yield
    finally:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def cache(tmp_path: Path) -> CacheFolder:
    return open_cache(tmp_path / "root", create=True)


@pytest.fixture
def sweep(cache: CacheFolder) -> Path:
    answers = [Answer(cell_id=cell(1).cell_id, sample_id="1", split="test", raw="A")]
    sweep_id = save_sweep(cache, "s", manifest=MANIFEST, cells=[cell(1)], answers=answers)
    save_choices(
        cache,
        sweep_id,
        [Choice(arm="a", role="baseline", cell_id=cell(1).cell_id, rule="single", n_cells=1)],
    )
    folder = cache.paths.sweep(sweep_id)
    (folder / FILE_NAME).write_text("{}")
    (folder / "questions.json").write_text('{"questions": []}')
    return folder


READERS: dict[str, Callable[[Path], object]] = {
    "sweep": read_sweep_files,
    "choices": read_choices,
    "answers": lambda folder: read_answers(folder / "answers" / "00000.parquet"),
    "parquet": lambda folder: check_parquet(folder / "answers" / "00000.parquet", ANSWERS),
    "modes": begun_in,
    "questions": read_questions,
}


@pytest.mark.parametrize("reader", READERS)
def test_files_of_a_sweep_that_the_process_may_not_open_any_more_are_not_damaged(reader: str, sweep: Path) -> None:
    READERS[reader](sweep)
    with open_files(), pytest.raises(BudgetError, match=r"[Tt]oo many open files"):
        READERS[reader](sweep)


def test_a_vector_is_neither_damaged_nor_forbidden_then(cache: CacheFolder) -> None:
    vector = SteeringVector(
        name="v",
        method="made",
        concept=None,
        site="resid_post",
        layers=(0,),
        values=np.ones((1, 4), dtype=np.float32),
    )
    save_vector(cache, vector)
    (path,) = cache.paths.vectors.glob("*.safetensors")
    with open_files(), pytest.raises(BudgetError, match="Too many open files"):
        read_vector(path)


def test_a_sweep_begun_again_in_such_a_process_keeps_its_cells(cache: CacheFolder, sweep: Path) -> None:
    for spare in range(6):
        with open_files(spare=spare):
            try:
                begin_sweep(cache, "s", manifest=MANIFEST, cells=[cell(2)])
            except (BudgetError, OSError):
                continue
        break
    assert [row["alpha"] for row in read_sweep_files(sweep).cells] == [2.0, 1.0]
