"""Helper threads compute on one thread, and nobody else's number of threads changes."""

from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
import torch

from steercache.runs.prefetch import prefetched
from steercache.runs.writing import WritingThread
from tests.tracing import write_small_trace


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def threads_of_a_new_thread() -> int:
    seen: list[int] = []
    thread = Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return seen[0]


def test_what_is_made_ahead_is_made_on_one_thread() -> None:
    assert list(prefetched(lambda item: torch.get_num_threads(), range(4))) == [1] * 4
    assert torch.get_num_threads() == 3
    assert threads_of_a_new_thread() == 3


def test_the_writing_thread_is_one_thread() -> None:
    seen: list[int] = []
    with WritingThread() as writing:
        writing.put(lambda: seen.append(torch.get_num_threads()))
        assert torch.get_num_threads() == 3
        assert threads_of_a_new_thread() == 3
    assert seen == [1]


def test_a_build_leaves_the_caller_the_threads_it_had(tmp_path: Path) -> None:
    trace = write_small_trace(tmp_path, n=4, numerics={"tokens_per_batch": 64, "threads": 1})
    trace.build(tmp_path / "root")
    assert torch.get_num_threads() == 3
