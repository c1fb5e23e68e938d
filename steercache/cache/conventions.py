"""How the prompts of a run begin: with a beginning-of-sequence token, inside a chat template."""

from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from steercache.core.vector_use import ChatConvention

N_TOKENS: Final = 4096  # of the first shard: the convention is one of the data set, not of a sample
_COLUMNS: Final = ("sample_idx", "position", "kind")
Conventions = tuple[bool | None, ChatConvention | None]


def conventions_in(path: Path) -> Conventions:
    """Whether the samples in a shard's table of tokens begin with a special token (pictures left aside), and whether a chat
    template is around them; None for each where samples differ, or the table cannot be read. The first samples are looked at.
    """
    try:
        with pq.ParquetFile(path) as file:
            first = next(file.iter_batches(batch_size=N_TOKENS, columns=list(_COLUMNS)), None)
            whole = first is not None and first.num_rows == file.metadata.num_rows
    except (OSError, pa.ArrowException):
        return None, None
    if first is None or first.num_rows == 0 or not set(_COLUMNS) <= set(first.schema.names):
        return None, None
    sample = first.column("sample_idx").to_numpy()
    position = first.column("position").to_numpy().astype(np.int64)
    kind = first.column("kind")
    last = None if whole or sample[0] == sample[-1] else sample[-1]  # perhaps cut
    looked_at = (position >= 0) & (True if last is None else sample != last)
    ids, of = np.unique(sample[looked_at], return_inverse=True)
    if not len(ids):
        return None, None

    def first_of(*kinds: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        hit = pc.is_in(kind, value_set=pa.array(kinds)).to_numpy(zero_copy_only=False)[looked_at]
        found = np.full(len(ids), np.iinfo(np.int64).max)
        np.minimum.at(found, of[hit], position[looked_at][hit])
        return found

    begun = first_of("special") < first_of("text", "template")
    templated = first_of("template") < np.iinfo(np.int64).max
    chat: ChatConvention | None = None
    if (templated == templated[0]).all():
        chat = "template" if templated[0] else "none"
    return (bool(begun[0]) if (begun == begun[0]).all() else None), chat
