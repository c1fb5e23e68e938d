"""A hundred million rows: opening costs nothing per shard, gathering touches only the shards asked for."""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from steercache.core.layout import ShardRecord, SiteLayout, StoreLayout
from steercache.store.generation import create_generation
from steercache.store.reader import GenerationReader, open_generation
from steercache.store.shard import ShardWriter
from tests.store.written import NUMPY

SITE = SiteLayout(site="resid_post", layers=(3,), width=576)
COLUMNS = ("sample_idx", "position", "token_id")


class CountedRecords(Mapping[int, ShardRecord]):
    """`n` committed shards whose records are made when they are read, and counted."""

    def __init__(self, n: int, template: ShardRecord) -> None:
        self.n, self.template = n, template
        self.n_read = 0

    def __getitem__(self, shard_idx: int) -> ShardRecord:
        if not 0 <= shard_idx < self.n:
            raise KeyError(shard_idx)
        self.n_read += 1
        files = tuple(replace(f, path=f.path.replace(".0.0.0", f".0.{shard_idx}.0")) for f in self.template.files)
        return replace(self.template, shard_idx=shard_idx, files=files)

    def __contains__(self, shard_idx: object) -> bool:
        return isinstance(shard_idx, int) and 0 <= shard_idx < self.n

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.n))

    def __len__(self) -> int:
        return self.n


def write_first_shard(path: Path, layout: StoreLayout, n_rows: int) -> tuple[ShardRecord, np.ndarray]:
    create_generation(path, layout, attributes={})
    values = np.random.default_rng(0).standard_normal((n_rows, layout.sites[0].width)).astype(NUMPY[layout.dtype])
    writer = ShardWriter(path, layout, 0, n_rows=n_rows)
    writer.write("resid_post", 0, 0, values)
    column = np.zeros(n_rows, dtype=np.int32)
    files = writer.finish(**dict.fromkeys(COLUMNS, column))
    record = ShardRecord(shard_idx=0, first_sample=0, n_samples=1, n_rows=n_rows, input_digest="", files=files)
    return record, values


@pytest.mark.parametrize("n_shards", [13_500, 300_000])  # 103 million rows; 2.3 billion: beyond 32 bits, and no arena
def test_opening_reads_no_record_and_gathering_reads_those_it_needs(root: Path, n_shards: int) -> None:
    layout = StoreLayout(sites=(SITE,), dtype="bfloat16", n_shards=n_shards, rows_per_shard=7680, chunk_rows=256)
    template, values = write_first_shard(root / "g0001", layout, 20)
    last = n_shards - 1
    for number in (1, 6_000, last):
        os.link(root / "g0001/resid_post/c.0.0.0", root / f"g0001/resid_post/c.0.{number}.0")
    records = CountedRecords(n_shards, template)
    start = time.perf_counter()
    reader = open_generation(root / "g0001", records)
    opened_s = time.perf_counter() - start
    assert records.n_read == 0
    assert opened_s < 0.5
    slots = np.array([19, 0, 7, 3])
    rows = np.array([last, 0, 6_000, 1]) * 7680 + slots
    assert rows[0] == layout.n_slots - 7680 + 19
    assert reader.gather("resid_post", 3, rows).tobytes() == values[slots].tobytes()
    assert records.n_read < 40
    views = reader.layer_views("resid_post", 3)
    assert len(views) == n_shards
    assert views[last][0] == last * 7680
    assert views[last][1].tobytes() == values.tobytes()


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (600, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("side_by_side", [True, False])
@pytest.mark.usefixtures("few_descriptors")
def test_more_shards_than_a_process_may_open_files_are_read(root: Path, side_by_side: bool) -> None:
    n_shards = 1500
    layout = StoreLayout(
        sites=(SiteLayout(site="resid_post", layers=(3,), width=4),),
        dtype="float32",
        n_shards=n_shards,
        rows_per_shard=2,
        chunk_rows=2,
    )
    template, values = write_first_shard(root / "g0001", layout, 2)
    for number in range(1, n_shards):
        os.link(root / "g0001/resid_post/c.0.0.0", root / f"g0001/resid_post/c.0.{number}.0")
    reader = GenerationReader(root / "g0001", CountedRecords(n_shards, template), side_by_side=side_by_side)
    rows = np.random.default_rng(1).permutation(2 * n_shards)
    gathered = reader.gather("resid_post", 3, rows)
    read = np.concatenate([rows_nd for _, rows_nd in reader.layer_views("resid_post", 3)])
    assert gathered.tobytes() == values[rows % 2].tobytes()
    assert read.tobytes() == np.tile(values, (n_shards, 1)).tobytes()


WITHIN_LITTLE_ADDRESS_SPACE = """
import resource, sys
from pathlib import Path
import numpy as np
from steercache.core.layout import StoreLayout
from steercache.store.reader import open_generation
from tests.store.test_scale import SITE, write_first_shard

layout = StoreLayout(sites=(SITE,), dtype="bfloat16", n_shards=13_500, rows_per_shard=7680, chunk_rows=256)
record, values = write_first_shard(Path(sys.argv[1]) / "g0001", layout, 20)
resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))
rows = open_generation(Path(sys.argv[1]) / "g0001", [record]).gather("resid_post", 3, np.array([5, 2]))
print(rows.tobytes() == values[[5, 2]].tobytes())
"""


def test_a_limit_on_addresses_slows_the_reader_down_and_does_not_stop_it(root: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", WITHIN_LITTLE_ADDRESS_SPACE, str(root)],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert run.stdout.strip() == "True"
