"""Taking runs out of a cache, and collecting what nothing refers to."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from steercache.cache.compact import compact_run
from steercache.cache.handle import CacheFolder, open_cache
from steercache.cache.lock import hold_lock
from steercache.cache.remove import TRASH, collect, leftovers, remove_damaged_shards, remove_run
from steercache.cache.verify import verify_root
from steercache.core.errors import BusyError, DamagedError, NotFoundError
from steercache.core.layout import CodecName
from steercache.store.durable import make_folder, write_temporary
from tests.cache.contents import files_of, tables_of
from tests.cache.killed import DELETIONS, killed_before
from tests.tracing import SmallTrace, write_small_trace


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> SmallTrace:
    return write_small_trace(tmp_path_factory.mktemp("trace"), n=30)


@pytest.fixture(scope="module")
def whole(trace: SmallTrace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole") / "root"
    trace.build(root)
    return root


@pytest.fixture
def cache(whole: Path, tmp_path: Path) -> CacheFolder:
    shutil.copytree(whole, tmp_path / "root")
    return open_cache(tmp_path / "root")


def n_runs(cache: CacheFolder) -> int:
    with cache.connection() as connection:
        return int(connection.execute("select count(*) from runs").fetchone()[0])


def n_problems(cache: CacheFolder) -> int:
    return sum(len(checked.findings) for checked in verify_root(cache))


def test_a_removed_run_is_gone_from_files_and_index_and_can_be_built_again(
    cache: CacheFolder, whole: Path, trace: SmallTrace
) -> None:
    assert n_runs(cache) == 1
    n_bytes = remove_run(cache, cache.resolve_run("small"))
    assert n_bytes > sum(p.stat().st_size for p in whole.glob("runs/*/g0001/resid_post/*"))
    assert list(cache.paths.runs.iterdir()) == []
    assert n_runs(cache) == 0
    with pytest.raises(NotFoundError, match="'small'"):
        cache.resolve_run("small")
    trace.build(cache.root)
    assert files_of(cache.root) == files_of(whole)


def test_a_removal_that_was_killed_hides_the_run_at_once_and_gc_frees_it(cache: CacheFolder, whole: Path) -> None:
    run = cache.run_paths(cache.resolve_run("small"))
    run.folder.rename(run.folder.with_name(f"{TRASH}{run.folder.name}"))
    assert (cache.documents(), n_runs(cache), n_problems(cache)) == ([], 0, 0)
    assert [item.reason for item in collect(cache)] == ["a run that was being removed"]
    assert list(cache.paths.runs.iterdir()) == []


@pytest.mark.parametrize("number", [1, 12])
def test_a_removal_that_was_killed_does_not_stop_the_next_one_of_the_same_run(
    number: int, cache: CacheFolder, whole: Path, trace: SmallTrace
) -> None:
    run_id = cache.resolve_run("small")
    assert killed_before(number, DELETIONS, lambda: remove_run(cache, run_id))
    assert cache.documents() == []
    trace.build(cache.root)
    assert files_of(cache.root).items() >= files_of(whole).items()
    remove_run(cache, run_id)
    assert (cache.documents(), n_runs(cache)) == ([], 0)
    assert [item.reason for item in collect(cache)] == ["a run that was being removed"]
    assert list(cache.paths.runs.iterdir()) == []


def test_a_run_in_use_is_not_removed(cache: CacheFolder) -> None:
    run_id = cache.resolve_run("small")
    with hold_lock(cache.run_paths(run_id).lock, what="the run"), pytest.raises(BusyError, match=str(os.getpid())):
        remove_run(cache, run_id)
    assert cache.resolve_run("small") == run_id


def test_gc_leaves_a_run_alone_that_another_process_is_just_beginning(cache: CacheFolder) -> None:
    beginning = cache.run_paths("a" * 64)
    with hold_lock(beginning.lock, what="the run"):
        assert [item.path for item in leftovers(cache)] == [beginning.folder]
        assert collect(cache) == []
        assert beginning.folder.is_dir()
    assert [item.path for item in collect(cache)] == [beginning.folder]
    assert not beginning.folder.exists()


@pytest.mark.parametrize("collected", [False, True], ids=["old-generation-there", "old-generation-gone"])
def test_a_damaged_shard_of_a_compacted_run_is_made_again(
    collected: bool, cache: CacheFolder, whole: Path, trace: SmallTrace
) -> None:
    run_id = cache.resolve_run("small")
    compact_run(cache, run_id, codec="blosc")
    if collected:
        collect(cache)
    before = files_of(cache.root)
    path = sorted(cache.root.glob("runs/*/g0002/resid_post/c.0.*"))[1]
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    assert n_problems(cache) > 0
    assert remove_damaged_shards(cache, run_id) == [1]
    assert trace.build(cache.root).n_shards_built == 1
    assert n_problems(cache) == 0
    assert {name: d for name, d in files_of(cache.root).items() if "g0001" not in name} == {
        name: d for name, d in before.items() if "g0001" not in name
    }
    assert tables_of(cache.root)["tokens"] == tables_of(whole)["tokens"]


@pytest.mark.parametrize("then", ["blosc", "pcodec"])
def test_a_compaction_that_was_cut_short_goes_on_or_with_another_codec_asks_for_gc_first(
    then: CodecName, cache: CacheFolder
) -> None:
    run_id = cache.resolve_run("small")

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compact_run(cache, run_id, codec="blosc", on_shard=stop)
    if then != "blosc":
        with pytest.raises(DamagedError, match="another layout") as raised:
            compact_run(cache, run_id, codec=then)
        assert raised.value.hint == "steercache cache gc"
        collect(cache)
    done = compact_run(cache, run_id, codec=then)
    assert cache.source(run_id).reader.codec == then
    assert n_problems(cache) == 0
    assert done.n_bytes_after > 0


def test_gc_keeps_what_another_process_is_just_writing_and_removes_it_once_that_is_dead(cache: CacheFolder) -> None:
    labels = cache.paths.annotation("words", "a" * 64)
    make_folder(labels.parent, cache.paths.vectors)
    pid = os.fork()
    if pid == 0:
        for path in (labels, cache.paths.vector("b" * 64)):
            write_temporary(path, b"half")
        os.close(os.open(cache.root / "ready", os.O_CREAT))
        signal.alarm(60)  # so that it does not outlive a test that fails
        signal.pause()
    while not (cache.root / "ready").exists():
        os.sched_yield()
    assert collect(cache) == []
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert sorted(item.path.parent.parent.name for item in collect(cache)) == ["annotations", "root"]
    assert list(leftovers(cache)) == []
