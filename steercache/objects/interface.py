"""What every object store can do for us: conditional writes and range reads, and no renames or listings."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

PIECE: Final = 4 * 2**20  # bytes of a piece of a stream


class ObjectChangedError(Exception):
    """An object is not, or no longer, the one that was read."""


class NotChangedError(Exception):
    """An object is still the one that was read before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """Checksums put beside an object: SHA-256 in hexadecimal digits, CRC-32C; None where they are not known."""

    sha256: str | None = None
    crc32c: int | None = None

    def contradicts(self, other: "Sums") -> bool:
        """Whether both know a checksum of one kind, and it differs."""
        pairs = ((self.sha256, other.sha256), (self.crc32c, other.crc32c))
        return any(None not in pair and pair[0] != pair[1] for pair in pairs)

    def confirms(self, other: "Sums") -> bool:
        """Whether both know a checksum of one kind, and all such agree."""
        pairs = ((self.sha256, other.sha256), (self.crc32c, other.crc32c))
        return any(None not in pair for pair in pairs) and not self.contradicts(other)


NO_SUMS: Final = Sums()


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """An object's size in bytes, its tag (another one after every write of other bytes), and checksums put beside it."""

    n_bytes: int
    tag: str
    sums: Sums


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """Bytes of an object, whole or a range (anything with a buffer), and what the object was when they were read."""

    data: Any
    info: ObjectInfo


class ObjectStore(Protocol):
    """Objects by their path below an address.

    What the store or the network says beyond the errors named here comes as UsageError, with nothing secret in it.
    """

    name: str

    def head(self, path: str) -> ObjectInfo | None:
        """What is known of an object; None where there is none."""
        ...

    def get(self, path: str, *, most: int, unless: str | None = None) -> Fetched | None:
        """A whole small object; None where there is none.

        Raises:
            NotChangedError: its tag is `unless`. DamagedError: it is larger than `most` bytes.
        """
        ...

    def get_range(self, path: str, first: int, n_bytes: int, *, tag: str | None = None) -> Fetched:
        """`n_bytes` bytes from `first` on.

        Raises:
            ObjectChangedError: its tag is not `tag`, or it ends before. NotFoundError: there is none.
        """
        ...

    def pieces(self, path: str, *, first: int = 0) -> Iterator[bytes]:
        """An object's bytes from `first` on; a connection that is cut is taken up behind what came. Raises NotFoundError."""
        ...

    def put_new(self, path: str, data: bytes, *, sums: Sums = NO_SUMS) -> str | None:
        """Put an object where there is none; its tag, or None where another one is there.

        One of the same bytes counts as put: the answer to an earlier attempt may have been lost.
        """
        ...

    def swap(self, path: str, data: bytes, *, tag: str | None) -> str:
        """Put an object in the place of the one with this tag (None: where there is none); its new tag.

        One of the same bytes counts as put, as for `put_new`.

        Raises:
            ObjectChangedError: another one is there.
        """
        ...

    def put(self, path: str, data: bytes | Path, *, sums: Sums = NO_SUMS) -> str:
        """Put an object, whatever is there: bytes, or a file's, in parts where they are many; its tag."""
        ...

    def delete(self, path: str) -> None:
        """Remove an object; nothing happens where there is none."""
        ...
