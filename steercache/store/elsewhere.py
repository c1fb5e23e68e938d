"""Files of a generation that lie elsewhere: blocks of them are brought here when they are needed, and mapped like local files.

A file is cut into blocks of `block_bytes`, and those into segments, the pieces that are mapped. Whoever brings blocks says when
they are there; until then the addresses read as zeros, or are not readable.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from steercache.core.layout import FileRecord

BLOCK_BYTES: Final = 16 * 1024
SEGMENT_BYTES: Final = 16 * 2**20  # a whole number of blocks and of pages

Blocks = npt.NDArray[np.int64]
PlaceSegment = Callable[[int, int], None]  # (segment, open file): map it where the segment belongs


class SegmentReplacedError(Exception):
    """A segment is already mapped from another file than the one that is there now: begin with new maps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedBlocks:
    """Blocks of one committed file, ascending, each once.

    `chunk_bytes` is the length of its chunks where they lie end to end, of a file without compression: those that are read
    whole are compared with the checksums of the record. 0: not so.
    """

    record: FileRecord
    blocks: Blocks
    place: PlaceSegment
    chunk_bytes: int = 0


class Elsewhere(Protocol):
    """Brings blocks of a run's files; safe to use from several threads."""

    @property
    def most_bytes(self) -> int:
        """To ask for at once, so that the local copies stay within their limit."""
        ...

    def epoch(self) -> int:
        """A number that changes when blocks brought before are to be asked for again: copies were removed, or some time has
        passed, and files may have been replaced."""
        ...

    def bring(self, wanted: Sequence[WantedBlocks]) -> None:
        """Return when every block is here, right, and mapped by `place`.

        Raises:
            DamagedError: a file is not the one that was committed. NotFoundError: it is gone. SegmentReplacedError: by `place`.
        """
        ...

    def touch(self, record: FileRecord, segments: Sequence[int]) -> None:
        """Note that segments were read again, so that they are kept longer."""
        ...
