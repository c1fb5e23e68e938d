"""An object store in memory, and one that remembers what was done to it: each state that a killed writer can leave."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import obstore
from obstore.store import MemoryStore

from steercache.objects.addresses import parse_address
from steercache.objects.cloud import CloudStore
from steercache.objects.interface import Fetched, ObjectInfo, Sums

ADDRESS = "s3://memory/root"
NO_SUMS = Sums()


class InMemory(CloudStore):
    """The store that buckets are reached by, over obstore's own store in memory."""

    def __init__(self, objects: dict[str, bytes] | None = None) -> None:
        super().__init__(parse_address(ADDRESS))
        self._store = MemoryStore()
        for path, data in (objects or {}).items():
            obstore.put(self._store, path, data)

    def objects(self) -> dict[str, bytes]:
        """Everything that is there."""
        paths = [meta["path"] for page in obstore.list(self._store) for meta in page]
        return {path: bytes(obstore.get(self._store, path).bytes()) for path in sorted(paths)}


@dataclass(frozen=True, slots=True)
class Done:
    """One object put (or, without data, removed)."""

    path: str
    data: bytes | None


@dataclass
class Recorded:
    """Hands everything on, and remembers what changed an object; `before` is called ahead of each change."""

    inner: InMemory
    operations: list[Done] = field(default_factory=list)
    before: Callable[[str], None] = lambda path: None
    name: str = ADDRESS

    def head(self, path: str) -> ObjectInfo | None:
        return self.inner.head(path)

    def get(self, path: str, *, most: int, unless: str | None = None) -> Fetched | None:
        return self.inner.get(path, most=most, unless=unless)

    def get_range(self, path: str, first: int, n_bytes: int, *, tag: str | None = None) -> Fetched:
        return self.inner.get_range(path, first, n_bytes, tag=tag)

    def pieces(self, path: str, *, first: int = 0) -> Iterator[bytes]:
        return self.inner.pieces(path, first=first)

    def put_new(self, path: str, data: bytes, *, sums: Sums = NO_SUMS) -> str | None:
        self.before(path)
        there = self.inner.head(path) is not None
        tag = self.inner.put_new(path, data, sums=sums)
        if not there:
            self.operations.append(Done(path, data))
        return tag

    def swap(self, path: str, data: bytes, *, tag: str | None) -> str:
        self.before(path)
        tag = self.inner.swap(path, data, tag=tag)
        self.operations.append(Done(path, data))
        return tag

    def put(self, path: str, data: bytes | Path, *, sums: Sums = NO_SUMS) -> str:
        self.before(path)
        tag = self.inner.put(path, data, sums=sums)
        self.operations.append(Done(path, data if isinstance(data, bytes) else data.read_bytes()))
        return tag

    def delete(self, path: str) -> None:
        self.before(path)
        self.inner.delete(path)
        self.operations.append(Done(path, None))


def prefixes(operations: Sequence[Done]) -> Iterator[dict[str, bytes]]:
    """What lies in the store after none, one, ... all of the operations: objects are there whole, or not at all."""
    objects: dict[str, bytes] = {}
    yield dict(objects)
    for done in operations:
        if done.data is None:
            objects.pop(done.path, None)
        else:
            objects[done.path] = done.data
        yield dict(objects)


def comparable(objects: dict[str, Any]) -> dict[str, Any]:
    """Objects of runs without what depends on the clock or on who wrote them."""

    found = {}
    for path, data in objects.items():
        if not path.startswith("runs/") or path.endswith(("/LOCK", "/LEASE")):
            continue
        if path.endswith("/run.json"):
            document = json.loads(data)
            data = json.dumps({k: v for k, v in document.items() if k != "created_at"}, sort_keys=True).encode()
        found[path] = data
    return found


def objects_of(root: Path) -> dict[str, bytes]:
    """The files of a local root, as objects."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}
