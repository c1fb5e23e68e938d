"""Rows in shuffled order, batch by batch: every row of a run once per epoch, wherever it lies on the disk."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

RowIndex = npt.NDArray[np.int64]
Gather = Callable[[RowIndex], npt.NDArray[Any]]
"""Rows by number, (n, d) in the order of the numbers."""

BLOCK_ROWS = 32_768  # gathered at once: 75 MB of float32 at width 576, 470 MB at 3,584


class ShuffledRows:
    """The stream of training rows, of which any part can be had without what comes before it.

    Epoch e is one permutation of all rows, drawn from (seed, e), so that neighbours in a text, in a shard or in time are no
    neighbours in a batch. Beside one block of rows it holds one permutation: 8 bytes per row.
    """

    def __init__(self, rows: RowIndex, *, seed: int, batch_size: int) -> None:
        """`rows` are the numbers of the rows to train on, each once."""
        self.rows = rows
        self.seed = seed
        self.batch_size = batch_size
        self._epoch = -1
        self._permutation: RowIndex = rows[:0]

    def indices(self, start: int, stop: int) -> RowIndex:
        """Row numbers at the places `start` to `stop` of the stream."""
        parts = []
        while start < stop:
            epoch, offset = divmod(start, len(self.rows))
            take = min(stop - start, len(self.rows) - offset)
            parts.append(self._of_epoch(epoch)[offset : offset + take])
            start += take
        return np.concatenate(parts) if parts else self.rows[:0]

    def batches(self, gather: Gather, *, first: int, stop: int) -> Iterator[npt.NDArray[Any]]:
        """Batches `first` to `stop` as (batch_size, d) in the stored dtype; read in blocks, each in the order of the disk."""
        per_block = max(1, BLOCK_ROWS // self.batch_size)
        for start in range(first, stop, per_block):
            end = min(start + per_block, stop)
            wanted = self.indices(start * self.batch_size, end * self.batch_size)
            block_nd = _in_disk_order(gather, wanted)
            for at in range(end - start):
                yield block_nd[at * self.batch_size : (at + 1) * self.batch_size]

    def _of_epoch(self, epoch: int) -> RowIndex:
        if epoch != self._epoch:
            self._permutation = np.random.default_rng([self.seed, epoch]).permutation(self.rows)
            self._epoch = epoch
        return self._permutation


def _in_disk_order(gather: Gather, wanted: RowIndex) -> npt.NDArray[Any]:
    order = np.argsort(wanted, kind="stable")
    found = gather(wanted[order])
    block_nd = np.empty_like(found)
    block_nd[order] = found
    return block_nd
