"""A collection killed at any deletion: what comes after it finds a whole run, whatever was left."""

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from steercache.cache.compact import compact_run
from steercache.cache.handle import CacheFolder, open_cache
from steercache.cache.remove import collect, leftovers
from steercache.cache.verify import verify_root
from steercache.core.errors import DamagedError
from tests.cache.contents import files_of, tables_of
from tests.cache.killed import DELETIONS, LOCKS, interrupted_before, killed_before
from tests.tracing import write_small_trace


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)  # a forked child cannot use its parent's thread pool
    folder = tmp_path_factory.mktemp("whole")
    write_small_trace(folder / "trace", n=30).build(folder / "root")
    return folder / "root"


@pytest.fixture(scope="module")
def half_compacted(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose compaction was killed after some records: they stand in a generation that is not active."""
    root = tmp_path_factory.mktemp("half") / "root"
    shutil.copytree(whole, root)
    pid = os.fork()
    if pid == 0:
        compact(open_cache(root), kill_after=3)
    os.waitpid(pid, 0)
    assert len(list(root.glob("runs/*/shards/g0002/*.json"))) == 3
    return root


def compact(cache: CacheFolder, *, kill_after: int | None = None) -> None:
    def on_shard(done: int, _: int) -> None:
        if done == kill_after:
            os.kill(os.getpid(), signal.SIGKILL)

    compact_run(cache, cache.resolve_run("small"), codec="blosc", on_shard=on_shard)


def problems_of(cache: CacheFolder) -> list[str]:
    return [finding.message for checked in verify_root(cache) for finding in checked.findings]


def copied(root: Path, target: Path) -> CacheFolder:
    shutil.copytree(root, target)
    return open_cache(target)


@pytest.mark.slow
def test_a_collection_killed_at_any_deletion_leaves_nothing_that_a_compaction_would_trust_wrongly(
    half_compacted: Path, whole: Path, tmp_path: Path
) -> None:
    reference = copied(whole, tmp_path / "reference")
    compact(reference)
    collect(reference)
    wanted, tables = files_of(reference.root), tables_of(whole)
    n_killed = 0
    while True:
        cache = copied(half_compacted, tmp_path / str(n_killed))
        if not killed_before(n_killed + 1, DELETIONS, lambda cache=cache: collect(cache)):
            break
        n_killed += 1
        compact(cache)
        assert problems_of(cache) == [], n_killed
        collect(cache)
        assert problems_of(cache) == [], n_killed
        assert files_of(cache.root) == wanted, n_killed
        assert tables_of(cache.root)["tokens"] == tables["tokens"], n_killed
        shutil.rmtree(cache.root)
    assert n_killed > 20, "every file and folder of the generation was a place to die"


def test_records_without_their_generation_are_garbage_and_no_compaction_takes_them(
    half_compacted: Path, tmp_path: Path
) -> None:
    """What a version that deleted the generation before its records left, killed between the two."""
    cache = copied(half_compacted, tmp_path / "root")
    run = cache.run_paths(cache.resolve_run("small"))
    shutil.rmtree(run.generation("g0002"))
    assert [item.path for item in leftovers(cache)] == [run.shards("g0002")]
    compact(cache)
    collect(cache)
    assert problems_of(cache) == []
    assert len(list(run.shards("g0002").iterdir())) == 4


@pytest.mark.parametrize("lost", ["resid_post/c.0.1.0", "resid_post/zarr.json"])
def test_a_generation_that_misses_a_file_is_not_put_in_force(lost: str, half_compacted: Path, tmp_path: Path) -> None:
    cache = copied(half_compacted, tmp_path / "root")
    run = cache.run_paths(cache.resolve_run("small"))
    (run.generation("g0002") / lost).unlink()
    with pytest.raises(DamagedError, match=lost) as raised:
        compact(cache)
    assert raised.value.hint == "steercache cache gc, then compact again"
    assert run.current.read_text() == "g0001\n"
    assert problems_of(cache) == []
    collect(cache)
    compact(cache)
    collect(cache)
    assert problems_of(cache) == []


def test_a_generation_that_is_put_in_force_while_gc_waits_for_the_lock_is_kept(
    half_compacted: Path, tmp_path: Path
) -> None:
    cache = copied(half_compacted, tmp_path / "root")
    assert [item.path.name for item in leftovers(cache)] == ["g0002", "g0002"]
    interrupted_before(LOCKS, meanwhile=lambda: compact(cache), work=lambda: collect(cache))
    assert cache.source(cache.resolve_run("small")).generation == "g0002"
    assert problems_of(cache) == []
    assert list(leftovers(cache)) == [], "what was old by then is gone"
