"""How fast the store is beside plain files, RAM, zarr-python and tensorstore: `python -m bench.store` prints JSON.

30 layers of 576 bfloat16 values, three shards of about 256 MiB, warm page cache. Ours and the peer take turns, and a row's
ratio is the median over the turns. Peers get their best form: large sequential writes, an open memory map, a contiguous array
in RAM, stores opened beforehand, ascending rows for zarr.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import tensorstore
import zarr

from bench.turns import take_turns
from steercache.core.layout import ShardRecord, SiteLayout, StoreLayout
from steercache.store.generation import create_generation
from steercache.store.reader import GenerationReader, open_generation
from steercache.store.shard import ShardWriter

N_LAYERS, WIDTH, ROWS_PER_SHARD, CHUNK_ROWS, N_SHARDS = 30, 576, 7680, 256, 3
N_ROWS = ROWS_PER_SHARD * N_SHARDS
N_GATHERED = 2000
IN_BATCHES = [range(slot, slot + 512) for slot in range(0, ROWS_PER_SHARD, 512)]
# What `build` hands to the writer: a batch holds samples of like length, so that slots come out of order.
IN_SAMPLES = [range(32 * i, 32 * i + 32) for i in np.random.default_rng(0).permutation(ROWS_PER_SHARD // 32).tolist()]
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

LAYOUT = StoreLayout(
    sites=(SiteLayout(site="resid_post", layers=tuple(range(N_LAYERS)), width=WIDTH),),
    dtype="bfloat16",
    n_shards=N_SHARDS,
    rows_per_shard=ROWS_PER_SHARD,
    chunk_rows=CHUNK_ROWS,
)


def write_shard(
    path: Path, shard_idx: int, states_lnd: np.ndarray[Any, Any], blocks: Sequence[range] = IN_BATCHES
) -> ShardRecord:
    """One shard through the writer, block after block of all layers."""
    writer = ShardWriter(path, LAYOUT, shard_idx, n_rows=ROWS_PER_SHARD)
    for rows in blocks:
        for layer in range(N_LAYERS):
            writer.write("resid_post", layer, rows.start, states_lnd[layer, rows.start : rows.stop])
    column = np.arange(ROWS_PER_SHARD, dtype=np.int32)
    files = writer.finish(sample_idx=column, position=column, token_id=column)
    return ShardRecord(
        shard_idx=shard_idx, first_sample=0, n_samples=1, n_rows=ROWS_PER_SHARD, input_digest="", files=files
    )


def write_plainly(
    path: Path, shard_idx: int, states_lnd: np.ndarray[Any, Any], blocks: Sequence[range] = (range(ROWS_PER_SHARD),)
) -> None:
    """The same bytes by plain calls, whole layers one after the other unless `blocks` says otherwise; the same fsyncs."""
    column = np.arange(ROWS_PER_SHARD, dtype=np.int32).tobytes()
    parts = [
        ((layer * ROWS_PER_SHARD + rows.start) * WIDTH * 2, states_lnd[layer, rows.start : rows.stop].view(np.uint16))
        for rows in blocks
        for layer in range(N_LAYERS)
    ]
    names: dict[str, Any] = {"data": parts, "a": [(0, column)], "b": [(0, column)], "c": [(0, column)]}
    for name, writes in names.items():
        (path / name).mkdir(parents=True, exist_ok=True)
        fd = os.open(path / name / f"{shard_idx}.tmp", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for offset, data in writes:
            os.pwrite(fd, data, offset)
        os.fsync(fd)
        os.close(fd)
    for name in names:
        os.rename(path / name / f"{shard_idx}.tmp", path / name / str(shard_idx))
    for name in names:
        fd = os.open(path / name, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def bench_writing(root: Path, states_lnd: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
    """Durable writing of whole shards; the same shard again and again, so that disk use stays bounded."""
    create_generation(root / "write", LAYOUT, attributes={})

    def against(name: str, blocks: Sequence[range], peers: Sequence[range]) -> dict[str, Any]:
        return take_turns(
            f"shard writing {name}",
            lambda: write_shard(root / "write", 0, states_lnd, blocks),
            lambda: write_plainly(root / "plain", 0, states_lnd, peers),
            n=15,
            target=">= 0.8",
        )

    return [
        against("in batches of 512 rows against plain sequential writes", IN_BATCHES, [range(ROWS_PER_SHARD)]),
        against("in shuffled samples of 32 rows against plain writes of those", IN_SAMPLES, IN_SAMPLES),
    ]


def bench_gathering(
    path: Path, reader: GenerationReader, states_lsnd: np.ndarray[Any, Any], rng: np.random.Generator
) -> list[dict[str, Any]]:
    """2,000 rows of a layer: against fancy indexing in RAM, zarr-python and tensorstore on the same store."""
    ram = [np.ascontiguousarray(states_lsnd[layer].reshape(N_ROWS, WIDTH)) for layer in range(N_LAYERS)]
    array: Any = zarr.open_group(path, mode="r")["resid_post"]
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path / "resid_post")}}
    stored: Any = tensorstore.open(spec).result()
    draws = [(int(rng.integers(N_LAYERS)), rng.integers(0, N_ROWS, N_GATHERED)) for _ in range(400)]
    ascending = [(layer, np.sort(rows)) for layer, rows in draws]
    for layer, rows in draws[:20]:
        assert reader.gather("resid_post", layer, rows).tobytes() == ram[layer][rows].tobytes()

    def against(
        name: str, peer: Callable[[int, Any], Any], picks: Sequence[Any], n: int, target: str
    ) -> dict[str, Any]:
        ours, theirs = iter(picks), iter(picks)
        return take_turns(
            f"gather of 2,000 rows {name}",
            lambda: reader.gather("resid_post", *next(ours)),
            lambda: peer(*next(theirs)),
            n=n,
            target=target,
        )

    return [
        against("in random order against fancy indexing in RAM", lambda k, r: ram[k][r], draws, 400, "<= 1.5"),
        against("in ascending order against fancy indexing in RAM", lambda k, r: ram[k][r], ascending, 400, "<= 1.5"),
        against("against zarr-python oindex", lambda k, r: array.oindex[k, np.sort(r)], draws, 9, ">= 50"),
        against("against tensorstore", lambda k, r: stored[k, r].read().result(), draws, 21, ">= 1"),
    ]


def bench_layers(root: Path, reader: GenerationReader, states_lsnd: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Copying one whole layer into memory, against a memory map of a flat file of that layer."""
    flat = root / "flat"
    states_lsnd[7].tofile(flat)
    mapped = np.memmap(flat, dtype=np.uint16, mode="r", shape=(N_ROWS, WIDTH))
    out = np.empty((N_ROWS, WIDTH), dtype=np.uint16)

    def read_ours() -> None:
        for first_row, rows_nd in reader.layer_views("resid_post", 7):
            out[first_row : first_row + len(rows_nd)] = rows_nd.view(np.uint16)

    read_ours()
    assert np.array_equal(out, mapped)
    return take_turns(
        "a whole layer against numpy.memmap",
        read_ours,
        lambda: np.copyto(out, mapped),
        n=41,
        target=">= 0.8",
        best_of=5,
    )


def run(folder: Path | None = None) -> list[dict[str, Any]]:
    """Every line, as rows of name, ours_s, peer_s, ratio, target and met; files go below `folder` and are removed."""
    root = Path(tempfile.mkdtemp(prefix="bench-store-", dir=folder))
    rng = np.random.default_rng(0)
    try:
        shape = (N_LAYERS, N_SHARDS, ROWS_PER_SHARD, WIDTH)
        states = rng.integers(0, 2**16, size=shape, dtype=np.uint16).view(BFLOAT16)
        writing = bench_writing(root, np.ascontiguousarray(states[:, 0]))
        path = root / "g0001"
        create_generation(path, LAYOUT, attributes={})
        records = [write_shard(path, s, states[:, s]) for s in range(N_SHARDS)]
        with open_generation(path, records) as reader:
            # Layers first, as a build leaves them: what random gathers bring in from the disk lies in small pages (0.78 x).
            layers = bench_layers(root, reader, states)
            rows = [*bench_gathering(path, reader, states, rng), layers, *writing]
    finally:
        shutil.rmtree(root)
    return rows


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
