"""Power lost at any moment of a build: what was committed is whole, and the next build makes the rest, byte for byte."""

import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest

from steercache.cache.handle import open_cache
from steercache.cache.verify import verify_root
from steercache.store import durable
from steercache.store.replay import DiskState, crash_states
from tests.cache.contents import files_of, tables_of
from tests.tracing import write_small_trace


def names_of(root: Path) -> set[str]:
    """Every file of a cache but the index, the locks and what only saves time."""
    files = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    return {name for name in files if not name.startswith(("index.duckdb", "models/")) and not name.endswith("LOCK")}


SOME = [pytest.param(5, id="some-states"), pytest.param(None, id="every-state", marks=pytest.mark.slow)]


def unlike(states: Iterable[DiskState]) -> list[DiskState]:
    """Each state once: a flush changes nothing that a disk shows."""
    found: dict[int, DiskState] = {}
    for state in states:
        found.setdefault(hash((frozenset(state.files.items()), state.folders)), state)
    return list(found.values())


@pytest.mark.parametrize("n", SOME)
def test_every_state_that_a_power_loss_can_leave_recovers_to_the_undisturbed_build(
    n: int | None, tmp_path: Path
) -> None:
    trace = write_small_trace(tmp_path / "t", n=14)
    undisturbed = tmp_path / "undisturbed"
    trace.build(undisturbed)
    recorded = tmp_path / "recorded"
    with durable.record_operations() as operations:
        trace.build(recorded)
    states = unlike(crash_states(operations, {}))
    assert len(states) > 100
    seen_committed = set()
    for number, state in enumerate(states[:: 1 if n is None else -(-len(states) // n)]):
        root = tmp_path / f"state{number}"
        (root / "runs").mkdir(parents=True)
        state.build(recorded, root)
        cache = open_cache(root)
        assert [f for checked in verify_root(cache) for f in checked.findings] == []
        seen_committed.add(sum(1 for _ in root.glob("runs/*/shards/*/*.json")))
        trace.build(root)
        assert files_of(root) == files_of(undisturbed)
        assert tables_of(root) == tables_of(undisturbed)
        shutil.rmtree(root)
    assert len(seen_committed) > 1, "the states reach from nothing committed to all of it"


RESUMED = [
    pytest.param((193, 16), id="every-193rd-kill-and-some-renames"),
    pytest.param((1, 1), id="every-kill", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("steps", RESUMED)
def test_a_build_that_resumes_after_a_kill_makes_safe_what_the_killed_one_had_not(
    steps: tuple[int, int], tmp_path: Path
) -> None:
    """Killed, a process leaves all it did to the files and none of the promises: the next one sees names that no fsync covers.

    When that one has ended well, the power may fail.
    """
    trace = write_small_trace(tmp_path / "t", n=14)
    root, undisturbed = tmp_path / "root", tmp_path / "undisturbed"
    trace.build(undisturbed)
    with durable.record_operations() as killed:
        trace.build(root)
    kills = [s for s in crash_states(killed, {}) if s.model == "ordered"]
    names = [n for n, operation in enumerate(killed) if operation.kind in ("make_folder", "rename")]
    for state in [kills[n + 1] for n in sorted({*range(0, len(killed), steps[0]), *names[:: steps[1]]})]:
        shutil.rmtree(root)
        root.mkdir()
        state.build(root, root)
        with durable.record_operations() as resumed:
            trace.build(root)
        done = [*killed[: state.n_operations], *resumed]
        after = [s for s in crash_states(done, {}) if s.model == "synced"][-1]
        lost = tmp_path / "lost"
        lost.mkdir()
        after.build(root, lost)
        assert files_of(lost) == files_of(undisturbed), killed[state.n_operations - 1]
        assert names_of(lost) == names_of(undisturbed), killed[state.n_operations - 1]
        shutil.rmtree(lost)
