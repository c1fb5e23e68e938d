"""Rows of one run are computed by one kind of kernel: on resume, by workers, and when it is complete already."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from steercache.cache.handle import CacheFolder, open_cache
from steercache.core.errors import UsageError
from steercache.engines.crew import EngineOptions
from tests.kernels import another_cpu, without_onednn
from tests.tiny import write_tiny_model
from tests.tracing import SmallTrace, write_small_trace

SAME_NUMERICS = {"tokens_per_batch": 64, "threads": 1}


@pytest.fixture
def trace(tmp_path: Path) -> SmallTrace:
    """A model of real widths that computes in bfloat16."""
    write_tiny_model(tmp_path / "t" / "model", dtype=torch.bfloat16)
    return write_small_trace(tmp_path / "t", n=30)


@pytest.fixture
def begun(trace: SmallTrace, tmp_path: Path) -> tuple[SmallTrace, Path, CacheFolder, str]:
    """A run that lacks one shard."""
    root = tmp_path / "root"
    trace.build(root)
    cache = open_cache(root)
    run_id = cache.resolve_run("small")
    cache.run_paths(run_id).shard("g0001", 1).unlink()
    return trace, root, cache, run_id


def edit_numerics(cache: CacheFolder, run_id: str, **changes: Any) -> None:
    """Write numerics into `run.json`; None takes a name out."""
    path = cache.run_paths(run_id).document
    document = json.loads(path.read_bytes())
    document["numerics"] = {k: v for k, v in (document["numerics"] | changes).items() if v is not None}
    path.write_text(json.dumps(document))


def test_other_kernels_are_refused_on_resume_whatever_the_cpu_is_called(
    begun: tuple[SmallTrace, Path, CacheFolder, str],
) -> None:
    trace, root, cache, run_id = begun
    with without_onednn():
        with pytest.raises(UsageError, match=r"begun under other numerics: .* other bits in .*bfloat16 products"):
            trace.build(root)
        assert trace.build(root, force=True).n_shards_built == 1
    numerics = cache.run_document(run_id).numerics
    assert numerics["probe"] != numerics["forced_over"]["probe"]


@pytest.mark.slow
def test_a_process_on_another_cpu_of_the_same_name_cannot_go_on(
    begun: tuple[SmallTrace, Path, CacheFolder, str],
) -> None:
    trace, root, _, _ = begun
    command = [
        sys.executable,
        "-c",
        "from steercache.cli.main import main; main()",
        "build",
        str(trace.manifest),
        "--root",
        str(root),
        "--device",
        "cpu",
    ]
    found = subprocess.run(command, env={**os.environ, **another_cpu()}, capture_output=True, text=True, check=False)
    assert found.returncode == 2, found.stderr
    assert "other bits in bfloat16 products" in found.stderr
    assert trace.build(root).n_shards_built == 1


@pytest.mark.slow
def test_a_worker_on_another_cpu_is_refused(
    begun: tuple[SmallTrace, Path, CacheFolder, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trace, root, _, _ = begun
    for name, value in another_cpu().items():
        monkeypatch.setenv(name, value)  # this process has its kernels already; those that it starts read it
    with pytest.raises(UsageError, match=r"process computes under other numerics than the run: .*bfloat16 products"):
        trace.build(root, engine=EngineOptions(workers=2))
    assert trace.build(root).n_shards_built == 1


def test_a_run_from_before_the_probe_is_taken_up_and_stays_as_it_is(
    begun: tuple[SmallTrace, Path, CacheFolder, str],
) -> None:
    trace, root, cache, run_id = begun
    edit_numerics(cache, run_id, probe=None)
    assert trace.build(root).n_shards_built == 1
    assert "probe" not in cache.run_document(run_id).numerics
    assert trace.build(root).computed_otherwise == ()


def test_a_complete_run_says_under_which_other_numerics_it_was_computed(trace: SmallTrace, tmp_path: Path) -> None:
    trace.build(tmp_path / "root")
    assert trace.build(tmp_path / "root").computed_otherwise == ()
    other = write_small_trace(tmp_path / "t", n=30, numerics={**SAME_NUMERICS, "tokens_per_batch": 32})
    result = other.build(tmp_path / "root")
    assert result.n_shards_built == 0
    assert result.computed_otherwise == ("tokens_per_batch was 64, is 32",)
