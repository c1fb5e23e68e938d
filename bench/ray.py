"""A build with two workers on Ray against the same build with two local ones: SmolLM2, alternated, worker starts included.

The cluster is one of this machine's own, started before, as clusters are; what starting it takes is told beside. Models, data
and batch plans are the same, and so are the bytes, which is checked.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import ray

from bench.texts import write_texts, write_trace
from bench.turns import Row, fast_dtype, row_of, seconds
from steercache.cache.handle import open_cache
from steercache.engines.crew import EngineName, EngineOptions
from steercache.engines.on_ray import STORE_BYTES
from steercache.runs.engine import BuildOptions, build_run
from steercache.runs.job import prepare_trace
from steercache.runs.plan import plan_run

N_TEXTS = {"bfloat16": 2400, "float32": 800}
SENTENCES = (3, 6)
LAYERS = [7, 15, 23]  # the model runs whole; writing is timed by `python -m bench build`
ROWS_PER_SHARD = 4096
TURNS = 4


def build(root: Path, trace: Path, models: Path, dtype: str, engine: EngineName) -> dict[str, str]:
    """A build with two workers; checksums of its shards' records, by name."""
    shutil.rmtree(root, ignore_errors=True)
    cache = open_cache(root, create=True)
    prepared = prepare_trace(trace, cache_root=models, device="cpu", dtype=dtype)
    plan = plan_run(prepared.job, cache=cache)
    done = build_run(cache, plan, prepared, BuildOptions(engine=EngineOptions(name=engine, workers=2)))
    paths = cache.run_paths(done.run_id)
    return {path.name: path.read_text() for path in sorted(paths.shards("g0001").glob("*.json"))}


def run(folder: Path | None = None, *, n_texts: int | None = None, turns: int = TURNS) -> Iterator[Row]:
    """The row, and what starting a cluster takes."""
    work = Path(tempfile.mkdtemp(prefix="bench-ray-", dir=folder))
    dtype = fast_dtype()
    init = partial(ray.init, num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=STORE_BYTES)
    try:
        write_texts(work, n=n_texts or N_TEXTS[dtype], sentences=SENTENCES)
        trace = write_trace(work, layers=LAYERS, numerics={"threads": 1}, rows_per_shard=ROWS_PER_SHARD)
        started = seconds(init)
        times: list[tuple[float, float]] = []
        built: dict[str, dict[str, str]] = {}
        both: tuple[EngineName, EngineName] = ("ray", "local")
        for turn in range(turns):
            took: dict[str, float] = {}
            for engine in both[:: 1 if turn % 2 else -1]:

                def one(engine: EngineName = engine) -> None:
                    built[engine] = build(work / engine, trace, work / "models", dtype, engine)

                took[engine] = seconds(one)
            times.append((took["ray"], took["local"]))
        if built["ray"] != built["local"]:
            raise AssertionError("the bytes differ")
        row = row_of("build on Ray with 2 workers against 2 local ones", times, target="<= 1.10", faster=False)
        yield row | {"dtype": dtype, "n_shards": len(built["ray"]), "start_cluster_s": started, "pairs_s": times}
    finally:
        ray.shutdown()
        shutil.rmtree(work)


if __name__ == "__main__":
    print(json.dumps([*run()], indent=2))
