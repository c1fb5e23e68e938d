"""One shard of a run as features of an SAE: its file, and the record that will commit it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from steercache.cache.feature_files import Encoding, FeatureShard
from steercache.cache.feature_rows import Entries, FeatureFileWriter
from steercache.cache.paths import EncodingPaths, RunPaths
from steercache.cache.remote import open_rows
from steercache.core.layout import ShardRecord
from steercache.sae.sparse import SparseEncoder, batch_rows
from steercache.sae.tensors import as_float32

if TYPE_CHECKING:
    import torch

STRETCH_BYTES: Final = 32 * 2**20  # of entries held before they are sorted and written: a part of a shard may exceed it


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedLayer:
    """Which rows are encoded, and where their features lie."""

    run: RunPaths
    paths: EncodingPaths
    generation: str
    site: str
    layer: int
    rows_per_shard: int

    @classmethod
    def of(cls, encoding: Encoding, run: RunPaths) -> "EncodedLayer":
        """That of an encoding of a run."""
        return cls(
            run=run,
            paths=encoding.paths,
            generation=encoding.generation,
            site=encoding.document.site,
            layer=encoding.document.layer,
            rows_per_shard=encoding.rows_per_shard,
        )


def encode_shard(
    encoded: EncodedLayer,
    encoder: SparseEncoder,
    source: ShardRecord,
    note: Callable[[int], None] = lambda n_rows: None,
) -> FeatureShard:
    """Write a shard's features, and return their record, which is not written; `note` hears of rows that are done.

    Raises:
        BudgetError: the disk is full. DamagedError: a file of the run contradicts its record.
    """
    shard_idx, n_features, n_non_finite = source.shard_idx, encoder.n_features, 0
    # one shard's file is mapped at a time: what was read does not count as memory in use
    reader = open_rows(encoded.run, encoded.generation, {shard_idx: source}, side_by_side=False)
    with reader:
        rows_nd = reader.shard_layer(encoded.site, reader.layout.site(encoded.site).layer_pos(encoded.layer), shard_idx)
        first_row = shard_idx * encoded.rows_per_shard
        with FeatureFileWriter(encoded.paths.acts(shard_idx), first_row=first_row, n_features=n_features) as writer:
            waiting: list[Entries] = []
            for first, x in batches(rows_nd, n=batch_rows(n_features)):
                finite = np.isfinite(x.numpy()).all(axis=1)
                n_non_finite += int((~finite).sum())
                found = encoder(x, first_slot=first)
                waiting.append(found if finite.all() else _without(found, ~finite, first_slot=first))
                if sum(part.n_bytes for part in waiting) > STRETCH_BYTES:
                    writer.add(waiting)
                    waiting = []
                note(len(x))
            if waiting:
                writer.add(waiting)
            file = writer.finish(below=encoded.paths.folder)
        return FeatureShard(
            shard_idx=shard_idx,
            generation=encoded.generation,
            source_digest=source.digest(),
            lossy=reader.lossy,
            n_rows=source.n_rows,
            n_non_finite=n_non_finite,
            n_entries=writer.n_entries,
            file=file,
        )


def batches(rows_nd: npt.NDArray[Any], *, n: int) -> Iterator[tuple[int, "torch.Tensor"]]:
    """Stretches of stored rows as (first row, float32 tensor of shape (up to n, d))."""
    for first in range(0, len(rows_nd), n):
        yield first, as_float32(rows_nd[first : first + n])


def _without(found: Entries, left_out: npt.NDArray[np.bool_], *, first_slot: int) -> Entries:
    kept = ~left_out[found.slot - first_slot]
    return Entries(slot=found.slot[kept], feature=found.feature[kept], value=found.value[kept])
