"""How often a test split was looked at: one JSON line per look, in the cache's root, added and never changed.

A test split that was looked at twenty times is a search split. Every line holds the digest of the line before it, so that a
line taken out or altered is noticed; a line torn by a crash or a full disk is closed off and counted, not overwritten.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from steercache.core.errors import BudgetError, DamagedError
from steercache.core.ids import canonical_json, digest_bytes

FILE_NAME: Final = "ledger.jsonl"
START: Final = "0" * 64  # what the first line names as the line before it
# Sets that are parts of another: splits are drawn within tasks, so their test rows are the whole set's.
WHOLE: Final[Mapping[str, str]] = MappingProxyType({"cv-bench-2d": "cv-bench", "cv-bench-3d": "cv-bench"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One look: at which split of which data set, under which rule, for what (a sweep, a cell), and when (UTC)."""

    dataset: str
    task: str | None
    rule: str
    split: str
    subject: str
    n: int
    at: str
    previous: str


def record_look(
    root: Path, *, dataset: str, rule: str, split: str, subject: str, n: int, task: str | None = None
) -> Look:
    """Add a look to the ledger under `root`, durably, and return it. Two processes may write at once.

    Raises:
        BudgetError: the disk is full or the root cannot be written; DamagedError: the ledger was altered.
    """
    path = root / FILE_NAME
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _locked(path) as handle:
            lines, torn = _split(_read_all(handle))
            look = Look(
                dataset=dataset,
                task=task,
                rule=rule,
                split=split,
                subject=subject,
                n=n,
                at=datetime.now(UTC).isoformat(timespec="seconds"),
                previous=_digest(lines[-1]) if lines else START,
            )
            _parse(lines, path)
            data = (b"\n" if torn else b"") + _line(look) + b"\n"
            if os.write(handle, data) != len(data):
                raise BudgetError("the ledger's line was written in part: the disk is full", place=str(path))
            os.fsync(handle)
    except OSError as err:
        raise BudgetError(f"the ledger cannot be written: {err.strerror or err}", place=str(path)) from err
    return look


def read_looks(root: Path, *, dataset: str | None = None, split: str | None = None) -> tuple[Look, ...]:
    """All looks in order, or those at one data set or split; none if there is no ledger yet.

    Raises:
        DamagedError: a line was altered or taken out.
    """
    path = root / FILE_NAME
    if not path.exists():
        return ()
    lines, _ = _split(path.read_bytes())
    looks = _parse(lines, path)
    return tuple(k for k in looks if dataset in (None, k.dataset) and split in (None, k.split))


def count_looks(root: Path, *, dataset: str, rule: str, split: str, task: str | None = None) -> int:
    """How often questions of this part of this data set were looked at, under this rule of splits.

    A look without a task was at all tasks, and one at a whole set was at its parts: both count, in either direction.

    Raises:
        DamagedError: a line was altered or taken out.
    """
    looks = [look for look in read_looks(root, split=split) if look.rule == rule]
    return sum(
        1 for look in looks if _share_rows(look.dataset, dataset) and (None in (look.task, task) or look.task == task)
    )


def _share_rows(one: str, other: str) -> bool:
    return one == other or WHOLE.get(one) == other or WHOLE.get(other) == one


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)  # frees the lock


def _read_all(handle: int) -> bytes:
    return b"".join(iter(lambda: os.read(handle, 1 << 16), b""))


def _split(data: bytes) -> tuple[list[bytes], bool]:
    """Whole lines, and whether the last one is torn. Lines that are no JSON object were torn before and closed off."""
    *whole, rest = data.split(b"\n")
    return [line for line in whole if line.startswith(b"{") and line.endswith(b"}")], bool(rest)


def _line(look: Look) -> bytes:
    return canonical_json({name: getattr(look, name) for name in Look.__slots__})


def _digest(line: bytes) -> str:
    return digest_bytes(line)


def _parse(lines: list[bytes], path: Path) -> list[Look]:
    looks = []
    previous = START
    for no, line in enumerate(lines, start=1):
        try:
            document: Mapping[str, Any] = json.loads(line)
            look = Look(**document)
        except (ValueError, TypeError) as err:
            raise DamagedError(f"entry {no} of the ledger is no look: {err}", place=str(path), hint=_HINT) from err
        if look.previous != previous or _line(look) != line:
            raise DamagedError(
                f"entry {no} of the ledger does not follow from the one before: a line was altered or taken out",
                place=str(path),
                hint=_HINT,
            )
        looks.append(look)
        previous = _digest(line)
    return looks


_HINT: Final = (
    f"restore {FILE_NAME} from a copy; or move it away, which starts the count again, and say so in the report"
)
