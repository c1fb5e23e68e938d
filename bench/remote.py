"""Rows that lie in a bucket, beside obstore alone and beside local files: `python -m bench.remote` prints JSON.

moto's S3 on loopback behind a proxy of ours that holds every request back for 50 ms. 30 layers of 576 bfloat16 values, three
shards of 2,560 rows. A layer is read with nothing kept here; obstore reads the same bytes in pieces of the same size, all at
once, by threads and by an event loop. Gathers take 2,000 random rows of a layer whose blocks are kept, against local files.
"""

import asyncio
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import obstore
from obstore.store import S3Store

from bench.turns import Row, take_turns
from steercache.core.layout import ShardRecord, SiteLayout, StoreLayout
from steercache.objects.blocks import REQUEST_BYTES, REQUESTS_AT_ONCE, BlockReader
from steercache.objects.limit import BlockLimit
from steercache.objects.opening import open_store
from steercache.objects.segments import Segments
from steercache.store.dtypes import numpy_dtype
from steercache.store.generation import create_generation
from steercache.store.geometry import shard_geometry
from steercache.store.reader import GenerationReader
from steercache.store.shard import ShardWriter
from tests.exchange.stores import BUCKET, environment, moto, proxy

N_LAYERS, WIDTH, ROWS_PER_SHARD, CHUNK_ROWS, N_SHARDS = 30, 576, 2560, 256, 3
N_ROWS, N_GATHERED = ROWS_PER_SHARD * N_SHARDS, 2000
LATENCY_S = 0.05
TURNS = 7
LIMIT_BYTES = 4 * 2**30
LAYOUT = StoreLayout(
    sites=(SiteLayout(site="resid_post", layers=tuple(range(N_LAYERS)), width=WIDTH),),
    dtype="bfloat16",
    n_shards=N_SHARDS,
    rows_per_shard=ROWS_PER_SHARD,
    chunk_rows=CHUNK_ROWS,
)
Records = dict[int, ShardRecord]


def write_run(path: Path) -> Records:
    """A generation of random values."""
    create_generation(path, LAYOUT, attributes={"run_id": "r"})
    rng, records = np.random.default_rng(0), {}
    for shard_idx in range(N_SHARDS):
        writer = ShardWriter(path, LAYOUT, shard_idx, n_rows=ROWS_PER_SHARD)
        for layer in range(N_LAYERS):
            values = rng.standard_normal((ROWS_PER_SHARD, WIDTH), dtype=np.float32)
            writer.write("resid_post", layer, 0, values.astype(numpy_dtype("bfloat16")))
        column = np.arange(ROWS_PER_SHARD, dtype=np.int32)
        files = writer.finish(sample_idx=column, position=column, token_id=column)
        records[shard_idx] = ShardRecord(
            shard_idx=shard_idx, first_sample=0, n_samples=1, n_rows=ROWS_PER_SHARD, input_digest="", files=files
        )
    return records


@contextmanager
def bucket() -> Iterator[str]:
    """An address on loopback; the requests of this process go through the proxy."""
    with moto() as port, proxy(port) as (proxied, faults):
        before = dict(os.environ)
        os.environ.update(environment(proxied))
        faults.latency_s, faults.choose = LATENCY_S, lambda: "latency"
        try:
            yield f"s3://{BUCKET}/bench"
        finally:
            os.environ.clear()
            os.environ.update(before)


def remote_reader(address: str, local: Path, records: Records) -> GenerationReader:
    """A reader as a new process has one, with what `local` keeps."""
    segments = Segments(local / "blocks")
    segments.folder.mkdir(parents=True, exist_ok=True)
    elsewhere = BlockReader(open_store(address), "r", segments, BlockLimit(segments, LIMIT_BYTES))
    return GenerationReader(local / "g0001", records, elsewhere=elsewhere)


def layer_by_obstore(store: S3Store, records: Records, layer: int, pool: ThreadPoolExecutor | None) -> bytes:
    """The bytes of a layer in row order, by requests of the same size, all at once: by threads, or by an event loop."""
    geometry = shard_geometry(LAYOUT, LAYOUT.sites[0], ROWS_PER_SHARD)
    n_bytes = ROWS_PER_SHARD * geometry.row_bytes
    first = layer * geometry.layer_bytes
    pieces = [
        (f"bench/r/{record.files[0].path}", at, min(at + REQUEST_BYTES, first + n_bytes))
        for record in records.values()
        for at in range(first, first + n_bytes, REQUEST_BYTES)
    ]

    if pool is not None:
        found = list(pool.map(lambda piece: obstore.get_range(store, piece[0], start=piece[1], end=piece[2]), pieces))
        return b"".join(bytes(piece) for piece in found)

    async def read() -> list[Any]:
        return await asyncio.gather(
            *(obstore.get_range_async(store, path, start=start, end=end) for path, start, end in pieces)
        )

    return b"".join(bytes(piece) for piece in asyncio.run(read()))


def run() -> Iterator[Row]:
    """The rows of the report."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_FOLDER")) as name, bucket() as address:
        root = Path(name)
        records = write_run(root / "g0001")
        store = open_store(address)
        for record in records.values():
            for file in record.files:
                store.put(f"r/{file.path}", root / file.path)
        (root / "local" / "g0001").mkdir(parents=True)
        shutil.copy(root / "g0001" / "zarr.json", root / "local" / "g0001")
        yield from _rows(root, address, records)


def _rows(root: Path, address: str, records: Records) -> Iterator[Row]:
    plain = S3Store(BUCKET, client_options={"allow_http": True})
    with GenerationReader(root / "g0001", records) as local:
        everything = np.arange(N_ROWS)

        def read_layer(layer: int = 12) -> bytes:
            shutil.rmtree(root / "local" / "blocks", ignore_errors=True)
            reader = remote_reader(address, root / "local", records)
            return reader.gather("resid_post", layer, everything).tobytes()

        expected = local.gather("resid_post", 12, everything).tobytes()
        assert read_layer() == expected
        pool = ThreadPoolExecutor(REQUESTS_AT_ONCE)
        for way, threads in (("by threads", pool), ("by an event loop", None)):
            assert layer_by_obstore(plain, records, 12, threads) == expected
            name = f"read one layer of a remote run, nothing kept, against the same bytes through obstore alone, {way}"
            peer = partial(layer_by_obstore, plain, records, 12, threads)
            yield take_turns(name, read_layer, peer, n=TURNS, target=">= 0.8")
        pool.shutdown()

        rng = np.random.default_rng(1)
        draws = [rng.integers(0, N_ROWS, N_GATHERED) for _ in range(50)]
        warm = remote_reader(address, root / "local", records)
        for rows in draws:
            assert warm.gather("resid_post", 12, rows).tobytes() == local.gather("resid_post", 12, rows).tobytes()
        name = "gather of 2,000 random rows remote, blocks kept here, against local files"
        yield take_turns(
            name,
            lambda: [warm.gather("resid_post", 12, rows) for rows in draws],
            lambda: [local.gather("resid_post", 12, rows) for rows in draws],
            n=15,
            best_of=3,
            target="<= 2",
        )


if __name__ == "__main__":
    json.dump(list(run()), sys.stdout, indent=2)
