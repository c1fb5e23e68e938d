"""Samples into shards: a fixed number of row slots each, filled with whole samples in data-set order."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from steercache.cache.documents import PlannedShard
from steercache.core.ids import digest_bytes

MIB = 2**20
MOST_SAMPLES: Final = 8192  # a shard's samples are encoded at once, some 5 KiB each
Counts = npt.NDArray[np.int64]


def choose_rows_per_shard(
    row_bytes: int, *, shard_mib: int, chunk_rows: int, longest_sample: int, rows_per_sample: float = math.inf
) -> int:
    """Row slots so that a shard has about `shard_mib` and `MOST_SAMPLES` at most, at least the longest sample, a multiple of
    `chunk_rows`. `rows_per_sample` is what samples keep on average.

    >>> choose_rows_per_shard(1024, shard_mib=1, chunk_rows=256, longest_sample=10)
    1024
    >>> choose_rows_per_shard(1024, shard_mib=1, chunk_rows=256, longest_sample=1025)
    1280
    >>> choose_rows_per_shard(1024, shard_mib=256, chunk_rows=256, longest_sample=1, rows_per_sample=1)
    8192
    """
    by_bytes = shard_mib * MIB // row_bytes
    wanted = max(int(min(by_bytes, MOST_SAMPLES * rows_per_sample)) // chunk_rows, 1) * chunk_rows
    needed = -(-longest_sample // chunk_rows) * chunk_rows
    return max(wanted, needed)


def pack_shards(
    rows: Counts, tokens: Counts, sample_ids: Sequence[str], *, rows_per_shard: int
) -> tuple[PlannedShard, ...]:
    """Cut samples of `rows` kept rows and `tokens` tokens, shape (samples,) each, into shards."""
    return cut_shards(first_samples(rows, rows_per_shard=rows_per_shard), rows, tokens, sample_ids)


def first_samples(rows: Counts, *, rows_per_shard: int) -> list[int]:
    """The samples that shards begin at: each shard holds as many whole samples as it has slots for."""
    firsts: list[int] = []
    first = 0
    ends = np.cumsum(rows)
    while first < len(rows):
        firsts.append(first)
        before = int(ends[first - 1]) if first else 0
        first = max(int(np.searchsorted(ends, before + rows_per_shard, side="right")), first + 1)
    return firsts


def cut_shards(
    firsts: Sequence[int], rows: Counts, tokens: Counts, sample_ids: Sequence[str]
) -> tuple[PlannedShard, ...]:
    """Shards that begin at samples `firsts`; `rows` are the rows that each sample keeps itself."""
    ends = [*firsts[1:], len(rows)]
    return tuple(
        PlannedShard(
            shard_idx=shard_idx,
            first_sample=first,
            n_samples=end - first,
            n_rows=int(rows[first:end].sum()),
            n_tokens=int(tokens[first:end].sum()),
            input_digest=digest_of_inputs(sample_ids[first:end]),
        )
        for shard_idx, (first, end) in enumerate(zip(firsts, ends, strict=True))
    )


def digest_of_inputs(sample_ids: Sequence[str]) -> str:
    """Hash over the ids of consecutive samples."""
    return digest_bytes(*(sample_id.encode() for sample_id in sample_ids))
