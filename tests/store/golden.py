"""The golden store's contents, by formula, and how it was written: `python -m tests.store.golden FOLDER`."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from steercache.core.layout import CodecName, ShardRecord, SiteLayout, StoreLayout
from steercache.store.documents import shard_record_to_json
from steercache.store.generation import create_generation
from steercache.store.reader import open_generation
from steercache.store.recode import recode_shard
from steercache.store.shard import ShardWriter
from tests.store.written import NUMPY

V1 = Path(__file__).parent / "golden" / "v1"
CODECS: dict[str, CodecName] = {"g0001": "raw", "g0002": "blosc"}
N_ROWS = {0: 4, 2: 3}  # shard 1 is not there; shard 2 has an unused row
LAYOUT = StoreLayout(
    sites=(
        SiteLayout(site="resid_post", layers=(0, 2), width=4),
        SiteLayout(site="mlp_out", layers=(2,), width=3),
    ),
    dtype="bfloat16",
    n_shards=3,
    rows_per_shard=4,
    chunk_rows=2,
)
SPECIAL = (
    0x7F80,
    0xFF80,
    0x7FC1,
    0x8000,
    0x46D2,
    0x0001,
)  # inf, -inf, a NaN's payload, -0, 26,880, the smallest subnormal


def bits_of(site: str, layer_pos: int, row: int) -> np.ndarray[Any, Any]:
    """The bits of one row, shape (d,): a multiplicative hash of where it is, with a special value in every third place."""
    width = LAYOUT.site(site).width
    places = np.arange(width, dtype=np.uint64) + np.uint64(1000 * row + 100 * layer_pos + 10 * len(site))
    bits = (places * np.uint64(2_654_435_761) >> np.uint64(9)).astype(np.uint16)
    bits[row % width] = SPECIAL[(row + layer_pos) % len(SPECIAL)]
    return bits


def columns_of(shard_idx: int) -> dict[str, np.ndarray[Any, Any]]:
    """Coordinates of the rows of a shard."""
    slots = np.arange(N_ROWS[shard_idx], dtype=np.int32)
    return {"sample_idx": slots // 2 + 10 * shard_idx, "position": slots % 2, "token_id": slots * 7919 + shard_idx}


def write_golden(folder: Path) -> None:
    """Write both generations and their records."""
    create_generation(folder / "g0001", LAYOUT, attributes={"run_id": "golden"})
    records = [_write_shard(folder / "g0001", shard_idx) for shard_idx in N_ROWS]
    _keep_records(folder, "g0001", records)
    create_generation(folder / "g0002", LAYOUT, attributes={"run_id": "golden"}, codec="blosc")
    with open_generation(folder / "g0001", records) as source:
        recoded = [_recode(source, folder / "g0002", record) for record in records]
    _keep_records(folder, "g0002", recoded)


def _write_shard(path: Path, shard_idx: int) -> ShardRecord:
    n_rows = N_ROWS[shard_idx]
    writer = ShardWriter(path, LAYOUT, shard_idx, n_rows=n_rows)
    for site in LAYOUT.sites:
        for layer_pos in range(len(site.layers)):
            first = shard_idx * LAYOUT.rows_per_shard
            rows_nd = np.stack([bits_of(site.site, layer_pos, first + slot) for slot in range(n_rows)])
            writer.write(site.site, layer_pos, 0, rows_nd.view(NUMPY["bfloat16"]))
    return _record(shard_idx, writer.finish(**columns_of(shard_idx)))


def _recode(source: Any, path: Path, record: ShardRecord) -> ShardRecord:
    return _record(record.shard_idx, recode_shard(source, path, LAYOUT, record.shard_idx, codec="blosc").files)


def _record(shard_idx: int, files: Any) -> ShardRecord:
    return ShardRecord(
        shard_idx=shard_idx,
        first_sample=0,
        n_samples=2,
        n_rows=N_ROWS[shard_idx],
        input_digest="golden",
        files=files,
    )


def _keep_records(folder: Path, generation: str, records: list[ShardRecord]) -> None:
    document = [shard_record_to_json(record) for record in records]
    (folder / f"{generation}.records.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    write_golden(Path(sys.argv[1]))
