"""How long a plan says a trace takes: by builds timed here, else by forward passes timed here, else it does not say."""

from pathlib import Path

import pytest

from steercache.cache.calibration import costs_key, record_costs, record_speed
from steercache.cache.handle import open_cache
from steercache.runs.job import prepare_trace
from steercache.runs.overview import Overview, overview
from steercache.runs.plan import plan_run
from tests.tracing import write_small_trace


def test_a_plan_counts_time_by_what_was_measured_on_this_machine(tmp_path: Path) -> None:
    trace = write_small_trace(tmp_path, n=30)
    cache = open_cache(tmp_path / "root", create=True)
    plan = plan_run(prepare_trace(trace.manifest, cache_root=cache.root, device="cpu").job)
    model = plan.document.model

    def seen() -> Overview:
        return overview(cache, cache.root, plan)

    assert (seen().seconds, seen().forward_only) == (None, False)
    for threads, each in ((1, 2e-6), (2, 9.0)):  # the trace asks for one thread
        key = costs_key(model.fingerprint, model.dtype, device="cpu", threads=threads)
        record_costs(cache.paths, key, {"block_token_s": each})
    assert seen().seconds == pytest.approx(plan.n_tokens * 3 * 2e-6)
    assert seen().forward_only
    record_speed(cache.paths, model.fingerprint, model.dtype, n_tokens=10_000, seconds=4.0)
    assert seen().seconds == pytest.approx(plan.n_tokens / 2500)
    assert not seen().forward_only
    cache.paths.calibration.write_text("torn {")
    assert seen().seconds is None
