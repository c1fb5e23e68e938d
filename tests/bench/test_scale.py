"""The reckoning of very large runs is that of a plan, the page has what it prints, and the simulated cluster keeps time."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from bench.scale import costs
from bench.scale.clock import Clock, Cluster, Weather
from bench.scale.coordinator import simulate
from bench.scale.rows import extrapolated
from steercache.engines.crew import Crew, EngineOptions
from steercache.engines.on_ray import RayHands
from steercache.store.geometry import shard_geometry
from tests.docs.blocks import REPOSITORY


def _no_worker() -> Any:
    raise AssertionError("workers are simulated")


def test_the_page_has_the_tables_that_the_script_prints() -> None:
    page = (REPOSITORY / "docs" / "scale.md").read_text(encoding="utf-8")
    assert costs.tables() in page, "python -m bench.scale.costs --write docs/scale.md"


@pytest.mark.parametrize("job", costs.JOBS, ids=["images", "text"])
def test_bytes_are_those_of_every_row_and_what_fills_chunks_up(job: costs.Job) -> None:
    by = {name: float(entry["value"]) for name, entry in costs.known().items()}
    for one in costs.costs(job, by):
        n_layers = costs.layer_choices(job)[one.layers]
        layout, of_shards = costs.layout_of(job, n_layers, one.rows, job.rows[one.rows])
        assert sum(of_shards) == one.n_rows == job.n_samples * job.rows[one.rows]
        values = one.n_rows * layout.row_bytes
        slots = len(of_shards) * layout.rows_per_shard
        index = len(of_shards) * shard_geometry(layout, layout.sites[0], 1).index_bytes
        assert values + 12 * slots + index <= one.raw <= slots * (layout.row_bytes + 12) + index
        assert max(of_shards) <= layout.rows_per_shard
        assert one.hours * 64 * 3 == pytest.approx(one.gpu_usd)


def test_a_simulated_cluster_of_steady_workers_takes_shards_over_workers_times_a_shard() -> None:
    steady = Weather(shard_s=60, spread=0, straggler_share=0, preempted_per_hour=0, start_s=100)
    done: list[int] = []
    cluster = Cluster(clock=Clock(), weather=steady, serve=lambda task: task)
    options = EngineOptions(name="ray", workers=20)
    crew: Crew[int, int] = Crew(lambda: RayHands(cluster, _no_worker, options), options, name="w")
    crew.do(range(70), lambda task, result: done.append(result))
    assert sorted(done) == list(range(70))
    assert cluster.clock.now() == pytest.approx(100 + 4 * 60, abs=2)


def test_workers_that_are_taken_away_are_replaced_and_every_shard_is_done() -> None:
    stormy = Weather(shard_s=60, preempted_per_hour=6, start_s=100)
    done: list[int] = []
    cluster = Cluster(clock=Clock(), weather=stormy, serve=lambda task: task)
    options = EngineOptions(name="ray", workers=20)
    crew: Crew[int, int] = Crew(lambda: RayHands(cluster, _no_worker, options), options, name="w")
    crew.do(range(200), lambda task, result: done.append(result))
    assert sorted(done) == list(range(200))
    assert cluster.n_died > 5
    assert cluster.lost_s > 0


def test_the_simulated_build_is_a_run_of_the_cache(tmp_path: Path) -> None:
    found = simulate(tmp_path / "cache", n_shards=30, n_workers=10)
    assert found["overhead_ms"] > 0
    assert found["simulated_h"] >= found["ideal_h"] * 0.9
    assert set(found["parts_s"]) >= {"begin", "tell", "hand out", "finish", "records", "resume"}


def test_a_line_is_extended_to_ten_billion_rows() -> None:
    assert extrapolated({10: 1.5, 30: 2.5, 100: 6.0}) == pytest.approx(1 + 0.05 * 10_000)
