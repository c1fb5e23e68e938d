"""After a power loss at any moment: what was committed is whole, what was not is done again with the same bytes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from steercache.core.ids import canonical_json
from steercache.core.layout import CodecName
from steercache.core.unfinished import is_unfinished
from steercache.store import durable
from steercache.store.documents import shard_record_from_json, shard_record_to_json
from steercache.store.generation import create_generation, set_complete
from steercache.store.recode import recode_shard
from steercache.store.replay import DiskState, crash_states, read_files
from steercache.store.verify import verify_file
from tests.store.written import Written, scratch, small_layout, write_run, write_shard

LAYOUT = small_layout(n_shards=2)
COMMIT = "shard.json"  # stands for the record that makes a shard's rows exist


def commit(written: Written, folder: Path, shard_idx: int) -> None:
    """Write a shard into `folder` and then its record, as a build does."""
    columns = {name: values for (name, shard), values in written.columns.items() if shard == shard_idx}
    record = write_shard(folder / "g0001", LAYOUT, shard_idx, written.truth, columns)
    durable.write_file_atomically(folder / COMMIT, canonical_json(shard_record_to_json(record)))


def states_of(root: Path, work: Callable[[Path], None]) -> tuple[list[DiskState], dict[Path, bytes]]:
    """Every state in which `work` on `root` can be cut short, and the files of its undisturbed end, relative to root."""
    before = read_files(root)
    with durable.record_operations() as operations:
        work(root)
    end = {path.relative_to(root): data for path, data in read_files(root).items()}
    return list(crash_states(operations, before)), end


def rebuilt(state: DiskState, root: Path, target: Path) -> Path:
    target.mkdir()
    state.build(root, target)
    return target


def files_below(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): data for path, data in read_files(folder).items()}


def committed_problems(folder: Path) -> list[str] | None:
    """What is wrong with the committed shard, or None where its record is not there."""
    path = folder / COMMIT
    if not path.exists():
        return None
    record = shard_record_from_json(json.loads(path.read_bytes()), str(path))
    return [problem for file in record.files for problem in verify_file(folder, file)]


def test_a_committed_shard_is_whole_in_every_state_and_an_uncommitted_one_is_written_again_alike() -> None:
    with scratch() as scratch_folder:
        written = write_run(scratch_folder / "truth", LAYOUT, {0: 12, 1: 7})
        root = scratch_folder / "run"
        create_generation(root / "g0001", LAYOUT, attributes={})
        states, end = states_of(root, lambda folder: commit(written, folder, 1))
        found = {"whole": 0, "absent": 0}
        for number, state in enumerate(states):
            folder = rebuilt(state, root, scratch_folder / str(number))
            problems = committed_problems(folder)
            assert problems in (None, []), (state.model, state.n_operations)
            found["absent" if problems is None else "whole"] += 1
            if problems is None:
                commit(written, folder, 1)
            assert files_below(folder) == end
        assert min(found.values()) > 3
        assert len(states) > 100


def test_creating_a_generation_can_be_cut_anywhere_and_done_again() -> None:
    with scratch() as scratch_folder:
        root = scratch_folder / "run"
        root.mkdir()

        def create(folder: Path) -> None:
            create_generation(folder / "g0001", LAYOUT, attributes={"run_id": "r"})
            set_complete(folder / "g0001", True)

        states, end = states_of(root, create)
        for number, state in enumerate(states):
            folder = rebuilt(state, root, scratch_folder / str(number))
            create(folder)
            leftovers = {path for path in files_below(folder) if is_unfinished(path.name)}
            assert {p: d for p, d in files_below(folder).items() if p not in leftovers} == end
            assert not leftovers


@pytest.mark.parametrize("codec", ["pcodec", "int8", "raw"])
def test_recoding_a_shard_can_be_cut_anywhere_and_done_again(codec: CodecName) -> None:
    with scratch() as scratch_folder:
        written = write_run(scratch_folder / "run", LAYOUT, {0: 6})
        root = scratch_folder / "run"
        create_generation(root / "g0002", LAYOUT, attributes={}, codec=codec)

        def recode(folder: Path) -> None:
            source = Written(path=folder / "g0001", layout=LAYOUT, records=written.records, truth={}, columns={})
            with source.open() as reader:
                recode_shard(reader, folder / "g0002", LAYOUT, 0, codec=codec)

        states, end = states_of(root, recode)
        for number, state in enumerate(states):
            folder = rebuilt(state, root, scratch_folder / str(number))
            recode(folder)
            assert files_below(folder) == end


def test_a_file_replaced_atomically_is_the_old_or_the_new_one() -> None:
    with scratch() as root:
        path = root / "CURRENT"
        durable.write_file_atomically(path, b"g0001\n")
        states, _ = states_of(root, lambda folder: durable.write_file_atomically(folder / "CURRENT", b"g0002\n"))
        seen = {state.files[path] for state in states}
        assert seen == {b"g0001\n", b"g0002\n"}
        assert [s.files[path] for s in states if s.model == "synced"][-1] == b"g0002\n"


def test_a_folder_whose_maker_was_killed_before_it_was_safe_is_made_safe_by_the_next_writer() -> None:
    """Every moment of a first writer's life, a second that goes on from there and ends well, and then a power loss."""

    def write(root: Path) -> None:
        durable.make_folder(root / "a" / "b")
        durable.write_file_atomically(root / "a" / "b" / "file", b"whole")

    with scratch() as scratch_folder:
        root = scratch_folder / "root"
        root.mkdir()
        with durable.record_operations() as killed:
            write(root)
        for state in [s for s in crash_states(killed, {}) if s.model == "ordered"]:
            shutil.rmtree(root)
            rebuilt(state, root, root)
            with durable.record_operations() as resumed:
                write(root)
            done = [*killed[: state.n_operations], *resumed]
            after = [s for s in crash_states(done, {root / "old": b""}) if s.model == "synced"][-1]
            assert after.files[root / "a" / "b" / "file"] == b"whole", state.n_operations


def test_the_disk_models_catch_a_commit_that_forgets_an_fsync() -> None:
    def rename_without_fsync(folder: Path) -> None:
        fd = durable.create(folder / "a.tmp-1")
        durable.pwrite(fd, b"data", 0)
        durable.close(fd)
        durable.rename(folder / "a.tmp-1", folder / "a")

    with scratch() as root:
        states, _ = states_of(root, rename_without_fsync)
        last = {state.model: state.files.get(root / "a") for state in states[-3:]}
        assert last == {"ordered": b"data", "synced": None, "names_first": b""}


def test_what_is_recorded_is_what_happened() -> None:
    with scratch() as root:
        states, end = states_of(root, lambda folder: create_generation(folder / "g0001", LAYOUT, attributes={}))
        for model in ("ordered", "synced", "names_first"):  # all of it was made durable, so all models agree at the end
            last = [state for state in states if state.model == model][-1]
            assert {path.relative_to(root): data for path, data in last.files.items()} == end
