"""What was worked out from a large file, kept beside the cache so that the file is read once.

A memo holds for one path, size, inode and times of the last write and of the inode's last change. Archives and images often
set the first of these times alike for all files; nothing but the system's clock sets the second. A memo is never the truth: a
missing, damaged or unwritable one costs time only.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from steercache.core.ids import digest
from steercache.core.unfinished import create_unfinished, release

Stamp = tuple[int, int, int, int]


def file_stamp(file: Path) -> Stamp:
    """What changes with a file's content: size, times of the last write and of the inode's last change (ns), inode."""
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


def memoised(file: Path, memo_dir: Path | None, *, noun: str, compute: Callable[[Path], Any]) -> Any:
    """`compute(file)`, a JSON value, or what it gave before for the same file, not changed since."""
    stamp = [noun, str(file.resolve()), *file_stamp(file)]
    memo = None if memo_dir is None else memo_dir / f"{digest(stamp[:2])[:32]}.json"
    if memo is None:
        return compute(file)
    known = _read(memo)
    if known is None or known["stamp"] != stamp:
        known = {"stamp": stamp, "value": compute(file)}
        _write(memo, known)
    return known["value"]


def _read(memo: Path) -> dict[str, Any] | None:
    try:
        document = json.loads(memo.read_bytes())
    except (OSError, ValueError):
        return None  # not there, or cut short by a crash
    return document if isinstance(document, dict) and document.keys() == {"stamp", "value"} else None


def _write(memo: Path, document: dict[str, Any]) -> None:
    partial = None
    try:
        memo.parent.mkdir(parents=True, exist_ok=True)
        partial, fd = create_unfinished(memo)
        with open(fd, "w", encoding="utf-8") as stream:
            stream.write(json.dumps(document))
        partial.replace(memo)
        release(partial)
    except OSError:
        if partial is not None:
            with suppress(OSError):
                partial.unlink()
            release(partial)
        return  # a read-only or full cache: the next call reads the file again
