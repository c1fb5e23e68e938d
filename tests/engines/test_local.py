"""Workers as processes of this machine."""

from pathlib import Path

import psutil
import pytest

from steercache.core.errors import BudgetError, UsageError
from steercache.engines.crew import MOST_TRIES, EngineOptions, crew_of, do_work
from tests.engines.workers import give_lives, refusing, squarer, starting, told

TWO = EngineOptions(workers=2)


def test_every_task_is_done_once_and_told_with_its_result_and_each_worker_is_told_of_once(tmp_path: Path) -> None:
    heard, tasks = told(), list(range(9))
    do_work(heard.work(tasks, starting(squarer, tmp_path)), TWO)
    assert heard.results == {n: n * n for n in range(9)}
    assert sorted(map(int, (tmp_path / "log").read_text().split())) == list(range(9))
    assert 1 <= len(set(heard.workers)) == len(heard.workers) <= 2


def test_workers_stay_for_the_next_tasks_and_one_that_dies_is_replaced(tmp_path: Path) -> None:
    give_lives(tmp_path, 2)
    results: dict[int, int] = {}
    workers: list[int] = []
    notes: list[str] = []
    start = starting(squarer, tmp_path)
    with crew_of("squares", start, TWO, on_worker=lambda a: workers.append(a["process"]), on_note=notes.append) as crew:
        crew.do([1], results.__setitem__)
        assert len(workers) == 1  # no more than there are tasks
        crew.do([], results.__setitem__)
        crew.do([2, -3, 4], results.__setitem__)
        assert results == {1: 1, 2: 4, -3: 9, 4: 16}
        assert len(workers) == len(set(workers)) <= 4
        assert sum("died; another takes its place" in note for note in notes) == len(notes) == 2
    assert not any(psutil.pid_exists(pid) for pid in workers)


def test_what_a_worker_that_finds_no_store_had_in_hand_is_done_by_another_a_few_times(tmp_path: Path) -> None:
    give_lives(tmp_path, 2)
    heard = told()
    do_work(heard.work([-4], starting(squarer, tmp_path)), TWO)
    assert heard.results == {-4: 16}
    assert len(heard.notes) == 2
    assert all("is cut off, and another takes its place: the store did not answer" in note for note in heard.notes)


def test_an_error_of_a_worker_comes_through_as_itself(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="minus one") as found:
        do_work(told().work([1, -1], starting(squarer, tmp_path)), TWO)
    assert (found.value.place, found.value.hint) == ("here", "another number")
    with pytest.raises(ZeroDivisionError):
        do_work(told().work([-2], starting(squarer, tmp_path)), TWO)


def test_a_worker_that_refuses_ends_the_work_and_deaths_at_one_task_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="other bits"):
        do_work(told().work([1], starting(refusing, tmp_path, but=0)), TWO)
    give_lives(tmp_path, 99)
    with pytest.raises(BudgetError, match=r"5 workers died at the same task; what was done by then is kept.*SIGKILL"):
        do_work(told().work([-3], starting(squarer, tmp_path)), TWO)
    assert len(list((tmp_path / "lives").iterdir())) == 99 - MOST_TRIES


def test_nothing_to_do_starts_nothing_and_settings_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    do_work(told().work([], starting(refusing, tmp_path, but=0)), TWO)
    with pytest.raises(UsageError, match="0 workers"):
        EngineOptions(workers=0)
    with pytest.raises(UsageError, match="settings of the engine ray"):
        EngineOptions(address="auto")
    with pytest.raises(UsageError, match="fewer than no"):
        EngineOptions(name="ray", gpus_per_worker=-1)
