"""The one door to the disk for everything that must survive a crash.

Every create, write, fsync and rename of a commit goes through here, so that a test can record them and rebuild each state
that a power loss could leave (`store/replay.py`). A file under construction is named `<final>.tmp-<host>-<random>` and locked
by its writer: readers never look at it, and one without a lock was left by a writer that died; the next writer of the same
file removes it, or `gc`.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from steercache.core.errors import BudgetError, DamagedError, UsageError
from steercache.core.unfinished import create_unfinished, release, take_abandoned

OperationKind = Literal["make_folder", "create", "reserve", "write", "fsync", "rename", "fsync_folder", "remove"]

_BLOCK = 4096  # of memory and disk: what direct writes are multiples of
_DIRECT_BYTES = 16 * 2**20  # handed to the disk at once
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_REFUSED = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One thing done to the disk. `target` is a rename's new name; `data` what was written at `offset`."""

    kind: OperationKind
    path: Path
    target: Path | None = None
    offset: int = 0
    data: bytes = b""


_recorded: list[Operation] | None = None
_path_of_fd: dict[int, Path] = {}
_settled: dict[
    Path, tuple[int, int]
] = {}  # folders whose own names this process saw safe on the disk, with device and inode


@contextmanager
def record_operations() -> Iterator[list[Operation]]:
    """Collect every operation of this process, in order, while the block runs; the operations are carried out as usual."""
    global _recorded
    before, _recorded = _recorded, []
    _settled.clear()  # what is recorded is what a new process does
    try:
        yield _recorded
    finally:
        _recorded = before


def _note(kind: OperationKind, path: Path, *, target: Path | None = None, offset: int = 0, data: Any = b"") -> None:
    if _recorded is not None:
        _recorded.append(Operation(kind=kind, path=path, target=target, offset=offset, data=bytes(data)))


@contextmanager
def disk_errors(path: Path, *, doing: str = "write") -> Iterator[None]:
    """Turn what the operating system says about `path` into an error with a way out.

    Raises:
        BudgetError: no space, quota, limit on sizes, open files or maps. UsageError: not permitted. DamagedError: the device
            failed.
    """
    try:
        yield
    except OSError as error:
        explained = _explained(error, path, doing)
        if explained is error:
            raise
        raise explained from error


def _explained(error: OSError, path: Path, doing: str = "write") -> Exception:
    reason, place = f"cannot {doing}: {error.strerror or error}", str(path)
    if error.errno in _FULL:
        hint = "free some space (steercache cache gc), or keep the cache on another disk"
        return BudgetError(f"{reason}; what was committed before is kept", place=place, hint=hint)
    if error.errno in _EXHAUSTED:
        return BudgetError(reason, place=place, hint="close other readers, or raise the limit (ulimit -n, ulimit -v)")
    if error.errno in _REFUSED:
        return UsageError(
            reason, place=place, hint="keep the cache in another folder, or mend the permissions of this one"
        )
    if error.errno == errno.EIO:
        return DamagedError(reason, place=place, hint="steercache cache verify")
    return error


def make_folder(*paths: Path) -> None:
    """Create folders and their parents, durably. Those that are there may be of a process that was killed before it synced."""
    for path in paths:
        for folder in reversed([path, *path.parents]):
            if not folder.is_dir():
                with disk_errors(folder):
                    folder.mkdir(exist_ok=True)
                _settled.pop(folder, None)  # one of that name, and perhaps of that inode, was removed
                _note("make_folder", folder)
    for path in paths:
        _settle(path)


def settle(*files: Path) -> None:
    """Make safe the names of files that are there: whoever gave them may have been killed before they were on the disk."""
    for folder in dict.fromkeys(file.parent for file in files):
        if folder.is_dir():
            fsync_folder(folder)
            _settle(folder)


def _settle(folder: Path) -> None:
    """Make the names of a folder and of those around it safe, once in the life of this process.

    Stops where this process could not have made a folder: at the root of a file system, and where it may not write.
    """
    for inner in (folder, *folder.parents):
        try:
            stat, around = inner.stat(), inner.parent.stat()
        except FileNotFoundError:
            return  # removed by another process: whoever writes next says so
        identity = (stat.st_dev, stat.st_ino)
        if _settled.get(inner) == identity or stat.st_dev != around.st_dev or not _is_ours(inner.parent):
            return
        if os.path.samestat(stat, around):
            return
        fsync_folder(inner.parent)
        _settled[inner] = identity


def _is_ours(folder: Path) -> bool:
    return os.access(folder, os.R_OK | os.W_OK | os.X_OK)


def create(path: Path) -> int:
    """Open a new, empty file for reading and writing and return its descriptor. Raises FileExistsError."""
    with disk_errors(path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    _path_of_fd[fd] = path
    _note("create", path)
    return fd


def create_temporary(path: Path) -> tuple[Path, int]:
    """Open a new, empty file that will become `path`; returns its name until then and its descriptor.

    It is locked until `rename` or `remove` is called with that name. What killed writers of `path` left is removed first.
    """
    remove_unfinished(path)
    with disk_errors(path):
        temporary, fd = create_unfinished(path)
    _path_of_fd[fd] = temporary
    _note("create", temporary)
    return temporary, fd


def reserve(fd: int, n_bytes: int) -> None:
    """Claim `n_bytes` of disk for a file, so that a full disk shows before the work and not in its middle."""
    path = _path_of_fd[fd]
    if n_bytes and hasattr(os, "posix_fallocate"):  # macOS has none: there the writes themselves find out
        with disk_errors(path):
            os.posix_fallocate(fd, 0, n_bytes)
    _note("reserve", path, offset=n_bytes)


def pwrite(fd: int, data: Any, offset: int) -> None:
    """Write all of a contiguous buffer at `offset`."""
    path = _path_of_fd[fd]
    view = memoryview(data).cast("B")
    if _recorded is not None:
        _note("write", path, offset=offset, data=view)
    try:
        while view.nbytes:  # the kernel may take less: at most 2 GiB at once, or up to a limit
            n_written = os.pwrite(fd, view, offset)
            view, offset = view[n_written:], offset + n_written
    except OSError as error:
        raise _explained(error, path) from error


def write_past_cache(fd: int, data: memoryview) -> None:
    """Write all of `data`, which lies on a page of memory, from the file's first byte on, and leave the page cache alone.

    That costs a third of the CPU time, and pushes nothing out of memory that is being read. What is no whole block, and
    everything on disks that cannot do it, is written by `pwrite`.
    """
    whole = len(data) // _BLOCK * _BLOCK
    n_direct = 0
    if _set_direct(fd, True):
        try:
            while n_direct < whole:
                part = data[n_direct : min(whole, n_direct + _DIRECT_BYTES)]
                n_written = os.pwrite(fd, part, n_direct)
                _note("write", _path_of_fd[fd], offset=n_direct, data=part[:n_written])
                n_direct += n_written
                if n_written % _BLOCK:
                    break
        except OSError as error:
            if error.errno != errno.EINVAL:  # that one says: not with blocks of this size, or not at all
                raise _explained(error, _path_of_fd[fd]) from error
        finally:
            _set_direct(fd, False)
    if n_direct < len(data):
        pwrite(fd, data[n_direct:], n_direct)


def _set_direct(fd: int, on: bool) -> bool:
    """Whether writes to `fd` go past the page cache from now on."""
    if not hasattr(os, "O_DIRECT"):  # macOS
        return False
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_DIRECT if on else flags & ~os.O_DIRECT)
    except OSError:
        return False
    return on


def fsync(fd: int) -> None:
    """Wait until a file's bytes are on the disk."""
    path = _path_of_fd[fd]
    with disk_errors(path):
        os.fsync(fd)
    _note("fsync", path)


def close(fd: int) -> None:
    """Close a descriptor that `create` returned."""
    del _path_of_fd[fd]
    os.close(fd)


def rename(path: Path, target: Path) -> None:
    """Give a complete file its name, replacing what had it."""
    with disk_errors(target):
        path.replace(target)
    release(path)
    _note("rename", path, target=target)


def fsync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    with disk_errors(path):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    _note("fsync_folder", path)


def remove(path: Path) -> None:
    """Remove a file; it may be gone already."""
    with disk_errors(path):
        path.unlink(missing_ok=True)
    release(path)
    _note("remove", path)


def remove_folder(path: Path) -> None:
    """Remove a folder with everything in it, durably; killed in the middle of it, a part is left."""
    for base, _, names in os.walk(path):
        for name in names:
            remove(Path(base) / name)
    with disk_errors(path):
        shutil.rmtree(path)  # what is left are empty folders
    fsync_folder(path.parent)


def remove_unfinished(path: Path) -> None:
    """Remove what earlier, killed writers of `path` left beside it; one that still writes keeps its file."""
    with os.scandir(path.parent) as entries:
        names = [e.name for e in entries if e.name.startswith(path.name + ".tmp-")]
    for name in names:
        remove_abandoned(path.with_name(name))


def remove_abandoned(path: Path) -> None:
    """Remove a file under construction if its writer is gone."""
    fd = take_abandoned(path)
    if fd is not None:
        try:
            remove(path)  # while it is locked: whoever just made it sees that it is gone, and makes another
        finally:
            os.close(fd)


def read_bytes(path: Path) -> bytes:
    """The content of a small file. Raises FileNotFoundError, and as `disk_errors`: what the system refuses is no damage."""
    with disk_errors(path, doing="read"):
        return path.read_bytes()


def write_temporary(path: Path, data: bytes) -> Path:
    """Put `data` on the disk under a temporary name of `path`, and return that name."""
    temporary, fd = create_temporary(path)
    try:
        pwrite(fd, data, 0)
        fsync(fd)
    except BaseException:
        close(fd)
        remove(temporary)
        raise
    close(fd)
    return temporary


def publish(files: Sequence[tuple[Path, Path]]) -> None:
    """Give complete files, pairs (temporary, final), their names; durable when it returns, with the folders they are in."""
    for temporary, path in files:
        rename(temporary, path)
    settle(*(path for _, path in files))


def write_file_atomically(path: Path, data: bytes) -> None:
    """Put `data` under the name `path`, durably: readers and a power loss see the old file or the new one, whole."""
    publish([(write_temporary(path, data), path)])
