"""What very large runs cost: bytes by the layout code of steercache, requests, hours and money by `assumptions.toml`.

python -m bench.scale.costs                       the tables, as Markdown
python -m bench.scale.costs --write docs/scale.md put them between that page's marks
"""

import argparse
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steercache.core.layout import DType, SiteLayout, StoreLayout
from steercache.runs.overview import decimal_bytes
from steercache.runs.packing import choose_rows_per_shard
from steercache.runs.plan import bytes_of_shard
from steercache.store.metadata import COORDINATES

ASSUMPTIONS = Path(__file__).with_name("assumptions.toml")
SHARD_MIB, CHUNK_ROWS = 256, 256  # defaults of a trace manifest
# Of a shard, beside its array: coordinates of rows, two tables, the record.
SMALL_FILES = len(COORDINATES) + 3
BEGIN, END = "<!-- costs: begin -->", "<!-- costs: end -->"
MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A model over many samples of one size."""

    name: str
    n_layers: int
    width: int
    n_params: float
    n_samples: int
    n_tokens: int  # of a sample
    rows: Mapping[str, int]  # of a sample, by row policy


JOBS = (
    Job(
        name="1 M images through PaliGemma2-10B (448 px)", n_layers=42, width=3584, n_params=9.7e9,
        n_samples=1_000_000, n_tokens=1084, rows={"all": 1084, "image": 1024, "text": 60, "pooled": 3, "last": 1},
    ),
    Job(
        name="10 B text tokens through an 8B model (Llama-3.1-8B, texts of 1,024 tokens)", n_layers=32, width=4096,
        n_params=8.0e9, n_samples=9_765_625, n_tokens=1024, rows={"all": 1024, "every 16th": 64, "pooled": 2, "last": 1},
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """One choice of layers and rows of a job; sizes in bytes, money in USD."""

    layers: str
    rows: str
    n_rows: int
    n_shards: int
    raw: int
    pcodec: float
    int8: float
    puts: int
    hours: float
    bound: str  # what the hours are bound by
    gpu_usd: float
    put_usd: float
    month_usd: float
    layer_gets: int  # to read one layer of all rows
    layer_bytes: float


def known(path: Path = ASSUMPTIONS) -> dict[str, dict[str, Any]]:
    """The assumptions: value, unit and source by name."""
    return tomllib.loads(path.read_text(encoding="utf-8"))


def costs(job: Job, by: Mapping[str, float]) -> Iterator[Cost]:
    """Every choice of layers and rows."""
    for name, n_layers in layer_choices(job).items():
        for rows, per_sample in job.rows.items():
            yield cost(job, name, n_layers, rows, per_sample, by)


def layer_choices(job: Job) -> dict[str, int]:
    """Names of layer policies, and how many layers each keeps."""
    return {"all": job.n_layers, "every 4th": job.n_layers // 4, "one": 1}


def layout_of(job: Job, n_layers: int, rows: str, per_sample: int) -> tuple[StoreLayout, Sequence[int]]:
    """The layout that a plan comes to, and the rows of each shard."""
    dtype: DType = "float32" if rows == "pooled" else "bfloat16"
    sites = (SiteLayout(site="resid_post", layers=tuple(range(n_layers)), width=job.width),)
    row_bytes = n_layers * job.width * (4 if dtype == "float32" else 2)
    slots = choose_rows_per_shard(
        row_bytes, shard_mib=SHARD_MIB, chunk_rows=CHUNK_ROWS, longest_sample=per_sample, rows_per_sample=per_sample
    )
    each = slots // per_sample  # whole samples of one size
    full, left = divmod(job.n_samples, each)
    of_shards = [each * per_sample] * full + ([left * per_sample] if left else [])
    layout = StoreLayout(sites=sites, dtype=dtype, n_shards=len(of_shards), rows_per_shard=slots, chunk_rows=CHUNK_ROWS)
    return layout, of_shards


def cost(job: Job, layers: str, n_layers: int, rows: str, per_sample: int, by: Mapping[str, float]) -> Cost:
    """One choice."""
    layout, of_shards = layout_of(job, n_layers, rows, per_sample)
    n_shards = len(of_shards)
    metadata = job.n_samples * job.n_tokens * by["metadata_bytes_per_token"]
    raw = (n_shards - 1) * bytes_of_shard(layout, of_shards[0]) + bytes_of_shard(layout, of_shards[-1])
    parts = -(-bytes_of_shard(layout, of_shards[0]) // int(by["part_mib"] * MIB))
    puts = n_shards * (SMALL_FILES + (parts + 2 if parts > 1 else 1))  # a multipart upload begins and ends by a request
    n_tokens = job.n_samples * job.n_tokens
    compute_h = n_tokens * 2 * job.n_params / (by["gpu_tflops"] * 1e12 * by["gpu_utilisation"]) / by["gpus"] / 3600
    write_h = (raw + metadata) / (by["write_mb_per_s"] * 1e6) / by["gpus"] / 3600
    hours = max(compute_h, write_h)  # a shard is written while the next is computed
    layer_bytes = raw / n_layers
    ranges = max(1, -(-int(layer_bytes / n_shards) // int(by["part_mib"] * MIB)))
    return Cost(
        layers=layers,
        rows=rows,
        n_rows=job.n_samples * per_sample,
        n_shards=n_shards,
        raw=raw,
        pcodec=raw * by["pcodec"],
        int8=raw * by["int8"],
        puts=puts,
        hours=hours,
        bound="passes" if compute_h >= write_h else "writing",
        gpu_usd=hours * by["gpus"] * by["gpu_usd_per_hour"],
        put_usd=puts / 1000 * by["usd_per_1000_puts"],
        month_usd=(raw + metadata) / 1e9 * by["usd_per_gb_month"],
        layer_gets=n_shards * (ranges + 1),  # and one for each shard's index
        layer_bytes=layer_bytes,
    )


def tables() -> str:
    """The page's tables, as Markdown."""
    given = known()
    by = {name: float(entry["value"]) for name, entry in given.items()}
    lines = ["| assumption | value | unit | source |", "|---|---|---|---|"]
    lines += [f"| `{name}` | {e['value']} | {e['unit']} | {e['source']} |" for name, e in given.items()]
    for job in JOBS:
        tokens = job.n_samples * job.n_tokens
        lines += [
            "",
            f"**{job.name}**: {tokens / 1e9:.3g} G tokens; metadata "
            f"{decimal_bytes(tokens * by['metadata_bytes_per_token'])} of Parquet in every row below.",
            "",
            "| layers | rows | rows kept | raw | pcodec | int8 | shards | PUTs | hours, bound by | GPUs, USD | PUTs, USD "
            "| raw, USD a month | one layer: bytes, GETs |",
            "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
        ]
        lines += [_line(one) for one in costs(job, by)]
    return "\n".join(lines)


def _line(one: Cost) -> str:
    sizes = " | ".join(decimal_bytes(size) for size in (one.raw, one.pcodec, one.int8))
    return (
        f"| {one.layers} | {one.rows} | {_short(one.n_rows)} | {sizes} | {one.n_shards:,} | {_short(one.puts)} "
        f"| {one.hours:.3g}, {one.bound} | {one.gpu_usd:,.0f} | {one.put_usd:,.2f} | {one.month_usd:,.2f} "
        f"| {decimal_bytes(one.layer_bytes)}, {_short(one.layer_gets)} |"
    )


def _short(number: float) -> str:
    """A count in thousands, millions or billions."""
    for unit, size in ((" G", 1e9), (" M", 1e6), (" k", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


def write_into(page: Path) -> None:
    """Replace what stands between the marks of a page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path)
    asked = parser.parse_args()
    write_into(asked.write) if asked.write else print(tables())
