"""The ledger's file: lines chained by digests, what a killed write left of a line, and the lock of whoever adds one.

Every line holds the digest of the line before it, so that a line taken out or altered is noticed. A write that was killed
leaves a last line without its end. No later line vouches for it, so a reader decides by its content: a whole entry that follows
from the line before it counts, and lacks only its newline; anything else is torn, and the next writer moves it to
`ledger.torn`.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from steercache.core.errors import BudgetError, DamagedError, UsageError
from steercache.core.ids import canonical_json, digest_bytes
from steercache.core.locks import lock_file

START: Final = "0" * 64  # what the first line names as the line before it
TORN: Final = "ledger.torn"
HINT: Final = "restore the ledger from a copy; or move it away, which starts the count again, and say so in the report"
Entry = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """What a ledger holds: its entries in order, the digest that the next one names, the bytes that are whole, and those of a
    torn line after them. `unended` says that the last entry lacks its newline."""

    entries: tuple[Entry, ...]
    last: str
    n_whole: int
    torn: bytes = b""
    unended: bool = False


def read_chain(path: Path) -> Chain:
    """The entries of a ledger; none where there is no file. Changes nothing.

    Raises:
        DamagedError: a line was altered or taken out. UsageError: the file may not be read.
    """
    try:
        with path.open("rb") as file:
            with suppress(OSError):  # a file system without locks can be read all the same
                fcntl.flock(file, fcntl.LOCK_SH)  # no writer is in the middle of a line
            data = file.read()
    except (FileNotFoundError, NotADirectoryError):
        data = b""
    except OSError as error:
        message = f"the ledger cannot be read: {error.strerror or error}"
        raise UsageError(message, place=str(path), hint="mend its permissions") from error
    return parse_chain(data, path)


def parse_chain(data: bytes, path: Path) -> Chain:
    """The entries in `data`, a ledger's bytes. Raises DamagedError."""
    *lines, rest = data.split(b"\n")
    entries: list[Entry] = []
    before, previous = "", START
    for line in lines:
        if not _is_object(line):
            continue  # a line that an older steercache closed off after it was torn
        entry = _entry(line)
        # After an entry that lacked its newline, an older steercache named the one before that: two entries then follow it.
        if entry is None or entry["previous"] not in (previous, before):
            raise _altered(len(entries) + 1, path)
        entries.append(entry)
        before, previous = ("" if entry["previous"] == before else previous), digest_bytes(line)
    if not rest:
        return Chain(entries=tuple(entries), last=previous, n_whole=len(data))
    entry = _entry(rest)
    if entry is None:
        return Chain(entries=tuple(entries), last=previous, n_whole=len(data) - len(rest), torn=rest)
    if entry["previous"] != previous:
        raise _altered(len(entries) + 1, path)
    return Chain(entries=(*entries, entry), last=digest_bytes(rest), n_whole=len(data), unended=True)


@contextmanager
def open_to_add(path: Path) -> Iterator["OpenLedger"]:
    """The ledger at `path`, held for the length of the block against every other writer; made where there is none.

    Raises:
        DamagedError: a line was altered or taken out. BudgetError: it cannot be written. UsageError: there are no locks.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = _open_locked(path)
    except OSError as error:
        raise _unwritable(error, path) from error
    try:
        yield OpenLedger(handle=handle, path=path, chain=parse_chain(_read_all(handle), path))
    finally:
        os.close(handle)  # frees the lock


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenLedger:
    """A ledger that is held by its writer."""

    handle: int
    path: Path
    chain: Chain

    def add(self, entry: Entry) -> None:
        """Put one entry after the last one, durably; a part of a line that was there before is put aside.

        Raises:
            BudgetError: the disk is full, or the file cannot be written; the ledger is as it was.
        """
        try:
            if self.chain.torn:
                self._put_aside(self.chain.torn)
            size = self.chain.n_whole
            data = (b"\n" if self.chain.unended else b"") + canonical_json(entry) + b"\n"
            try:
                written = os.pwrite(self.handle, data, size)
                if written == len(data):
                    os.fsync(self.handle)
                    return
            except BaseException:
                os.ftruncate(self.handle, size)
                raise
            os.ftruncate(self.handle, size)
        except OSError as error:
            raise _unwritable(error, self.path) from error
        raise BudgetError("the ledger's line was written in part: the disk is full", place=str(self.path))

    def _put_aside(self, torn: bytes) -> None:
        """Keep torn bytes beside the ledger before they are cut off it."""
        aside = self.path.with_name(TORN)
        kept = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "torn": torn.decode("latin-1")}
        with aside.open("ab") as file:
            file.write(canonical_json(kept) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(self.path.parent)
        os.ftruncate(self.handle, self.chain.n_whole)
        os.fsync(self.handle)


def _open_locked(path: Path) -> int:
    """A descriptor of the file that `path` names, held against other writers."""
    handle = lock_file(path, wait=True)
    try:
        if not os.fstat(handle).st_size:
            _sync_folder(path.parent)  # it may have been made just now
    except BaseException:
        os.close(handle)
        raise
    return handle


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read_all(handle: int) -> bytes:
    return b"".join(iter(lambda: os.read(handle, 1 << 16), b""))


def _is_object(line: bytes) -> bool:
    return line.startswith(b"{") and line.endswith(b"}")


def _entry(line: bytes) -> Entry | None:
    """A line as an entry; None where it is no JSON object in the one form in which entries are written."""
    try:
        entry = json.loads(line)
        known = isinstance(entry, dict) and isinstance(entry.get("previous"), str)
        return entry if known and canonical_json(entry) == line else None
    except (ValueError, RecursionError):
        return None


def _altered(number: int, path: Path) -> DamagedError:
    return DamagedError(
        f"entry {number} of the ledger does not follow from the one before: a line was altered or taken out",
        place=str(path),
        hint=HINT,
    )


def _unwritable(error: OSError, path: Path) -> BudgetError:
    return BudgetError(f"the ledger cannot be written: {error.strerror or error}", place=str(path))
