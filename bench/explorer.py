"""The explorer at scale: the first page of a cache of 10 million tokens, a run's page, and a sample at one layer.

python -m bench.explorer                      10 million token rows, some minutes
python -m bench.explorer --rows 100000000     the same at 100 million

Token rows and labels are those of `bench.index`. One layer of width 576 has activations, of the first shard alone: what is
timed reads no others.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from starlette.testclient import TestClient

from bench.index import ROWS_PER_SHARD, RUN, TOKENS_PER_SAMPLE, write_labels, write_shard_files
from steercache.api.cache import Cache, open_cache_at
from steercache.cache.catch_up import catch_up
from steercache.cache.documents import (
    DatasetInputs,
    PlannedShard,
    RunDocument,
    RunModel,
    run_id_of,
    write_run_document,
    write_shard_record,
)
from steercache.cache.handle import open_cache
from steercache.core.layout import SiteLayout, StoreLayout
from steercache.core.vectors import SteeringVector
from steercache.explorer.app import create_app
from steercache.store.generation import create_generation
from steercache.store.shard import ShardWriter

WIDTH, LAYER = 576, 15
KEY, ADDRESS = "key", "http://127.0.0.1:8765"
REPEATS = 7
BLOCK = 25_000


def make_cache(root: Path, n_rows: int) -> tuple[Cache, str]:
    """A cache with one run of `n_rows` tokens and a vector; returns it and the run's id."""
    cache = open_cache(root, create=True)
    identity = {"name": "bench", "rows": n_rows}
    run_id = run_id_of(identity)
    paths = cache.run_paths(run_id)
    n_shards = n_rows // ROWS_PER_SHARD
    layout = StoreLayout(
        sites=(SiteLayout(site="resid_post", layers=(LAYER,), width=WIDTH),),
        dtype="float32",
        n_shards=n_shards,
        rows_per_shard=ROWS_PER_SHARD,
        chunk_rows=500,
    )
    planned = [
        PlannedShard(shard_idx=i, first_sample=0, n_samples=0, n_rows=0, n_tokens=0, input_digest="")
        for i in range(n_shards)
    ]
    document = RunDocument(
        run_id=run_id,
        name="bench",
        created_at="2026-01-02T03:04:05+00:00",
        model=RunModel(
            name="bench",
            model_id="bench",
            fingerprint="f" * 64,
            modality="text",
            dtype="float32",
            hidden_size=WIDTH,
            n_layers=30,
        ),
        datasets=(DatasetInputs(dataset="words", inputs_digest=RUN, first_sample=0, n_samples=0),),
        identity=identity,
        numerics={},
        manifest={"name": "bench"},
        layout=layout,
        shards=tuple(planned),
        replayable=False,
    )
    generation = paths.generation("g0001")
    create_generation(generation, layout, attributes={"run_id": run_id})
    paths.current.write_text("g0001\n")
    write_run_document(paths.document, document)
    paths.shards("g0001").mkdir(parents=True)
    for i in range(n_shards):
        record, _, _ = write_shard_files(paths.folder, i)
        write_shard_record(
            paths.shard("g0001", i), replace(record, files=_arrays(generation, layout)) if i == 0 else record
        )
    write_labels(root, n_rows // TOKENS_PER_SAMPLE)
    assert catch_up(cache.paths, wait_s=60) is None
    opened = open_cache_at(root)
    opened.save(_vector(run_id))
    return opened, run_id


def _arrays(generation: Path, layout: StoreLayout) -> Any:
    """The rows of the first shard: noise, written block by block."""
    rng = np.random.default_rng(0)
    writer = ShardWriter(generation, layout, 0, n_rows=ROWS_PER_SHARD)
    for first in range(0, ROWS_PER_SHARD, BLOCK):
        writer.write("resid_post", 0, first, rng.standard_normal((BLOCK, WIDTH), dtype=np.float32))
    zeros = np.zeros(ROWS_PER_SHARD, dtype=np.int32)
    return writer.finish(sample_idx=zeros, position=zeros, token_id=zeros)


def _vector(run_id: str) -> SteeringVector:
    direction = np.random.default_rng(1).standard_normal((1, WIDTH)).astype(np.float32)
    return SteeringVector(
        name="bench",
        method="mean_shift",
        concept="counting",
        site="resid_post",
        layers=(LAYER,),
        values=direction,
        provenance={"run_id": run_id},
    )


def timed(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def measure(folder: Path, n_rows: int) -> Iterator[tuple[str, float, float | None]]:
    """(name, seconds, target in seconds or None): the first request of a fresh server, then medians."""
    cache, run_id = make_cache(folder / "cache", n_rows)
    (vector_id,) = [row[0] for row in cache.sql("SELECT DISTINCT vector_id FROM vectors").fetchall()]

    def site() -> TestClient:
        return TestClient(create_app(open_cache_at(folder / "cache"), token=KEY), base_url=ADDRESS)

    def ask(client: TestClient, path: str) -> Callable[[], None]:
        def work() -> None:
            answer = client.get(f"/{KEY}{path}")
            assert answer.status_code == 200, answer.text

        return work

    with site() as client:
        yield "first page", timed(ask(client, "/")), 1.0
        yield "first page again", statistics.median(timed(ask(client, "/")) for _ in range(REPEATS)), 1.0
        yield "page of the run, first time", timed(ask(client, f"/runs/{run_id}")), None
        sample = f"/runs/{run_id}/samples/{{}}/values?of=vector:{vector_id}&layer={LAYER}"
        yield "one sample at one layer, first time", timed(ask(client, sample.format(0))), None
        numbers = range(1, 9_000, 1_000)
        others = statistics.median(timed(ask(client, sample.format(n))) for n in numbers)
        yield "another sample at one layer", others, 0.1
        again = statistics.median(timed(ask(client, sample.format(1))) for _ in range(REPEATS))
        yield "the same sample again (the slider)", again, 0.1


def run(n_rows: int = 10_000_000) -> list[dict[str, Any]]:
    """Rows for the table of results; the targets are those of 10 million rows, whatever the scale."""
    with tempfile.TemporaryDirectory(prefix="steercache-bench-") as folder:
        measured = list(measure(Path(folder), n_rows))
    return [
        {
            "name": f"explorer: {name}, {n_rows // 1_000_000} M tokens",
            "value_s": value,
            "target_s": target,
            "target": "for information" if target is None else f"< {target:g} s",
            "met": target is None or value < target,
        }
        for name, value, target in measured
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    print(json.dumps(run(parser.parse_args().rows), indent=2))
