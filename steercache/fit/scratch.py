"""Arrays that may be larger than memory: in RAM up to a budget, in a temporary memory map beyond it."""

from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryFile

import numpy as np
import numpy.typing as npt

DoubleArray = npt.NDArray[np.float64]
_MIB = 1 << 20


@contextmanager
def scratch(shape: tuple[int, ...], *, memory_mib: int) -> Iterator[DoubleArray]:
    """An uninitialised float64 array of `shape`, on disk (in TMPDIR, already unlinked) when it is larger than the budget."""
    n_bytes = 8 * int(np.prod(shape))
    if n_bytes <= memory_mib * _MIB:
        yield np.empty(shape)
        return
    with TemporaryFile(prefix="steercache-fit-") as file:
        file.truncate(n_bytes)
        mapped = np.memmap(file, np.float64, mode="r+", shape=shape)
        yield mapped
        del mapped
