"""Where things are pushed to and pulled from: one interface, and a folder as its simplest form."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

from steercache.core.errors import DamagedError, NotFoundError, UsageError
from steercache.exchange.hub.contents import PushedFile, sha256_of
from steercache.store.durable import disk_errors, make_folder, write_file_atomically

PIECE: Final = 4 * 2**20
OnBytes = Callable[[int], None]


class ListingChangedError(Exception):
    """Somebody else has written the listing since it was read."""


class Place(Protocol):
    """A folder, a repository of the hub, or a bucket of an object store."""

    name: str
    shown: str  # what the card calls it: of a folder its own name, since its place is this machine's business

    def read(self, path: str, *, most: int) -> bytes | None:
        """A small file; None where there is none. Raises DamagedError when it is larger than `most`."""
        ...

    def pieces(self, path: str, *, first: int) -> Iterator[bytes]:
        """A file's bytes from `first` on. Raises NotFoundError."""
        ...

    def lacks(self, files: Sequence[PushedFile]) -> list[PushedFile]:
        """Those of the files that are not there as they are pushed."""
        ...

    def put(self, files: Sequence[PushedFile], *, on_bytes: OnBytes) -> None:
        """Make files be there, each whole or not at all."""
        ...

    def finish(self, documents: dict[str, bytes]) -> None:
        """Write the small files that describe the place, last.

        Raises ListingChangedError, where the place can tell, if the listing is no longer the one that was read.
        """
        ...


class FolderPlace:
    """A folder: what is pushed into it is a cache that opens."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, str(folder)
        self.shown = f"{folder.absolute().name}/"

    def read(self, path: str, *, most: int) -> bytes | None:
        """As `Place.read`."""
        try:
            with self._inside(path).open("rb") as file:
                data = file.read(most + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if len(data) > most:
            raise DamagedError(f"larger than {most:,} bytes", place=str(self.folder / path))
        return data

    def pieces(self, path: str, *, first: int) -> Iterator[bytes]:
        """As `Place.pieces`."""
        try:
            with disk_errors(self.folder / path, doing="read"), self._inside(path).open("rb") as file:
                file.seek(first)
                while piece := file.read(PIECE):
                    yield piece
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFoundError("listed, and not there", place=str(self.folder / path), hint="push again") from error

    def lacks(self, files: Sequence[PushedFile]) -> list[PushedFile]:
        """As `Place.lacks`; a file of the right size is read."""
        return [file for file in files if not self._has(file)]

    def put(self, files: Sequence[PushedFile], *, on_bytes: OnBytes) -> None:
        """As `Place.put`."""
        for file in files:
            path = self.folder / file.listed.path
            with disk_errors(path):
                make_folder(path.parent)
                if file.data is not None:
                    write_file_atomically(path, file.data)
                else:
                    _copy(file.source, path)
            on_bytes(file.listed.n_bytes)

    def finish(self, documents: dict[str, bytes]) -> None:
        """As `Place.finish`."""
        make_folder(self.folder)
        for name, data in documents.items():
            write_file_atomically(self.folder / name, data)

    def _has(self, file: PushedFile) -> bool:
        path = self.folder / file.listed.path
        try:
            return path.stat().st_size == file.listed.n_bytes and sha256_of(path) == file.listed.sha256
        except (FileNotFoundError, NotADirectoryError):
            return False

    def _inside(self, path: str) -> Path:
        """The file, which no link may lead out of the folder."""
        whole = (self.folder / path).resolve()
        if not whole.is_relative_to(self.folder.resolve()):
            raise DamagedError("a link leads out of the folder", place=str(self.folder / path))
        return whole


def _copy(source: Path, target: Path) -> None:
    part = target.with_name(f".{target.name}.part")
    with source.open("rb") as read, part.open("wb") as write:
        shutil.copyfileobj(read, write, PIECE)
        write.flush()
        os.fsync(write.fileno())
    part.replace(target)


def git_oid(data: bytes) -> str:
    """The id that git gives to a file of these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def refuse_same(folder: Path, root: Path) -> None:
    """Raises UsageError when a place is the cache itself, or lies in it."""
    if folder.resolve().is_relative_to(root.resolve()):
        raise UsageError("that is the cache itself", place=str(folder), hint="another folder")
