"""`file://`: a folder that does what an object store does, as the reference for the others."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from steercache.core.errors import DamagedError, NotFoundError
from steercache.objects.addresses import StoreAddress
from steercache.objects.interface import NO_SUMS, PIECE, Fetched, NotChangedError, ObjectChangedError, ObjectInfo, Sums
from steercache.store import durable

_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class FolderStore:
    """Files below a folder; a tag is a file's inode, size and time of writing. Checksums are not kept beside files."""

    def __init__(self, address: StoreAddress) -> None:
        self.name = address.text
        self._folder = address.folder

    def head(self, path: str) -> ObjectInfo | None:
        """As `ObjectStore.head`."""
        try:
            with self._opened(path) as fd:
                return _info(fd)
        except NotFoundError:
            return None

    def get(self, path: str, *, most: int, unless: str | None = None) -> Fetched | None:
        """As `ObjectStore.get`."""
        try:
            with self._opened(path) as fd:
                info = _info(fd)
                if info.tag == unless:
                    raise NotChangedError(path)
                if info.n_bytes > most:
                    raise DamagedError(f"larger than {most:,} bytes", place=str(self._folder / path))
                return Fetched(data=os.pread(fd, info.n_bytes, 0), info=info)
        except NotFoundError:
            return None

    def get_range(self, path: str, first: int, n_bytes: int, *, tag: str | None = None) -> Fetched:
        """As `ObjectStore.get_range`."""
        with self._opened(path) as fd:
            info = _info(fd)
            data = os.pread(fd, n_bytes, first)
        if len(data) != n_bytes or (tag is not None and info.tag != tag):
            raise ObjectChangedError(path)
        return Fetched(data=data, info=info)

    def pieces(self, path: str, *, first: int = 0) -> Iterator[bytes]:
        """As `ObjectStore.pieces`."""
        with self._opened(path) as fd:
            while piece := os.pread(fd, PIECE, first):
                first += len(piece)
                yield piece

    def put_new(self, path: str, data: bytes, *, sums: Sums = NO_SUMS) -> str | None:
        """As `ObjectStore.put_new`: a hard link is made only where there is no such name."""
        target = self._inside(path)
        with durable.disk_errors(target):
            durable.make_folder(target.parent)
            temporary = durable.write_temporary(target, data)
            try:
                os.link(temporary, target)
                durable.fsync_folder(target.parent)
            except FileExistsError:
                return self._tag_of(path, data)
            finally:
                durable.remove(temporary)
        return self._tag_of(path, data)

    def swap(self, path: str, data: bytes, *, tag: str | None) -> str:
        """As `ObjectStore.swap`, under a lock of the folder that the file is in."""
        target = self._inside(path)
        with durable.disk_errors(target):
            durable.make_folder(target.parent)
            with _locked(target.parent):
                found = self.head(path)
                if (None if found is None else found.tag) != tag:
                    ours = self._tag_of(path, data)
                    if ours is None:
                        raise ObjectChangedError(path)
                    return ours
                durable.write_file_atomically(target, data)
                return self._there(path).tag

    def put(self, path: str, data: bytes | Path, *, sums: Sums = NO_SUMS) -> str:
        """As `ObjectStore.put`."""
        target = self._inside(path)
        with durable.disk_errors(target):
            durable.make_folder(target.parent)
            if isinstance(data, Path):
                _copy(data, target)
            else:
                durable.write_file_atomically(target, data)
        return self._there(path).tag

    def delete(self, path: str) -> None:
        """As `ObjectStore.delete`."""
        target = self._inside(path)
        with durable.disk_errors(target):
            target.unlink(missing_ok=True)

    def _there(self, path: str) -> ObjectInfo:
        with self._opened(path) as fd:
            return _info(fd)

    def _tag_of(self, path: str, data: bytes) -> str | None:
        try:
            with self._opened(path) as fd:
                info = _info(fd)
                return info.tag if os.pread(fd, len(data) + 1, 0) == data else None
        except NotFoundError:
            return None

    @contextmanager
    def _opened(self, path: str) -> Iterator[int]:
        target = self._inside(path)
        try:
            with durable.disk_errors(target, doing="read"):
                fd = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
        except _ABSENT as error:
            raise NotFoundError("not there", place=str(target), hint="push again") from error
        try:
            with durable.disk_errors(target, doing="read"):
                yield fd
        except IsADirectoryError as error:
            raise NotFoundError("not there", place=str(target), hint="push again") from error
        finally:
            os.close(fd)

    def _inside(self, path: str) -> Path:
        """The file, which no link may lead out of the folder."""
        try:
            whole = (self._folder / path).resolve()
        except (OSError, RuntimeError) as error:  # Python 3.11 and 3.12 raise RuntimeError at links in a circle
            raise DamagedError("links lead in a circle", place=str(self._folder / path)) from error
        if not whole.is_relative_to(self._folder.resolve()):
            raise DamagedError("a link leads out of the folder", place=str(self._folder / path))
        return whole


def _info(fd: int) -> ObjectInfo:
    found = os.fstat(fd)
    return ObjectInfo(
        n_bytes=found.st_size, tag=f"{found.st_ino:x}-{found.st_size:x}-{found.st_mtime_ns:x}", sums=Sums()
    )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _copy(source: Path, target: Path) -> None:
    temporary, fd = durable.create_temporary(target)
    try:
        at = 0
        with source.open("rb") as read:
            while piece := read.read(PIECE):
                durable.pwrite(fd, piece, at)
                at += len(piece)
        durable.fsync(fd)
    finally:
        durable.close(fd)
    durable.rename(temporary, target)
    durable.fsync_folder(target.parent)
