"""How long a plan says a trace takes: by builds timed here, else by forward passes timed here, else by a guess."""

from pathlib import Path

import pytest

from steercache.cache.calibration import costs_key, record_costs, record_outcome, record_speed
from steercache.cache.handle import open_cache
from steercache.runs.first_guess import guess_key
from steercache.runs.job import prepare_trace
from steercache.runs.overview import Overview, overview
from steercache.runs.plan import plan_run
from tests.tracing import write_small_trace


def test_a_plan_counts_time_by_what_was_measured_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steercache.runs.first_guess.product_s", lambda width, dtype: 1e-11)
    trace = write_small_trace(tmp_path, n=30)
    cache = open_cache(tmp_path / "root", create=True)
    plan = plan_run(prepare_trace(trace.manifest, cache_root=cache.root, device="cpu").job)
    model = plan.document.model

    def seen() -> Overview:
        return overview(cache, cache.root, plan)

    guess_s = 3.0 * plan.n_tokens * model.n_layers * 12 * model.hidden_size**2 * 1e-11
    assert seen().seconds == pytest.approx(guess_s)
    assert (seen().forward_only, seen().guessed) == (False, True)
    record_outcome(cache.paths, guess_key(model), predicted_s=1.0, seconds=4.0)  # a build, of whatever model
    assert seen().seconds == pytest.approx(4 * guess_s)
    for threads, each in ((1, 2e-6), (2, 9.0)):  # the trace asks for one thread
        key = costs_key(model.fingerprint, model.dtype, device="cpu", threads=threads)
        record_costs(cache.paths, key, {"block_token_s": each})
    assert seen().seconds == pytest.approx(plan.n_tokens * 3 * 2e-6)
    assert (seen().forward_only, seen().guessed) == (True, False)
    record_speed(cache.paths, model.fingerprint, model.dtype, n_tokens=10_000, seconds=4.0)
    assert seen().seconds == pytest.approx(plan.n_tokens / 2500)
    assert not seen().forward_only
    record_speed(cache.paths, model.fingerprint, model.dtype, n_tokens=90_000, seconds=4.0)  # nine times quicker
    assert seen().seconds == pytest.approx(plan.n_tokens / 7500)  # half way, on a logarithmic scale
    cache.paths.calibration.write_text("torn {")
    assert seen().seconds == pytest.approx(guess_s)
