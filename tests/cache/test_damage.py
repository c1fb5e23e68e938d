"""Each way a cache can be hurt is named, the next step mends or refuses, and committed rows survive."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from steercache.cache.compact import compact_run
from steercache.cache.handle import CacheFolder, open_cache
from steercache.cache.rebuild import rebuild_index
from steercache.cache.remove import collect, leftovers, remove_damaged_shards, remove_run
from steercache.cache.verify import Finding, verify_root
from steercache.core.errors import BudgetError, DamagedError, NotFoundError, SteercacheError, UsageError
from tests.cache.contents import files_of, tables_of
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
def root(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "root")
    return tmp_path / "root"


def findings_of(cache: CacheFolder) -> list[Finding]:
    return [finding for checked in verify_root(cache) for finding in checked.findings]


def one(root: Path, pattern: str) -> Path:
    return sorted(root.glob(pattern))[1]


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.write_bytes(data)


def mount(*words: str | Path) -> None:
    done = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr}")


@pytest.mark.parametrize(
    ("pattern", "hurt"),
    [
        ("runs/*/g0001/resid_post/c.0.*", lambda p: p.write_bytes(p.read_bytes()[:-100])),
        ("runs/*/g0001/resid_post/c.0.*", lambda p: flip(p, 777)),
        ("runs/*/g0001/token_id/c.*", lambda p: flip(p, 3)),
        ("runs/*/g0001/resid_post/c.0.*", lambda p: p.unlink()),
        ("runs/*/rows/*.parquet", lambda p: p.unlink()),
        ("runs/*/samples/*.parquet", lambda p: flip(p, 50)),
        ("runs/*/samples/*.parquet", lambda p: p.write_bytes(b"not parquet")),
        ("runs/*/shards/g0001/*.json", lambda p: os.truncate(p, 40)),
        ("runs/*/shards/g0001/*.json", lambda p: p.write_text("[]")),
    ],
    ids=[
        "short-shard",
        "flipped-bit",
        "flipped-coordinate",
        "missing-shard",
        "missing-rows",
        "flipped-table",
        "no-parquet",
        "short-record",
        "no-record",
    ],
)
def test_a_hurt_file_is_named_by_verify_and_only_its_shard_is_made_again(
    pattern: str, hurt: Callable[[Path], object], root: Path, whole: Path, trace: SmallTrace
) -> None:
    path = one(root, pattern)
    hurt(path)
    cache = open_cache(root)
    findings = findings_of(cache)
    assert findings
    assert all(path.name in finding.message or path.name in finding.place for finding in findings)
    assert "remove the damaged shards of small, then build again" in findings[0].remedy
    assert len(remove_damaged_shards(cache, cache.resolve_run("small"))) == 1
    assert trace.build(root).n_shards_built == 1
    assert files_of(root) == files_of(whole)
    assert tables_of(root) == tables_of(whole)


def test_a_short_shard_is_an_error_on_reading_and_not_a_crash(root: Path) -> None:
    path = one(root, "runs/*/g0001/resid_post/c.0.*")
    os.truncate(path, path.stat().st_size // 2)
    cache = open_cache(root)
    source = cache.source(cache.resolve_run("small"))
    assert source.gather("resid_post", 0, np.arange(5)).shape == (5, 32), "other shards stay readable"
    with pytest.raises(DamagedError, match=path.name):
        source.gather("resid_post", 0, np.array([source.document.layout.rows_per_shard]))


def test_a_deleted_index_loses_nothing(root: Path, whole: Path) -> None:
    (root / "index.duckdb").unlink()
    assert tables_of(root) == tables_of(whole)
    assert (root / "index.duckdb").exists()


def test_a_damaged_index_is_named_and_rebuild_mends_it(root: Path, whole: Path) -> None:
    (root / "index.duckdb").write_bytes(b"this is not a database" * 100)
    with pytest.raises(DamagedError, match="index") as raised:
        tables_of(root)
    assert raised.value.hint == "steercache cache rebuild"
    rebuild_index(open_cache(root))
    assert tables_of(root) == tables_of(whole)


def test_an_index_torn_by_a_kill_stops_no_build(root: Path, whole: Path, trace: SmallTrace) -> None:
    """DuckDB writes its first block in place, 256 KiB behind one checksum: killed in the middle of that, it leaves a part."""
    index = root / "index.duckdb"
    content = bytearray(index.read_bytes())
    first_block = 3 * 4096
    content[first_block + 4096 : first_block + 2**18] = bytes(2**18 - 4096)
    index.write_bytes(content)
    with pytest.raises(DamagedError, match="checksum") as raised:
        tables_of(root)
    assert raised.value.hint == "steercache cache rebuild"
    one(root, "runs/*/shards/*/*.json").unlink()
    assert trace.build(root).n_shards_built == 1
    assert tables_of(root) == tables_of(whole)


def test_a_rebuild_writes_into_neither_index_once_it_has_its_name(root: Path) -> None:
    index, old = root / "index.duckdb", root / "old"
    wanted = tables_of(root)
    with open_cache(root).index.write() as connection:
        connection.execute("update runs set name = 'other'")
    os.link(index, old)
    before = old.read_bytes()
    rebuild_index(open_cache(root))
    assert old.read_bytes() == before
    new = index.read_bytes()
    assert new != before
    assert tables_of(root) == wanted
    assert index.read_bytes() == new, "it equals the files: no reader has to mend it"


def test_a_missing_table_stops_a_rebuild_and_the_old_index_stays(root: Path) -> None:
    path = one(root, "runs/*/rows/*.parquet")
    before = tables_of(root)
    path.unlink()
    with pytest.raises(DamagedError, match=path.name):
        rebuild_index(open_cache(root))
    assert tables_of(root) == before


def test_a_damaged_run_document_is_named_and_hides_no_other_run(root: Path, tmp_path: Path) -> None:
    write_small_trace(tmp_path / "other", n=10, name="other").build(root)
    cache = open_cache(root)
    path = cache.run_paths(cache.resolve_run("small")).document
    path.write_text('{"run_id": 3}')
    assert [d.name for d in cache.documents()] == ["other"]
    found = findings_of(cache)
    assert [f.place for f in found] == [f"runs/{path.parent.name[:12]}/run.json"]
    assert f"steercache cache rm {path.parent.name[:12]}" in found[0].remedy
    with pytest.raises(NotFoundError, match="there are: other"):
        cache.resolve_run("small")


@pytest.mark.parametrize("collected", [False, True], ids=["old-generation-there", "old-generation-gone"])
def test_a_compacted_run_that_lost_its_current_file_keeps_its_rows(
    collected: bool, root: Path, trace: SmallTrace
) -> None:
    cache = open_cache(root)
    run_id = cache.resolve_run("small")
    compact_run(cache, run_id, codec="blosc")
    if collected:
        collect(cache)
    before = files_of(root)
    cache.run_paths(run_id).current.unlink()
    found = findings_of(cache)
    assert [f.message for f in found] == ["CURRENT is missing"]
    assert "build the run again" in found[0].remedy
    assert list(leftovers(cache)) == [], "nothing is offered to gc before a generation is in force"
    assert trace.build(root).n_shards_built == 0
    assert files_of(root) == before
    assert findings_of(cache) == []


def test_a_half_built_run_that_lost_its_current_file_is_gone_on_with(
    root: Path, trace: SmallTrace, whole: Path
) -> None:
    one(root, "runs/*/shards/g0001/*.json").unlink()
    next(root.glob("runs/*/CURRENT")).unlink()
    assert trace.build(root).n_shards_built == 1
    assert files_of(root) == files_of(whole)


def test_an_unfinished_compaction_is_not_put_in_force_where_current_is_lost(root: Path, trace: SmallTrace) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    cache = open_cache(root)
    run_id = cache.resolve_run("small")
    with pytest.raises(KeyboardInterrupt):
        compact_run(cache, run_id, codec="blosc", on_shard=stop)
    cache.run_paths(run_id).current.unlink()
    assert trace.build(root).n_shards_built == 0
    assert cache.source(run_id).generation == "g0001"


def test_beside_a_record_that_cannot_be_read_every_other_shard_is_verified(root: Path) -> None:
    os.truncate(one(root, "runs/*/shards/g0001/*.json"), 40)
    flip(sorted(root.glob("runs/*/g0001/resid_post/c.0.*"))[2], 777)
    places = [f.place.split("/", 2)[2] for f in findings_of(open_cache(root))]
    assert places == ["shards/g0001/00001.json", "g0001/resid_post/c.0.2.0"]


def test_a_record_that_cannot_be_read_goes_with_its_arrays(root: Path) -> None:
    os.truncate(one(root, "runs/*/shards/g0001/*.json"), 40)
    cache = open_cache(root)
    assert remove_damaged_shards(cache, cache.resolve_run("small")) == [1]
    left = [path.relative_to(root).parts[2:] for path in root.glob("runs/*/g0001/*/c.*")]
    assert [parts for parts in left if parts[-1] in ("c.0.1.0", "c.1")] == []
    assert len([parts for parts in left if parts[-1] == "c.0.0.0"]) == 1
    assert findings_of(cache) == []


def test_a_run_whose_document_cannot_be_read_is_removed_by_its_id(root: Path, trace: SmallTrace, whole: Path) -> None:
    cache = open_cache(root)
    path = cache.run_paths(cache.resolve_run("small")).document
    os.truncate(path, 40)
    with pytest.raises(NotFoundError, match=path.parent.name[:12]):
        cache.resolve_run_to_remove("small")
    run_id = cache.resolve_run_to_remove(path.parent.name[:7])
    assert run_id == path.parent.name
    remove_run(cache, run_id)
    assert findings_of(cache) == []
    trace.build(root)
    assert files_of(root) == files_of(whole)


def test_a_run_id_that_is_a_path_is_refused(root: Path) -> None:
    for text in ("../../etc", "a" * 64 + "/..", "", "."):
        with pytest.raises(SteercacheError):
            open_cache(root).run_document(text)


def test_a_read_only_root_can_be_read_and_says_so_when_written(root: Path, whole: Path, trace: SmallTrace) -> None:
    (root / "index.duckdb").unlink()
    mount("--bind", root, root)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", root], check=True)
        assert tables_of(root) == tables_of(whole)
        cache = open_cache(root)
        run_paths = cache.run_paths(cache.resolve_run("small"))
        assert run_paths.document.exists()
        with pytest.raises(UsageError, match=r"[Rr]ead-only"):
            trace.build(root)
    finally:
        subprocess.run(["umount", root], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "size=8m", "tmpfs", folder)
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize(
    "shares",
    [(0.02, 0.9), pytest.param((0.1, 0.3, 0.6, 0.8, 0.93, 0.96), marks=pytest.mark.slow)],
    ids=["begin-and-end", "many"],
)
def test_a_full_disk_is_named_and_what_was_committed_stays_and_is_gone_on_with(
    shares: tuple[float, ...], small_disk: Path, trace: SmallTrace, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steercache.runs.engine.SPARE_BYTES", -(2**30))  # let it run into the wall
    monkeypatch.setattr("steercache.cache.commit.TELL_EVERY_S", 0.0)  # with the index as well
    monkeypatch.setattr("steercache.cache.commit.TELL_SHARE", 0)
    root = small_disk / "root"
    filler = small_disk / "filler"
    n_committed = set()
    needed = sum(p.stat().st_blocks * 512 for p in whole.rglob("*"))
    for share in shares:
        shutil.rmtree(root, ignore_errors=True)
        filler.write_bytes(b"x" * (8 * 2**20 - int(share * needed)))
        with pytest.raises(BudgetError, match=r"No space|full"):
            trace.build(root)
        committed = list(root.glob("runs/*/shards/*/*.json"))
        n_committed.add(len(committed))
        filler.unlink()
        assert findings_of(open_cache(root)) == []
        assert trace.build(root).n_shards_built == 4 - len(committed)
        assert files_of(root) == files_of(whole)
        assert tables_of(root) == tables_of(whole)
    assert len(n_committed) > 1, "the wall was met at several places"


def test_rows_whose_document_is_gone_are_no_garbage_and_a_build_writes_it_again(
    root: Path, whole: Path, trace: SmallTrace
) -> None:
    cache = open_cache(root)
    run = cache.run_paths(cache.resolve_run("small"))
    arrays = {p: p.stat().st_mtime_ns for p in run.folder.glob("g0001/resid_post/*")}
    run.document.unlink()
    assert [item for item in leftovers(cache) if run.folder in (item.path, *item.path.parents)] == []
    (named,) = cache.damaged_documents()
    assert "run.json is gone" in named.message
    assert any(f.place.endswith("run.json") for checked in verify_root(cache) for f in checked.findings)
    trace.build(root)
    assert {p: p.stat().st_mtime_ns for p in arrays} == arrays
    assert not any(checked.findings for checked in verify_root(cache))
