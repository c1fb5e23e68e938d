"""One coordinator per run in an object store: a lease that ends by itself, and a number that tells its holders apart.

The lease is an object that is only ever replaced by compare-and-swap. Its holder renews it; one that died leaves it to run out,
or, where its process can be seen to be gone, to be taken at once. Each holder's `token` is one more than the last one's, and
whoever commits something under a lease reads first whose it is (`Fence`): a holder that was only slow commits nothing any more.
"""

import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from steercache.core.errors import BusyError, DamagedError, SteercacheError
from steercache.objects.interface import ObjectChangedError, ObjectStore

LEASE_S: Final = 60.0
RENEWALS: Final = 4  # in the time of a lease
MOST_TRIES: Final = 20
MOST_BYTES: Final = 2**16
FREE: Final = ""  # the holder of a lease that was given back


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseNote:
    """What the object says. `until` is in seconds since the epoch, by the holder's clock; `machine` tells process ids apart."""

    token: int
    holder: str
    until: float
    machine: str
    pid: int
    about: str
    format: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """What a process needs to know whether the lease under which it works is still its coordinator's; picklable."""

    path: str
    holder: str
    token: int

    def check(self, store: ObjectStore) -> None:
        """Raises BusyError where somebody else has taken the lease since."""
        found = _read(store, self.path)
        if found is None or (found[0].holder, found[0].token) != (self.holder, self.token):
            raise _lost(store, self.path, None if found is None else found[0])


class Lease:
    """A lease that is held; made by `hold_lease`, which renews it."""

    def __init__(self, store: ObjectStore, path: str, note: LeaseNote, tag: str, *, lasts_s: float) -> None:
        self._store, self._path, self._lasts_s = store, path, lasts_s
        self._note, self._tag = note, tag
        self._lost: SteercacheError | None = None
        self._writing = threading.Lock()
        self.fence = Fence(
            path=path, holder=note.holder, token=note.token
        )  # for processes that commit under this lease

    def check(self) -> None:
        """Raises BusyError where the lease was lost."""
        if self._lost is not None:
            raise self._lost
        self.fence.check(self._store)

    def renew(self) -> None:
        """Put its end off; a store that does not answer is asked again at the next renewal."""
        with self._writing, suppress(SteercacheError):
            if self._lost is None and self._note.holder != FREE:
                self._swap(replace(self._note, until=time.time() + self._lasts_s))

    def give_back(self) -> None:
        """End it: the next coordinator need not wait."""
        with self._writing, suppress(SteercacheError):
            if self._lost is None:
                self._swap(replace(self._note, holder=FREE, until=0.0))

    def _swap(self, note: LeaseNote) -> None:
        try:
            self._tag = self._store.swap(self._path, _bytes(note), tag=self._tag)
        except ObjectChangedError:
            found = _read(self._store, self._path)
            self._lost = _lost(self._store, self._path, None if found is None else found[0])
        else:
            self._note = note


@contextmanager
def hold_lease(store: ObjectStore, path: str, *, what: str, lasts_s: float | None = None) -> Iterator[Lease]:
    """Hold the lease at `path` for the length of the block; renewed by a thread.

    Raises:
        BusyError: somebody holds it; the message names the process. UsageError: the store refuses, or does not answer.
    """
    lasts_s = LEASE_S if lasts_s is None else lasts_s
    lease = _take(store, path, what, lasts_s)
    _held_here.add(lease.fence.holder)
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(lasts_s / RENEWALS):
            lease.renew()

    thread = threading.Thread(target=renew, name="steercache-lease", daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        ended.set()
        _held_here.discard(lease.fence.holder)
        lease.give_back()


_held_here: set[str] = set()  # holders that are threads of this process


def _take(store: ObjectStore, path: str, what: str, lasts_s: float) -> Lease:
    holder = secrets.token_hex(8)
    program = Path(sys.argv[0]).name[:60]  # without its arguments: others may read the store
    for _ in range(MOST_TRIES):
        found = _read(store, path)
        if found is not None and _is_held(found[0]):
            raise BusyError(
                f"{what} is held by {_who(found[0])}",
                place=_place(store, path),
                hint="wait for it, or end it; what it committed stays. One that was cut off loses it in a minute or so",
            )
        note = LeaseNote(
            token=1 if found is None else found[0].token + 1,
            holder=holder,
            until=time.time() + lasts_s,
            machine=_machine(),
            pid=os.getpid(),
            about=f"process {os.getpid()} on {socket.gethostname()} ({program})",
        )
        try:
            tag = store.swap(path, _bytes(note), tag=None if found is None else found[1])
        except ObjectChangedError:
            continue  # another coordinator was quicker: the next look says who
        return Lease(store, path, note, tag, lasts_s=lasts_s)
    raise BusyError(f"{what} is being taken by others all the time", place=_place(store, path), hint="try again")


def _is_held(note: LeaseNote) -> bool:
    if note.holder == FREE or note.until < time.time():
        return False
    if note.machine != _machine():
        return True
    return note.holder in _held_here if note.pid == os.getpid() else _is_alive(note.pid)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it is somebody else's
    return True


def _machine() -> str:
    """What tells whether a process id of a lease is one of ours: containers and reboots count anew."""
    parts = [socket.gethostname()]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        try:
            parts.append(os.readlink(path) if path.endswith("pid") else Path(path).read_text().strip())
        except OSError:
            parts.append(secrets.token_hex(8))  # nobody can tell: such a lease runs out
    return " ".join(parts)


def _lost(store: ObjectStore, path: str, note: LeaseNote | None) -> BusyError:
    by = "is gone" if note is None else "was given back" if note.holder == FREE else f"was taken by {_who(note)}"
    return BusyError(
        f"the lease of this run {by}: nothing more is committed",
        place=_place(store, path),
        hint="let that one go on, or call again when it has ended; what was committed stays",
    )


def _who(note: LeaseNote) -> str:
    until = time.strftime("%H:%M:%S", time.localtime(note.until))
    return f"{note.about}, which holds it until {until} at least"


def _place(store: ObjectStore, path: str) -> str:
    return f"{store.name}/{path}"


_NOTE = TypeAdapter(LeaseNote)


def _bytes(note: LeaseNote) -> bytes:
    return json.dumps(asdict(note)).encode() + b"\n"


def _read(store: ObjectStore, path: str) -> tuple[LeaseNote, str] | None:
    found = store.get(path, most=MOST_BYTES)
    if found is None:
        return None
    try:
        return _NOTE.validate_json(bytes(found.data)), found.info.tag
    except ValidationError as error:
        raise DamagedError(
            "not a lease", place=_place(store, path), hint="remove it when nobody builds the run"
        ) from error
