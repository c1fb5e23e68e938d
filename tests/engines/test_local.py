"""Workers as processes of this machine."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from steercache.core.errors import BudgetError, UsageError
from steercache.engines.crew import EngineOptions, do_work
from steercache.engines.local import AHEAD
from tests.engines.workers import give_lives, refusing, squarer, starting, told


class Taken(list[int]):
    """Tasks, and how many of them were asked for."""

    n_taken = 0

    def __iter__(self) -> Iterator[int]:
        for task in super().__iter__():
            self.n_taken += 1
            yield task


TWO = EngineOptions(workers=2)


def test_every_task_is_done_once_and_told_with_its_result_and_each_worker_is_told_of_once(tmp_path: Path) -> None:
    heard, tasks = told(), Taken(range(9))
    work = heard.work(tasks, starting(squarer, tmp_path))
    ahead: list[int] = []

    def done(task: int, result: int) -> None:
        heard.results[task] = result
        ahead.append(tasks.n_taken - len(heard.results))

    do_work(replace(work, on_done=done), TWO)
    assert max(ahead) < AHEAD * 2  # 100,000 tasks are not looked through each time one is done
    assert heard.results == {n: n * n for n in range(9)}
    assert sorted(map(int, (tmp_path / "log").read_text().split())) == list(range(9))
    assert 1 <= len(set(heard.workers)) == len(heard.workers) <= 2


def test_an_error_of_a_worker_comes_through_as_itself(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="minus one") as found:
        do_work(told().work([1, -1], starting(squarer, tmp_path)), TWO)
    assert (found.value.place, found.value.hint) == ("here", "another number")
    with pytest.raises(ZeroDivisionError):
        do_work(told().work([-2], starting(squarer, tmp_path)), TWO)


def test_a_worker_that_refuses_ends_the_work_and_one_that_dies_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="other bits"):
        do_work(told().work([1], starting(refusing, tmp_path, but=0)), TWO)
    give_lives(tmp_path, 1)
    with pytest.raises(BudgetError, match=r"a worker died; what was done by then is kept"):
        do_work(told().work([-3], starting(squarer, tmp_path)), TWO)


def test_nothing_to_do_starts_nothing_and_settings_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    do_work(told().work([], starting(refusing, tmp_path, but=0)), TWO)
    with pytest.raises(UsageError, match="0 workers"):
        EngineOptions(workers=0)
    with pytest.raises(UsageError, match="settings of the engine ray"):
        EngineOptions(address="auto")
    with pytest.raises(UsageError, match="fewer than no"):
        EngineOptions(name="ray", gpus_per_worker=-1)
