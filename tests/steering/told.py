"""Random batches of which every token is known: a `PaddedBatch` with encoded samples made up to fit it."""

from dataclasses import replace

import numpy as np

from steercache.core.examples import TOKEN_KINDS, EncodedSample
from steercache.trace.batches import PaddedBatch
from tests.steering.small import IMAGE_ID, padded_batch

SPECIAL = (0, 1, 2)


def told_batch(family: str, *, side: str = "left", **options: object) -> PaddedBatch:
    """`small.padded_batch`, whose picture is a grid of two columns and whose first token is special."""
    batch = padded_batch(family, side=side, **options)  # type: ignore[arg-type]
    samples = []
    for slot, (start, n) in enumerate(zip(batch.starts, batch.lengths, strict=True)):
        ids = batch.input_ids[slot, start : start + n].numpy().astype(np.int32)
        is_patch = ids == IMAGE_ID
        number = np.where(is_patch, np.cumsum(is_patch) - 1, -2)
        kind = np.where(is_patch, "image", np.where(np.isin(ids, SPECIAL), "special", "text"))
        none = np.full(n, -1, dtype=np.int32)
        samples.append(
            EncodedSample(
                text="",
                input_ids=ids,
                char_start=none,
                char_end=none,
                kind=np.array([TOKEN_KINDS.index(k) for k in kind], dtype=np.int8),
                is_anchor=np.zeros(n, dtype=bool),
                is_control=np.zeros(n, dtype=bool),
                tile=np.where(is_patch, 0, -1).astype(np.int32),
                patch_row=(number // 2).astype(np.int32),
                patch_col=np.where(is_patch, number % 2, -1).astype(np.int32),
                extra={k: v[slot, start : start + n].numpy().astype(np.int32) for k, v in batch.extra.items()},
                image_digests=batch.image_digests[slot] if batch.image_digests else (),
            )
        )
    return replace(batch, samples=tuple(samples))
