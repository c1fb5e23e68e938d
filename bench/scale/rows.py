"""Metadata of 10 billion token rows: partitioned Parquet read by DuckDB, at sizes that fit here, and the line through them.

The tables are those that a build writes (`rows/` and `samples/` of a run), in folders by run. Ten million rows are made; larger
sizes name the same files again, so that they lie in memory: the times are those of DuckDB, not of a disk.

python -m bench.scale.rows --millions 10 30 100
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from bench.index import ROWS_PER_SHARD, write_shard_files

WANTED = 10_000_000_000
MILLION = 1_000_000
PER_RUN = 10  # files in one partition
N_THREADS = 2
QUERIES = {
    "count and group over all rows": (
        "SELECT kind, count(*) AS n, count(row_idx) AS n_rows, avg(position) AS mean FROM rows WHERE position > 0 GROUP BY ALL"
    ),
    "one word in all rows": "SELECT count(*), min(row_idx), max(row_idx) FROM rows WHERE token_id = 29999",
    "count and group in one partition": (
        "SELECT kind, count(*) AS n, avg(position) AS mean FROM rows WHERE run = 0 AND position > 0 GROUP BY ALL"
    ),
}


def make_rows(folder: Path, n_files: int) -> tuple[list[Path], int]:
    """Parquet files of `n_files` shards and their bytes, samples included."""
    parts = [write_shard_files(folder, i)[1:] for i in range(n_files)]
    return [tokens for tokens, _ in parts], sum(path.stat().st_size for pair in parts for path in pair)


def partitioned(folder: Path, made: Sequence[Path], n_files: int) -> Path:
    """A folder of so many files below `run=<n>/`, other names of those that were made."""
    for i in range(n_files):
        path = folder / f"run={i // PER_RUN}" / f"{i:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(made[i % len(made)], path)
    return folder


def ask_all(folder: Path) -> dict[str, float]:
    """Seconds of each query, the better of two."""
    found = {}
    with duckdb.connect(":memory:", config={"threads": N_THREADS}) as con:
        con.execute(f"CREATE VIEW rows AS FROM read_parquet('{folder}/run=*/*.parquet', hive_partitioning = true)")
        for name, sql in QUERIES.items():
            times = []
            for _ in range(2):
                begun = time.perf_counter()
                con.execute(sql).fetchall()
                times.append(time.perf_counter() - begun)
            found[name] = min(times)
    return found


def measure(millions: Sequence[int]) -> dict[str, Any]:
    """Bytes per row, seconds by query and millions of rows, and what the line through them says of `WANTED` rows."""
    with tempfile.TemporaryDirectory(prefix="bench-rows-") as work:
        made, n_bytes = make_rows(Path(work) / "made", max(1, min(millions) * MILLION // ROWS_PER_SHARD))
        per_row = n_bytes / (len(made) * ROWS_PER_SHARD)
        seconds: dict[str, dict[int, float]] = {name: {} for name in QUERIES}
        for n in millions:
            folder = partitioned(Path(work) / f"at{n}", made, n * MILLION // ROWS_PER_SHARD)
            for name, took in ask_all(folder).items():
                seconds[name][n] = took
    return {
        "bytes_per_row": per_row,
        "seconds": seconds,
        "at_10_g": {name: extrapolated(by_size) for name, by_size in seconds.items()},
    }


def extrapolated(seconds: dict[int, float]) -> float:
    """Seconds at `WANTED` rows by the least-squares line through the measured sizes, in seconds by millions of rows."""
    slope, offset = np.polyfit(list(seconds), list(seconds.values()), 1)
    return float(offset + slope * WANTED / MILLION)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--millions", type=int, nargs="+", default=[10, 30, 100])
    print(json.dumps(measure(parser.parse_args().millions), indent=2))
