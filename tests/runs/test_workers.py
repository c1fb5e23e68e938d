"""A run traced by other processes equals one traced here, byte for byte; workers with other kernels are refused or recorded."""

import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import ray
import torch

from steercache.cache.compact import compact_run
from steercache.cache.handle import open_cache
from steercache.cache.source import committed_shards
from steercache.cache.verify import verify_root
from steercache.core.errors import UsageError
from steercache.core.numerics import settings_of
from steercache.engines.crew import EngineOptions
from steercache.engines.on_ray import STORE_BYTES
from tests.cache.contents import files_of, tables_of
from tests.kernels import without_onednn
from tests.tiny import write_tiny_model
from tests.tracing import SmallTrace, write_small_trace

pytestmark = pytest.mark.slow
ON_RAY = EngineOptions(name="ray", workers=2)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=STORE_BYTES)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> SmallTrace:
    """A model of real widths that computes in bfloat16."""
    folder = tmp_path_factory.mktemp("t")
    write_tiny_model(folder / "model", dtype=torch.bfloat16)
    return write_small_trace(folder, n=40)


@pytest.mark.parametrize("engine", [EngineOptions(workers=2), ON_RAY], ids=["local", "ray"])
def test_the_bytes_are_those_of_a_build_in_one_process_and_progress_counts_every_token(
    engine: EngineOptions, trace: SmallTrace, tmp_path: Path
) -> None:
    here: list[int] = []
    there: list[int] = []
    trace.build(tmp_path / "here", on_tokens=here.append)
    result = trace.build(tmp_path / "there", engine=engine, on_tokens=there.append)
    assert files_of(tmp_path / "there") == files_of(tmp_path / "here")
    assert tables_of(tmp_path / "there") == tables_of(tmp_path / "here")
    assert sum(there) == sum(here) > 0
    assert len(there) == result.n_shards_built


def test_workers_with_other_kernels_are_refused_with_the_difference_or_recorded_shard_by_shard(
    trace: SmallTrace, tmp_path: Path
) -> None:
    notes: list[str] = []
    with without_onednn():  # in this process, not in the workers
        with pytest.raises(UsageError, match=r"computes under other numerics than the run: .* bfloat16 products"):
            trace.build(tmp_path / "root", engine=ON_RAY)
        result = trace.build(tmp_path / "root", engine=ON_RAY, mixed_numerics=True, on_note=notes.append)
    assert any("was computed under other numerics than the run's: " in note for note in notes)
    cache = open_cache(tmp_path / "root")
    run, records = cache.run_document(result.run_id), committed_shards(cache.run_paths(result.run_id), "g0001")
    assert {record.computed_otherwise for record in records} == {records[0].computed_otherwise}
    assert "bfloat16 products" in records[0].computed_otherwise[-1]
    mine, theirs = settings_of(run.numerics)
    assert mine["probe"] != theirs["probe"]
    assert [finding for checked in verify_root(cache) for finding in checked.findings] == []
    trace.build(tmp_path / "alike")
    alike = open_cache(tmp_path / "alike")
    assert theirs == alike.run_document(result.run_id).numerics
    assert tables_of(tmp_path / "root")["tokens"] == tables_of(tmp_path / "alike")["tokens"]


def test_a_build_on_ray_is_resumed_here_and_the_other_way_round(trace: SmallTrace, tmp_path: Path) -> None:
    trace.build(tmp_path / "here")
    for first, second in ((ON_RAY, EngineOptions()), (EngineOptions(), ON_RAY)):
        root = tmp_path / first.name
        trace.build(root, engine=first)
        cache = open_cache(root)
        cache.run_paths(cache.resolve_run("small")).shard("g0001", 1).unlink()
        assert trace.build(root, engine=second).n_shards_built == 1
        assert files_of(root) == files_of(tmp_path / "here")


@pytest.mark.parametrize("engine", [EngineOptions(workers=2), ON_RAY], ids=["local", "ray"])
def test_a_compaction_by_workers_has_the_bytes_of_one_here_and_rows_are_read_all_the_while(
    engine: EngineOptions, trace: SmallTrace, tmp_path: Path
) -> None:
    here = trace.cache(tmp_path / "here")
    run_id, root = here.resolve_run("small"), tmp_path / "there"
    shutil.copytree(here.root, root)
    compact_run(here, run_id, codec="int8")
    cache, notes = open_cache(root), list[str]()
    rows = np.arange(4)
    exact = cache.source(run_id).gather("resid_post", 0, rows)
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(
            compact_run, cache, run_id, codec="int8", engine=engine, on_shard=lambda n, of: None, on_note=notes.append
        )
        generations = set()
        while not done.done():
            source = open_cache(root).source(run_id)
            found = source.gather("resid_post", 0, rows)
            assert source.lossy or np.array_equal(found.view(np.uint16), exact.view(np.uint16))
            generations.add(source.generation)
            source.close()
            time.sleep(0.02)
    assert done.result().generation == "g0002"
    assert "g0001" in generations
    assert notes == []
    assert files_of(root) == files_of(here.root)
    assert tables_of(root) == tables_of(here.root)
