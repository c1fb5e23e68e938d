"""A build, a compaction and a rebuild killed at random moments: resumed, they equal an undisturbed one byte for byte."""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from steercache.cache.compact import compact_run
from steercache.cache.handle import open_cache
from steercache.cache.rebuild import rebuild_index
from steercache.cache.remove import collect, leftovers
from steercache.cache.verify import verify_root
from tests.cache.contents import files_of, tables_of
from tests.tracing import SmallTrace, write_small_trace

A_FEW = pytest.param(3, id="a-few")
KILLS = [A_FEW, pytest.param(25, id="many", marks=pytest.mark.slow)]


pytestmark = pytest.mark.usefixtures("real_migrations")


@pytest.fixture(autouse=True)
def index_told_of_every_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that builds of a second are killed in the index too."""
    monkeypatch.setattr("steercache.cache.commit.TELL_EVERY_S", 0.0)
    monkeypatch.setattr("steercache.cache.commit.TELL_SHARE", 0)


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> SmallTrace:
    torch.set_num_threads(1)  # a forked child cannot use its parent's thread pool
    return write_small_trace(tmp_path_factory.mktemp("trace"), n=60)


@pytest.fixture(scope="module")
def undisturbed(trace: SmallTrace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("undisturbed")
    trace.build(root)
    return root


def run_and_kill(work: Callable[[], object], after_s: float) -> bool:
    """Run `work` in a forked process and SIGKILL it after `after_s`; returns whether it was still running."""
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    deadline = time.monotonic() + after_s
    while time.monotonic() < deadline:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return False
        time.sleep(0.0005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return True


def duration_of(work: Callable[[], object]) -> float:
    started = time.monotonic()
    run_and_kill(work, 60)
    return time.monotonic() - started


def assert_equal_to(root: Path, undisturbed: Path) -> None:
    collect(open_cache(root))
    assert files_of(root) == files_of(undisturbed)
    assert tables_of(root) == tables_of(undisturbed)
    assert [finding for checked in verify_root(open_cache(root)) for finding in checked.findings] == []


@pytest.mark.parametrize("n_kills", KILLS)
def test_a_build_killed_at_random_moments_and_resumed_equals_an_undisturbed_one(
    n_kills: int, trace: SmallTrace, undisturbed: Path, tmp_path: Path
) -> None:
    whole = duration_of(lambda: trace.build(tmp_path / "timed"))
    moments = random.Random(0)
    n_killed = round_no = 0
    while n_killed < n_kills:
        root = tmp_path / f"root{round_no}"
        round_no += 1
        while run_and_kill(lambda root=root: trace.build(root), moments.uniform(0.0, whole)):
            n_killed += 1
        assert_equal_to(root, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("n_kills", KILLS)
def test_a_compaction_killed_at_random_moments_leaves_one_generation_in_force_and_can_be_done_again(
    n_kills: int, undisturbed: Path, tmp_path: Path
) -> None:
    def compact(root: Path) -> None:
        cache = open_cache(root)
        if cache.source(cache.resolve_run("small")).reader.codec != "blosc":
            compact_run(cache, cache.resolve_run("small"), codec="blosc")

    reference, timed = tmp_path / "reference", tmp_path / "timed"
    for root in (reference, timed):
        shutil.copytree(undisturbed, root)
    whole = duration_of(lambda: compact(timed))
    compact(reference)
    collect(open_cache(reference))
    moments = random.Random(1)
    n_killed = round_no = 0
    while n_killed < n_kills:
        root = tmp_path / f"root{round_no}"
        round_no += 1
        shutil.copytree(undisturbed, root)
        while run_and_kill(lambda root=root: compact(root), moments.uniform(0.0, whole)):
            n_killed += 1
            findings = [f for checked in verify_root(open_cache(root)) for f in checked.findings]
            assert findings == [], "the generation in force is whole at every moment"
        assert_equal_to(root, reference)


@pytest.mark.parametrize("n_kills", KILLS)
def test_a_rebuild_killed_at_random_moments_leaves_the_old_index_or_the_new_one(
    n_kills: int, undisturbed: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    shutil.copytree(undisturbed, root)
    wanted = tables_of(root)
    whole = duration_of(lambda: rebuild_index(open_cache(root)))
    moments = random.Random(2)
    n_killed = 0
    while n_killed < n_kills:
        n_killed += run_and_kill(lambda: rebuild_index(open_cache(root)), moments.uniform(0.0, whole))
        assert tables_of(root) == wanted
    assert list(leftovers(open_cache(root))) == []
