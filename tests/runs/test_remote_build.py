"""Builds into an object store: the same bytes as in a folder, from every state that a killed one leaves."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from steercache.api.paths import root_of
from steercache.cache.commit import FIRST_GENERATION
from steercache.cache.documents import parse_shard_record
from steercache.cache.handle import open_cache
from steercache.cache.remote import remote_of
from steercache.cache.remote_commit import change_document, lease_key
from steercache.cache.verify import verify_root
from steercache.core.errors import BudgetError, BusyError, UnreachableError, UsageError
from steercache.engines.crew import EngineOptions
from steercache.objects.interface import ObjectChangedError, ObjectStore
from steercache.objects.lease import hold_lease
from steercache.runs.engine import BuildOptions, BuildResult, build_run
from steercache.runs.job import prepare_trace
from steercache.runs.plan import plan_run
from steercache.store.checksum import crc32c
from tests.cache.contents import files_of, tables_of
from tests.objects.recorded import ADDRESS, InMemory, Recorded, comparable, objects_of, prefixes
from tests.tracing import SmallTrace, write_small_trace


def build_into(store: ObjectStore, trace: SmallTrace, mirror: Path, **options: object) -> BuildResult:
    remote = remote_of(root_of(ADDRESS, mirror=mirror))
    assert remote is not None
    remote.store = store  # type: ignore[misc]
    cache = open_cache(mirror, create=True)
    prepared = prepare_trace(trace.manifest, cache_root=mirror, device="cpu")
    return build_run(cache, plan_run(prepared.job, cache=cache), prepared, BuildOptions(**options))


@dataclass(frozen=True)
class Undisturbed:
    """A trace, and its build into a folder."""

    trace: SmallTrace
    root: Path

    @property
    def objects(self) -> dict[str, bytes]:
        return comparable(objects_of(self.root))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("undisturbed")
    trace = write_small_trace(folder / "t", n=14)
    trace.build(folder / "root")
    return Undisturbed(trace, folder / "root")


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that scratch folders are made in."""
    monkeypatch.setenv("STEERCACHE_SCRATCH", str(tmp_path / "scratch"))
    return tmp_path / "scratch"


def assert_records_are_true(objects: dict[str, bytes]) -> int:
    """Every record in the store is of files that are there whole; how many records there are."""
    records = [path for path in objects if f"/shards/{FIRST_GENERATION}/" in path]
    for path in records:
        run = path.partition("/shards/")[0]
        for file in parse_shard_record(objects[path], path).files:
            data = objects[f"{run}/{file.path}"]
            assert (len(data), crc32c(data)) == (file.n_bytes, file.crc32c)
    return len(records)


STEP = [pytest.param(9, id="every-9th-state"), pytest.param(1, id="every-state", marks=pytest.mark.slow)]


@pytest.mark.parametrize("step", STEP)
def test_after_any_number_of_operations_a_build_goes_on_to_the_bytes_of_one_in_a_folder(
    step: int, undisturbed: Undisturbed, scratch: Path, tmp_path: Path
) -> None:
    store = Recorded(InMemory())
    built = build_into(store, undisturbed.trace, tmp_path / "mirror")
    assert comparable(store.inner.objects()) == undisturbed.objects
    assert tables_of(tmp_path / "mirror") == tables_of(undisturbed.root)
    assert built.n_shards_built == 2
    assert list(scratch.iterdir()) == []
    seen = set()
    states = list(prefixes(store.operations))
    for number, state in enumerate(states[::step]):
        n_records = assert_records_are_true(state)
        seen.add(n_records)
        recovered = InMemory(state)
        again = build_into(recovered, undisturbed.trace, tmp_path / f"mirror{number}")
        assert (again.n_shards_kept, again.n_shards_built) == (n_records, 2 - n_records)
        assert comparable(recovered.objects()) == undisturbed.objects
        assert tables_of(tmp_path / f"mirror{number}") == tables_of(undisturbed.root)
    assert len(seen) > 1, "the states reach from nothing committed to some of it"


def test_a_root_that_is_moved_between_folder_and_object_store_both_ways_equals_itself(
    undisturbed: Undisturbed, scratch: Path, tmp_path: Path
) -> None:
    moved = InMemory({p: d for p, d in objects_of(undisturbed.root).items() if p.startswith(("runs/", "annotations/"))})
    again = build_into(moved, undisturbed.trace, tmp_path / "mirror")
    assert again.n_shards_built == 0
    for path, data in moved.objects().items():
        (tmp_path / "back" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "back" / path).write_bytes(data)
    assert files_of(tmp_path / "back") == files_of(undisturbed.root) | {
        name: digest for name, digest in files_of(tmp_path / "back").items() if name.endswith("/LEASE")
    }
    assert tables_of(tmp_path / "back") == tables_of(undisturbed.root)
    assert [f for checked in verify_root(open_cache(tmp_path / "back")) for f in checked.findings] == []
    assert undisturbed.trace.build(tmp_path / "back").n_shards_built == 0


def test_a_coordinator_whose_run_was_taken_by_another_commits_nothing_more(
    undisturbed: Undisturbed, scratch: Path, tmp_path: Path
) -> None:
    inner = InMemory()
    store = Recorded(inner)
    run_id = build_into(InMemory(), undisturbed.trace, tmp_path / "other").run_id

    def another_takes_it(path: str) -> None:
        if path.endswith("/samples/00000.parquet"):
            store.before = lambda path: None
            note = json.loads(inner.objects()[lease_key(run_id)])
            inner.put(lease_key(run_id), json.dumps(note | {"until": 0.0, "machine": "another"}).encode())
            with hold_lease(inner, lease_key(run_id), what="the run") as lease:
                lease.check()

    store.before = another_takes_it
    with pytest.raises(BusyError, match="the lease of this run was given back: nothing more is committed"):
        build_into(store, undisturbed.trace, tmp_path / "mirror")
    assert assert_records_are_true(inner.objects()) == 0
    assert not json.loads(inner.objects()[f"runs/{run_id}/g0001/zarr.json"])["attributes"]["complete"]
    assert list(scratch.iterdir()) == []
    build_into(inner, undisturbed.trace, tmp_path / "mirror")
    assert comparable(inner.objects()) == undisturbed.objects


def test_a_second_coordinator_is_refused_while_the_first_one_builds(
    undisturbed: Undisturbed, scratch: Path, tmp_path: Path
) -> None:
    store, refused = Recorded(InMemory()), []

    def second(path: str) -> None:
        if path.endswith("/samples/00000.parquet"):
            store.before = lambda path: None
            with pytest.raises(BusyError, match=r"the run 'small' is held by process \d+ on ") as error:
                build_into(store.inner, undisturbed.trace, tmp_path / "second")
            refused.append(error.value)

    store.before = second
    build_into(store, undisturbed.trace, tmp_path / "mirror")
    assert len(refused) == 1
    assert comparable(store.inner.objects()) == undisturbed.objects


def test_a_store_that_stops_answering_ends_a_build_that_the_same_call_takes_up(
    undisturbed: Undisturbed, scratch: Path, tmp_path: Path
) -> None:
    store = Recorded(InMemory())

    def silent(path: str) -> None:
        if path.endswith("/c.0.1.0"):
            raise UnreachableError("the store did not answer", place=path)

    store.before = silent
    with pytest.raises(UnreachableError, match="did not answer"):
        build_into(store, undisturbed.trace, tmp_path / "mirror")
    assert assert_records_are_true(store.inner.objects()) == 1
    store.before = lambda path: None
    assert build_into(store, undisturbed.trace, tmp_path / "mirror").n_shards_built == 1
    assert comparable(store.inner.objects()) == undisturbed.objects


def test_scratch_on_a_disk_that_is_full_is_named_and_little_of_it_is_used_at_once(
    undisturbed: Undisturbed, scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steercache.runs.engine.SPARE_BYTES", 0)
    scratch.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(scratch)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.decode()}")
    try:
        store = InMemory()
        monkeypatch.setattr("steercache.runs.engine.IN_SCRATCH", 99)
        with pytest.raises(BudgetError, match=r"99 shards of .* lie on the disk before they are sent"):
            build_into(store, undisturbed.trace, tmp_path / "mirror")
        monkeypatch.setattr("steercache.runs.engine.IN_SCRATCH", 0)
        (scratch / "filler").write_bytes(bytes(100_000))
        with pytest.raises(BudgetError, match="No space left") as full:
            build_into(store, undisturbed.trace, tmp_path / "mirror")
        assert "STEERCACHE_SCRATCH" in (full.value.hint or "")
        assert [path.name for path in scratch.iterdir()] == ["filler"]
        (scratch / "filler").unlink()
        build_into(store, undisturbed.trace, tmp_path / "mirror")
        assert comparable(store.objects()) == undisturbed.objects
    finally:
        subprocess.run(["umount", "-l", str(scratch)], check=True)


def test_workers_of_other_numerics_are_refused(undisturbed: Undisturbed, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="other numerics cannot build into an object store"):
        build_into(
            InMemory(),
            undisturbed.trace,
            tmp_path / "mirror",
            engine=EngineOptions(workers=2),
            mixed_numerics=True,
        )


class NeverOurs(InMemory):
    """A store in which another writer is always a moment quicker."""

    def swap(self, path: str, data: bytes, *, tag: str | None) -> str:
        raise ObjectChangedError(path)


def test_a_document_that_others_write_all_the_time_is_said_to_be_busy_and_not_taken_for_changed() -> None:
    store = NeverOurs()
    store.put("runs/a/run.json", b'{"complete": false}')
    with pytest.raises(BusyError, match="all the time"):
        change_document(store, "runs/a/run.json", lambda said: {**said, "complete": True}, check=lambda: None)
