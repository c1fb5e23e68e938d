"""Workers on Ray: what local ones do, and what only a cluster has to bear: deaths, refusals, nodes that lack something."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from steercache.core.errors import BudgetError, MissingExtraError, NotFoundError, UsageError
from steercache.engines import on_ray
from steercache.engines.crew import MOST_TRIES, EngineOptions, do_work
from tests.engines.workers import dying, give_lives, refusing, squarer, starting, told

pytestmark = pytest.mark.slow
TWO = EngineOptions(name="ray", workers=2)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One for all tests here, which the engine finds and leaves as it is."""
    ray.init("local", num_cpus=3, include_dashboard=False, log_to_driver=False, object_store_memory=on_ray.STORE_BYTES)
    yield
    ray.shutdown()


@pytest.mark.usefixtures("cluster")
def test_every_task_is_done_once_by_workers_that_are_told_of_before(tmp_path: Path) -> None:
    heard = told()
    do_work(heard.work(list(range(9)), starting(squarer, tmp_path)), TWO)
    assert heard.results == {n: n * n for n in range(9)}
    assert sorted(map(int, (tmp_path / "log").read_text().split())) == list(range(9))
    assert len(set(heard.workers)) == len(heard.workers) <= 2
    assert ray.is_initialized(), "a cluster that was there before is left as it is"


@pytest.mark.usefixtures("cluster")
def test_an_error_of_a_worker_comes_through_as_itself(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="minus one") as found:
        do_work(told().work([1, -1], starting(squarer, tmp_path)), TWO)
    assert (found.value.place, found.value.hint) == ("here", "another number")
    with pytest.raises(ZeroDivisionError, match="minus two"):
        do_work(told().work([-2], starting(squarer, tmp_path)), TWO)


@pytest.mark.usefixtures("cluster")
def test_what_a_dead_worker_had_in_hand_is_done_by_another(tmp_path: Path) -> None:
    give_lives(tmp_path, 2)
    heard = told()
    do_work(heard.work([1, -3, 2], starting(squarer, tmp_path)), TWO)
    assert heard.results == {1: 1, -3: 9, 2: 4}
    assert [note for note in heard.notes if "died; another takes its place" in note] == heard.notes
    assert len(heard.notes) == 2


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("start", "task", "said"), [(squarer, -3, "died at the same task"), (dying, 1, "as they started")]
)
def test_workers_that_die_again_and_again_end_the_work_with_the_reason(
    start: Any, task: int, said: str, tmp_path: Path
) -> None:
    give_lives(tmp_path, 99)
    with pytest.raises(BudgetError, match=said) as found:
        do_work(told().work([task], starting(start, tmp_path)), TWO)
    assert "Ray says" in str(found.value)
    assert len(list((tmp_path / "lives").iterdir())) == 99 - MOST_TRIES


@pytest.mark.usefixtures("cluster")
def test_a_worker_that_refuses_is_left_out_with_its_reason_and_all_of_them_end_the_work(tmp_path: Path) -> None:
    heard = told()
    do_work(heard.work([1, 2, 3], starting(refusing, tmp_path, but=1)), TWO)
    assert heard.results == {1: 1, 2: 4, 3: 9}
    assert len(heard.workers) == 1
    assert all("is left out: " in note and "other bits" in note for note in heard.notes)
    with pytest.raises(UsageError, match="other bits"):
        do_work(told().work([1], starting(refusing, tmp_path, but=0)), TWO)


@pytest.mark.usefixtures("cluster")
def test_a_node_of_another_version_refuses_and_one_without_the_folder_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(on_ray, "version", lambda name: "0.0.1")
        with pytest.raises(UsageError, match=r"this node has steercache .*, the coordinator 0\.0\.1"):
            do_work(told().work([1], starting(squarer, tmp_path)), TWO)
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rename(tmp_path / "elsewhere")
    monkeypatch.setattr(on_ray.Path, "cwd", lambda: gone)
    heard = told()
    do_work(heard.work([2], starting(squarer, tmp_path)), TWO)  # in a folder of its own
    assert heard.results == {2: 4}


def test_without_ray_and_without_a_cluster_people_are_told_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray.shutdown()
    somebody_s = [p for p in psutil.process_iter() if p.name() == "gcs_server"]  # which "auto" would find
    for address in ("127.0.0.1:1", "nowhere", "ray://127.0.0.1:1", *(() if somebody_s else ("auto",))):
        with pytest.raises(NotFoundError, match="no Ray cluster could be reached"):
            do_work(told().work([1], starting(squarer, tmp_path)), EngineOptions(name="ray", address=address))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match="needs ray"):
        do_work(told().work([1], starting(squarer, tmp_path)), TWO)
