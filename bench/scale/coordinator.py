"""The coordinator of a build at 100,000 shards and 500 workers: the real one, over a cluster that is simulated.

Real are the run's document with all planned shards, beginning and finishing the run, `Crew`, the records of shards and their
tables on disk, and the index, told once a minute of the simulated clock. Simulated are the workers: a shard takes a minute or
so, some take five times as long, and some workers are taken away. Ray's own time for a call is not in it.

python -m bench.scale.coordinator --shards 100000 --workers 500
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bench.scale.clock import Clock, Cluster, Weather
from steercache.cache import commit
from steercache.cache.commit import begin_run
from steercache.cache.documents import (
    DatasetInputs,
    PlannedShard,
    RunDocument,
    RunModel,
    run_id_of,
)
from steercache.cache.handle import CacheFolder, open_cache
from steercache.cache.paths import FIRST_GENERATION, RunPaths
from steercache.core.ids import canonical_json
from steercache.core.layout import FileRecord, ShardRecord, SiteLayout, StoreLayout
from steercache.engines.crew import Crew, EngineOptions
from steercache.engines.on_ray import RayHands
from steercache.index.schemas import SAMPLES
from steercache.runs.engine import BuildOptions, _tell
from steercache.runs.tables import ROWS
from steercache.store.documents import shard_record_to_json
from steercache.store.shard import coordinate_file_name, site_file_name

MIB = 2**20
LAYOUT = {"layers": 42, "width": 3584, "rows_per_shard": 768, "chunk_rows": 256}  # PaliGemma2-10B, all layers, 220 MiB
LINKS = 30_000  # names of one file; ext4 takes 65,000
FAIR = Weather()
TABLE_ROWS = 32  # tokens in a shard's tables: filling the index with rows is timed by `python -m bench index`


def planned_run(n_shards: int) -> RunDocument:
    """A run of a large model that has been planned and not begun."""
    sites = (SiteLayout(site="resid_post", layers=tuple(range(LAYOUT["layers"])), width=LAYOUT["width"]),)
    rows, chunk = LAYOUT["rows_per_shard"], LAYOUT["chunk_rows"]
    identity = {"model": {"fingerprint": "f" * 64}, "inputs": [], "kept": {"rows": "all"}, "n": n_shards}
    shards = tuple(
        PlannedShard(shard_idx=i, first_sample=i, n_samples=1, n_rows=rows, n_tokens=rows, input_digest=f"{i:064x}")
        for i in range(n_shards)
    )
    return RunDocument(
        run_id=run_id_of(identity),
        name="simulated",
        created_at="2026-01-01T00:00:00.000000",
        model=RunModel(
            name="m", model_id="m", fingerprint="f" * 64, modality="text", dtype="bfloat16",
            hidden_size=LAYOUT["width"], n_layers=LAYOUT["layers"],
        ),
        datasets=(DatasetInputs(dataset="words", inputs_digest="d" * 64, first_sample=0, n_samples=n_shards),),
        identity=identity,
        numerics={},
        manifest={},
        layout=StoreLayout(sites=sites, dtype="bfloat16", n_shards=n_shards, rows_per_shard=rows, chunk_rows=chunk),
        shards=shards,
        replayable=True,
    )  # fmt: skip


class SimulatedWorkers:
    """What workers leave on the disk for a shard: its record, with all the checksums of a real one, and its tables."""

    def __init__(self, paths: RunPaths, document: RunDocument) -> None:
        self._paths = paths
        layout = document.layout
        chunks = tuple(range(2**31, 2**31 + LAYOUT["layers"] * layout.chunks_per_shard))
        names = [
            site_file_name("resid_post", 0),
            *(coordinate_file_name(n, 0) for n in ("sample_idx", "position", "token_id")),
        ]
        self._arrays = tuple(
            FileRecord(path=f"{FIRST_GENERATION}/{name}", n_bytes=1, crc32c=7, chunk_crc32c=chunks if not i else ())
            for i, name in enumerate(names)
        )
        self._samples, self._tokens = _tables()

    def serve(self, planned: PlannedShard) -> None:
        """Commit a shard as a worker does, without waiting for the disk."""
        idx = planned.shard_idx
        for path, table in ((self._paths.tokens(idx), self._tokens), (self._paths.samples(idx), self._samples)):
            base = path.with_name(f"base{idx // LINKS}")
            if not base.exists():
                pq.write_table(table, base)
            if not path.exists():
                os.link(base, path)
        tables = tuple(
            FileRecord(path=f"{kind}/{idx:05d}.parquet", n_bytes=1, crc32c=idx) for kind in ("rows", "samples")
        )
        record = ShardRecord(
            shard_idx=idx, first_sample=planned.first_sample, n_samples=1, n_rows=planned.n_rows,
            input_digest=planned.input_digest, files=(*self._arrays, *tables), non_finite=(),
        )  # fmt: skip
        self._paths.shard(FIRST_GENERATION, idx).write_bytes(canonical_json(shard_record_to_json(record)) + b"\n")


def _tables() -> tuple[pa.Table, pa.Table]:
    sample = {
        "sample_idx": 0, "ordinal": 0, "sample_id": "0" * 64, "dataset": "words", "text": "a sentence", "n_tokens": TABLE_ROWS
    }  # fmt: skip
    token = {"sample_idx": 0, "token_id": 5, "piece": "word", "char_start": 0, "char_end": 4, "kind": "text"}
    tokens = [token | {"position": i, "row_idx": i} for i in range(TABLE_ROWS)]
    return pa.Table.from_pylist([sample], schema=SAMPLES), pa.Table.from_pylist(tokens, schema=ROWS)


def _never() -> Any:
    raise AssertionError("workers are simulated")


def simulate(root: Path, *, n_shards: int, n_workers: int, weather: Weather = FAIR) -> dict[str, Any]:
    """Build a run on the simulated cluster; seconds by part of the coordinator's work, and what became of the workers' time."""
    parts: dict[str, float] = {}
    peaks: dict[str, int] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        begun = time.perf_counter()
        try:
            return work()
        finally:
            parts[name] = parts.get(name, 0.0) + time.perf_counter() - begun
            if name != "tell":
                peaks[name] = memory_bytes("VmHWM") // MIB

    cache = open_cache(root, create=True)
    document = timed("plan", lambda: planned_run(n_shards))
    before = memory_bytes("VmRSS")
    clock = Clock()
    commit.time = SimpleNamespace(monotonic=clock.now)  # the index is told once a minute of the cluster's
    try:
        with _Timed(begin_run(cache, document), timed) as run:
            workers = SimulatedWorkers(run.paths, run.document)
            cluster = Cluster(clock=clock, weather=weather, serve=workers.serve)
            pending = timed("pending", run.pending)
            tell = _tell(run, BuildOptions())
            options = EngineOptions(name="ray", workers=n_workers)
            crew: Crew[Any, Any] = Crew(lambda: RayHands(cluster, _never, options), options, name="simulated")
            begun, at = time.perf_counter(), clock.now()
            crew.do(pending, lambda planned, _: timed("tell", lambda: tell(planned, None)))
            parts["hand out"] = time.perf_counter() - begun - clock.own_s - parts["tell"]
            took = clock.now() - at
            timed("finish", run.finish)
            timed("records", lambda: sum(record.n_rows for record in run.records()))
    finally:
        commit.time = time
    parts["resume"] = timed_resume(cache, document)
    ideal = (cluster.busy_s + cluster.lost_s) / n_workers + weather.start_s
    return {
        "n_shards": n_shards,
        "n_workers": n_workers,
        "parts_s": {name: round(seconds, 3) for name, seconds in parts.items()},
        "peak_mib_after": peaks,
        "overhead_ms": 1000 * sum(parts.values()) / n_shards,
        "memory_mib": memory_bytes("VmHWM") / MIB,
        "memory_before_mib": before / MIB,
        "simulated_h": took / 3600,
        "ideal_h": ideal / 3600,
        "n_died": cluster.n_died,
        "lost_h": cluster.lost_s / 3600,
        "late_ms": 1000 * cluster.late_s / n_shards,
        "document_mib": run.paths.document.stat().st_size / MIB,
    }


class _Timed:
    """A context manager whose entry is timed."""

    def __init__(self, inner: Any, timed: Callable[[str, Callable[[], Any]], Any]) -> None:
        self._inner, self._timed = inner, timed

    def __enter__(self) -> Any:
        return self._timed("begin", self._inner.__enter__)

    def __exit__(self, *about: Any) -> Any:
        return self._inner.__exit__(*about)


def timed_resume(cache: CacheFolder, document: RunDocument) -> float:
    """Begin a complete run again, as the same command given twice does."""
    begun = time.perf_counter()
    with begin_run(cache, document) as run:
        assert not run.pending()
    return time.perf_counter() - begun


def memory_bytes(name: str) -> int:
    """This process's memory from the kernel: VmRSS now, VmHWM at its highest."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0]) * 1024


def in_own_process(*, n_shards: int, n_workers: int, folder: Path | None = None) -> dict[str, Any]:
    """`simulate` in a process of its own, so that its peak of memory is its own."""
    work = Path(tempfile.mkdtemp(prefix="bench-scale-", dir=folder))
    command = [sys.executable, "-m", "bench.scale.coordinator", "--shards", str(n_shards), "--workers", str(n_workers)]
    try:
        said = subprocess.run([*command, "--root", str(work)], check=True, capture_output=True, text=True).stdout
    finally:
        shutil.rmtree(work)
    found: dict[str, Any] = json.loads(said)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=500)
    parser.add_argument("--root", type=Path, required=True)
    asked = parser.parse_args()
    print(json.dumps(simulate(asked.root / "cache", n_shards=asked.shards, n_workers=asked.workers), indent=2))
