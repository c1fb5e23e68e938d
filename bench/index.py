"""The index at scale: opening it, a metadata query with filter and group, taking a shard in, against fixed times.

python -m bench.index                      10 million token rows, about a minute
python -m bench.index --rows 100000000     the same at 100 million; some 1.5 GB of disk while it runs
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from steercache.core.layout import FileRecord, ShardRecord
from steercache.index.database import Index
from steercache.index.files import RunFiles, over_files, rebuild
from steercache.index.guard import Limits, run_query
from steercache.index.ingest import ShardFiles, put_run, put_shards
from steercache.index.schemas import ANNOTATIONS, SAMPLES
from steercache.queries.library import load_library
from steercache.runs.tables import ROWS

TOKENS_PER_SAMPLE, ROWS_PER_SHARD, N_WORDS = 25, 250_000, 30_000
RUN = "ab" * 32
CONCEPTS = ("spatial_relationship", "counting", "attribute", "entity")
REPEATS = 5
GROUPED = """
SELECT kind, is_anchor, count(*) AS n, count(row_idx) AS n_rows, avg(position) AS mean_position
FROM tokens
WHERE run_id = $run AND position > 0
GROUP BY ALL
"""
BY_WORD = """
SELECT piece, count(*) AS n FROM tokens WHERE run_id = $run AND is_control GROUP BY piece ORDER BY n DESC, piece LIMIT 20
"""
SIZE = "size of the index in bytes per token row"
ONE_CONCEPT = load_library()["anchor_vs_control"].text


def write_shard_files(folder: Path, shard_idx: int) -> tuple[ShardRecord, Path, Path]:
    """Parquet files of one shard: words by Zipf's law, every sentence's fourth word its anchor."""
    rng = np.random.default_rng(shard_idx)
    n_samples = ROWS_PER_SHARD // TOKENS_PER_SAMPLE
    position = np.tile(np.arange(TOKENS_PER_SAMPLE, dtype=np.int32), n_samples)
    sample_idx = np.repeat(np.arange(n_samples, dtype=np.int32) + shard_idx * n_samples, TOKENS_PER_SAMPLE)
    token_id = (rng.zipf(1.3, ROWS_PER_SHARD) % N_WORDS).astype(np.int32)
    none = np.full(ROWS_PER_SHARD, -1, dtype=np.int16)
    tokens = {
        "sample_idx": sample_idx,
        "position": position,
        "row_idx": np.arange(ROWS_PER_SHARD) + shard_idx * ROWS_PER_SHARD,
        "token_id": token_id,
        "piece": pa.array([f"w{i}" for i in range(N_WORDS)]).take(pa.array(token_id)),
        "char_start": position * 6,
        "char_end": position * 6 + 5,
        "kind": pa.array(["text"] * ROWS_PER_SHARD),
        **dict.fromkeys(("tile", "patch_row", "patch_col", "frame"), none),
        "token_type": pa.nulls(ROWS_PER_SHARD),
    }
    ids = np.arange(n_samples, dtype=np.int32) + shard_idx * n_samples
    same = pa.array(np.zeros(n_samples, dtype=np.int32))
    samples = {
        "sample_idx": ids,
        "ordinal": ids,
        "sample_id": pa.array([f"{i:064x}" for i in ids.tolist()]),
        "dataset": pa.array(["words"] * n_samples),
        "text": pa.array([f"a sentence of many words, number {i}" for i in ids.tolist()]),
        "image_digest": pa.nulls(n_samples, pa.string()),
        **dict.fromkeys(("batch_no", "slot", "padded_len", "n_tokens"), same),
    }
    paths = []
    for name, columns, schema in (("rows", tokens, ROWS), ("samples", samples, SAMPLES)):
        path = folder / name / f"{shard_idx:05d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        given = {name: pa.array(column) for name, column in columns.items()}
        n = len(given["sample_idx"])
        table = pa.table(
            {f.name: given[f.name].cast(f.type) if f.name in given else pa.nulls(n, f.type) for f in schema},
            schema=schema,
        )
        pq.write_table(table, path, compression="zstd")
        paths.append(path)
    files = (FileRecord(path=f"g0001/{shard_idx}", n_bytes=1, crc32c=0),)
    record = ShardRecord(
        shard_idx=shard_idx,
        first_sample=int(ids[0]),
        n_samples=n_samples,
        n_rows=ROWS_PER_SHARD,
        input_digest="",
        files=files,
    )
    return record, paths[0], paths[1]


def write_labels(folder: Path, n_samples: int) -> Path:
    """Labels of every sentence, in one file, as a build writes it."""
    path = folder / "annotations" / "words" / f"{RUN}.parquet"
    path.parent.mkdir(parents=True)
    with pq.ParquetWriter(path, ANNOTATIONS, compression="zstd") as writer:
        for first in range(0, n_samples, 65_536):
            ids = range(first, min(first + 65_536, n_samples))
            columns = {
                "sample_id": [f"{i:064x}" for i in ids],
                "ordinal": list(ids),
                "concept": [CONCEPTS[i % len(CONCEPTS)] for i in ids],
                "anchors": [[{"start": 18, "end": 23}]] * len(ids),
            }
            empty = {f.name: pa.nulls(len(ids), f.type) for f in ANNOTATIONS}
            arrays = empty | {n: pa.array(v, ANNOTATIONS.field(n).type) for n, v in columns.items()}
            writer.write_table(pa.table(arrays, schema=ANNOTATIONS))
    return path


def run_row() -> dict[str, Any]:
    return {"run_id": RUN, "name": "bench", "modality": "text", "complete": True, "generation": "g0001", "sites": []}


def median_s(work: Callable[[], object]) -> float:
    """Median wall time of some repeats after one to warm up."""
    times = []
    for _ in range(REPEATS + 1):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return statistics.median(times[1:])


def ask(index: Index, sql: str, bindings: dict[str, Any]) -> Callable[[], object]:
    """A whole query as a person asks it: open, check, lock down, run, fetch, close."""

    def work() -> object:
        with index.read() as con:
            return run_query(con, sql, bindings, limits=Limits())

    return work


def measure(folder: Path, n_rows: int) -> Iterator[tuple[str, float, float | None]]:
    """(name, seconds, target in seconds or None) at `n_rows` token rows; the index is filled as a rebuild does.

    SIZE alone is in bytes per token row.
    """
    n_shards = n_rows // ROWS_PER_SHARD
    parts = [write_shard_files(folder, i) for i in range(n_shards)]
    labels = write_labels(folder, n_rows // TOKENS_PER_SAMPLE)
    run = RunFiles(
        run=run_row(),
        shards=tuple(p[0] for p in parts),
        tokens=tuple(p[1] for p in parts),
        samples=tuple(p[2] for p in parts),
        annotations=(labels,),
    )
    index = Index(folder / "index.duckdb")
    begun = time.perf_counter()
    rebuild(index.path, [run], [], [])
    yield "rebuild from Parquet files", time.perf_counter() - begun, None

    def open_it() -> None:
        with index.read() as con:
            con.execute("SELECT name FROM runs").fetchall()

    def put(run_id: str) -> None:
        shard = ShardFiles(record=parts[0][0], tokens=parts[0][1], samples=parts[0][2])
        with index.write() as con:
            put_run(con, run_row() | {"run_id": run_id})
            put_shards(con, run_id, [shard], annotations=[labels])

    yield "open, read the list of runs, close", median_s(open_it), 0.5
    yield "filter and group", median_s(ask(index, GROUPED, {"run": RUN})), 0.2
    yield "filter and group by word", median_s(ask(index, BY_WORD, {"run": RUN})), None
    yield "anchor_vs_control of one concept in four", median_s(ask(index, ONE_CONCEPT, selection_of("counting"))), None
    yield f"take in a shard of {ROWS_PER_SHARD:,} tokens again (idempotent)", median_s(lambda: put(RUN)), None
    begun = time.perf_counter()
    con = over_files([run], [], [])
    rows = run_query(con, GROUPED, {"run": RUN}, limits=Limits())
    con.close()
    assert len(rows) == 2
    yield "filter and group over the files, without the index", time.perf_counter() - begun, None
    yield SIZE, index.path.stat().st_size / n_rows, None


def selection_of(concept: str) -> dict[str, Any]:
    return {"run": RUN, "concept": concept, "split": None}


def run(n_rows: int = 10_000_000) -> list[dict[str, Any]]:
    """Rows for the table of results; the targets are those of 10 million rows, whatever the scale."""
    with tempfile.TemporaryDirectory(prefix="steercache-bench-") as folder:
        measured = list(measure(Path(folder), n_rows))
    millions = n_rows // 1_000_000
    return [
        {
            "name": f"{name}, {millions} M token rows",
            "value" if name == SIZE else "value_s": value,
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
