"""Power lost at any moment of a build: what was committed is whole, and the next build makes the rest, byte for byte."""

from pathlib import Path

import pytest

from steercache.cache.handle import open_cache
from steercache.cache.verify import verify_root
from steercache.store import durable
from steercache.store.replay import crash_states
from tests.cache.contents import files_of, tables_of
from tests.tracing import write_small_trace

EVERY = [pytest.param(23, id="every-23rd-state"), pytest.param(1, id="every-state", marks=pytest.mark.slow)]


@pytest.mark.parametrize("step", EVERY)
def test_every_state_that_a_power_loss_can_leave_recovers_to_the_undisturbed_build(step: int, tmp_path: Path) -> None:
    trace = write_small_trace(tmp_path / "t", n=14)
    undisturbed = tmp_path / "undisturbed"
    trace.build(undisturbed)
    recorded = tmp_path / "recorded"
    with durable.record_operations() as operations:
        trace.build(recorded)
    states = list(crash_states(operations, {}))
    assert len(states) > 100
    seen_committed = set()
    for number, state in enumerate(states[::step]):
        root = tmp_path / f"state{number}"
        (root / "runs").mkdir(parents=True)
        state.build(recorded, root)
        cache = open_cache(root)
        assert [f for checked in verify_root(cache) for f in checked.findings] == []
        seen_committed.add(sum(1 for _ in root.glob("runs/*/shards/*/*.json")))
        trace.build(root)
        assert files_of(root) == files_of(undisturbed)
        assert tables_of(root) == tables_of(undisturbed)
    assert len(seen_committed) > 1, "the states reach from nothing committed to all of it"
