"""Runs written for tests, with the truth beside them in plain arrays."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from steercache.core.layout import CodecName, DType, ShardRecord, SiteLayout, StoreLayout
from steercache.store.generation import create_generation
from steercache.store.reader import GenerationReader, open_generation
from steercache.store.recode import recode_shard
from steercache.store.shard import ShardWriter

DTYPES: tuple[DType, ...] = ("float32", "bfloat16", "float16")
NUMPY: dict[DType, Any] = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
BITS: dict[DType, Any] = {"float32": np.uint32, "bfloat16": np.uint16, "float16": np.uint16}
INFINITE: dict[DType, int] = {"float32": 0x7F800000, "bfloat16": 0x7F80, "float16": 0x7C00}  # exponent of inf and NaN

Truth = Mapping[tuple[str, int], np.ndarray[Any, Any]]  # (site, shard) -> bits of shape (l, n, d)


@dataclass(frozen=True, kw_only=True)
class Written:
    """A generation on disk, its records, and the bits that went in."""

    path: Path
    layout: StoreLayout
    records: tuple[ShardRecord, ...]
    truth: Truth
    columns: Mapping[tuple[str, int], np.ndarray[Any, Any]]

    def open(self) -> GenerationReader:
        return open_generation(self.path, self.records)

    def rows(self, site: str, layer_pos: int, rows: Sequence[int]) -> np.ndarray[Any, Any]:
        """The bits of rows, looked up one by one."""
        per_shard = self.layout.rows_per_shard
        return np.stack([self.truth[site, row // per_shard][layer_pos, row % per_shard] for row in rows])

    def used_rows(self) -> list[int]:
        per_shard = self.layout.rows_per_shard
        return [r.shard_idx * per_shard + slot for r in self.records for slot in range(r.n_rows)]


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder in memory where there is one: hypothesis writes hundreds of small runs, each with its fsyncs."""
    shared_memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared_memory if shared_memory.is_dir() else None) as folder:
        yield Path(folder)


def small_layout(dtype: DType = "bfloat16", *, n_shards: int = 3) -> StoreLayout:
    """Two sites that differ in layers and width."""
    return StoreLayout(
        sites=(
            SiteLayout(site="resid_post", layers=(0, 2, 5), width=6),
            SiteLayout(site="mlp_out", layers=(2,), width=4),
        ),
        dtype=dtype,
        n_shards=n_shards,
        rows_per_shard=12,
        chunk_rows=4,
    )


def wild_bits(rng: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> np.ndarray[Any, Any]:
    """Random bits, a fifth of them infinities, NaNs of every payload, zeros and subnormals."""
    bits = rng.integers(0, np.iinfo(BITS[dtype]).max, size=shape, dtype=BITS[dtype], endpoint=True)
    special = rng.random(shape)
    bits[special < 0.10] |= BITS[dtype](INFINITE[dtype])
    bits[special < 0.05] = INFINITE[dtype]
    bits[special > 0.95] &= BITS[dtype](0x8003)
    return bits


def plain_bits(rng: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> np.ndarray[Any, Any]:
    """Values like activations: most near one, a few massive in one channel."""
    values = rng.standard_normal(shape)
    values[..., 0] *= 5000
    return values.astype(NUMPY[dtype]).view(BITS[dtype])


def write_shard(
    path: Path, layout: StoreLayout, shard_idx: int, truth: Truth, columns: Mapping[str, np.ndarray[Any, Any]]
) -> ShardRecord:
    """One shard, each layer in one block."""
    n_rows = len(columns["position"])
    writer = ShardWriter(path, layout, shard_idx, n_rows=n_rows)
    for site in layout.sites:
        for layer_pos, bits_nd in enumerate(truth[site.site, shard_idx]):
            writer.write(site.site, layer_pos, 0, bits_nd.view(NUMPY[layout.dtype]))
    files = writer.finish(sample_idx=columns["sample_idx"], position=columns["position"], token_id=columns["token_id"])
    return ShardRecord(shard_idx=shard_idx, first_sample=0, n_samples=1, n_rows=n_rows, input_digest="d", files=files)


def write_run(
    root: Path, layout: StoreLayout, n_rows_of: Mapping[int, int], *, seed: int = 0, make_bits: Any = wild_bits
) -> Written:
    """Generation `g0001` below `root` with the shards named in `n_rows_of`."""
    rng = np.random.default_rng(seed)
    path = root / "g0001"
    create_generation(path, layout, attributes={"run_id": "r"})
    truth = {
        (site.site, shard): make_bits(rng, (len(site.layers), n, site.width), layout.dtype)
        for shard, n in n_rows_of.items()
        for site in layout.sites
    }
    columns = {
        (name, shard): rng.integers(0, 2**31 - 1, n, dtype=np.int32)
        for shard, n in n_rows_of.items()
        for name in ("sample_idx", "position", "token_id")
    }
    records = tuple(
        write_shard(path, layout, shard, truth, {name: v for (name, s), v in columns.items() if s == shard})
        for shard in n_rows_of
    )
    return Written(path=path, layout=layout, records=records, truth=truth, columns=columns)


def recode_run(written: Written, codec: CodecName, *, name: str = "g0002") -> tuple[Path, tuple[ShardRecord, ...]]:
    """The same run with another codec."""
    path = written.path.parent / name
    create_generation(path, written.layout, attributes={"run_id": "r"}, codec=codec)
    with written.open() as source:
        recoded = [recode_shard(source, path, written.layout, r.shard_idx, codec=codec) for r in written.records]
        records = tuple(
            ShardRecord(
                shard_idx=r.shard_idx,
                first_sample=0,
                n_samples=1,
                n_rows=r.n_rows,
                input_digest="d",
                files=one.files,
                codec_errors=one.codec_errors,
            )
            for r, one in zip(written.records, recoded, strict=True)
        )
    return path, records
