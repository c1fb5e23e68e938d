"""What an IO error of DuckDB is about: the content of the index, or the disk, the permissions or the limits of this process.

DuckDB has one exception for all of them and ends its message with the operating system's own words, so that those tell which.
"""

import errno
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import duckdb

from steercache.core.errors import BudgetError, DamagedError, NotFoundError, SteercacheError, UsageError
from steercache.core.excerpts import first_line_of

REBUILD: Final = "steercache cache rebuild"
_NAMED = re.compile(r'"(/[^"]+)"')
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
_FAILED = (errno.EIO, errno.ENXIO, errno.ENODEV, errno.ESTALE, errno.ETIMEDOUT)
_WORDS: Final[Mapping[str, int]] = {os.strerror(code): code for code in errno.errorcode}
_CONTENT = (
    "Corrupt database file",
    "not a valid DuckDB database file",
    "Could not read enough bytes",
    "version number",
)


class UnreadableIndexError(DamagedError):
    """DuckDB cannot read the file. It rewrites its block of metadata in place: killed in the middle of that, it leaves the
    block torn, with a checksum that no longer holds."""


def io_error(error: Exception, *, place: Path | None = None) -> SteercacheError | None:
    """Our error for one of the operating system's, met while DuckDB used the index at `place`, a temporary file or another.

    None for an error that is not about files.
    """
    text = first_line_of(error)
    if any(said in text for said in _CONTENT) or isinstance(error, duckdb.SerializationException):
        return unreadable(text, place)
    code = error.errno if isinstance(error, OSError) else _code_in(text)
    is_io = isinstance(error, OSError | duckdb.IOException)
    if code is None and "No space left" not in text and "disk is full" not in text.lower():
        return _unknown(text, place) if is_io else None
    return _of_code(code or errno.ENOSPC, text, _named_in(text, place)) if is_io or code in _FULL else None


def _unknown(text: str, place: Path | None) -> SteercacheError:
    """An error without the system's words: of the index, where it was being opened, that it cannot be used as it is."""
    return UsageError(text, place=_named_in(text, place)) if place is None else unreadable(text, place)


def refused_by_system(error: Exception, path: Path) -> SteercacheError | None:
    """Our error where the system would not let a file be read, whatever its content; None for any other error."""
    code = error.errno if isinstance(error, OSError) else None
    if code not in (*_EXHAUSTED, *_REFUSED, *_FAILED):
        return None
    return _of_code(code, first_line_of(error), str(path))


def unreadable(text: str, place: Path | None) -> UnreadableIndexError:
    """The error for an index whose content is not what it should be."""
    where = None if place is None else str(place)
    return UnreadableIndexError(f"the index is not readable: {text}", place=where, hint=REBUILD)


def _of_code(code: int, text: str, place: str | None) -> SteercacheError:
    if code in _FULL:
        return BudgetError(f"the disk is full: {text}", place=place, hint="free some space; committed rows are safe")
    if code in _EXHAUSTED:
        hint = "close other readers, or raise the limit (ulimit -n, ulimit -v)"
        return BudgetError(f"a limit of this process is reached: {text}", place=place, hint=hint)
    if code in _REFUSED:
        return UsageError(f"not permitted: {text}", place=place, hint="mend its permissions, or use another folder")
    if code in _FAILED:
        hint = "look at the system's log, and copy the cache to another disk"
        return DamagedError(f"the device failed: {text}", place=place, hint=hint)
    if code == errno.ENOENT:
        return NotFoundError(f"a file went away while it was used: {text}", place=place, hint="try again")
    return UsageError(text, place=place)


def _code_in(text: str) -> int | None:
    """The number of the operating system's error whose words end a message."""
    _, _, words = text.rpartition(": ")
    return _WORDS.get(words.strip().rstrip("."))


def _named_in(text: str, place: Path | None) -> str | None:
    found = _NAMED.search(text)
    return found[1] if found else None if place is None else str(place)
