"""The documents of a root that is elsewhere, mirrored into a local folder: everything but the arrays of shards.

What is there is found by the place's listing and by planned names, never by a listing of the store. A mirrored folder is a
cache like any other, whose index is made from its files; what was made here and not sent, such as a sweep, stays beside.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import google_crc32c

from steercache.cache.documents import RunDocument, parse_run_document, parse_shard_record, read_run_document
from steercache.cache.paths import RootPaths, RunPaths
from steercache.cache.vector_files import read_vector
from steercache.core.errors import DamagedError, NotFoundError
from steercache.core.ids import digest
from steercache.core.layout import ShardRecord
from steercache.objects.blocks import requests_pool
from steercache.objects.catalogue import read_catalogue
from steercache.objects.interface import NotChangedError, ObjectStore
from steercache.objects.listing import Item, ListedFile, rank
from steercache.store.durable import make_folder, write_file_atomically
from steercache.store.generation import generation_files, read_generation

STATE: Final = "MIRROR.json"
MIRRORED: Final = ("run", "vector", "sweep", "features")  # SAEs are models: they are pulled where they are needed
MOST_BYTES: Final = 2**31  # of one document
WINDOW: Final = 64  # records asked for at once
_ARRAY = re.compile(r"runs/[^/]+/g[0-9]{4}/(?!layer(?:_|/))[^/]+/c\..*")
_VERIFY = "steercache cache verify"


@dataclass(slots=True)
class _State:
    """What was mirrored, and from which objects: tags by path, digests of items by key, runs that are found by records."""

    listing: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    items: dict[str, dict[str, Any]] = field(default_factory=dict)
    by_records: list[str] = field(default_factory=list)


def is_array(path: str) -> bool:
    """Whether an object belongs to the arrays of shards, which are not mirrored.

    >>> is_array("runs/1f/g0001/resid_post/c.0.3.0"), is_array("runs/1f/g0001/layer/c.0")
    (True, False)
    """
    return _ARRAY.fullmatch(path) is not None


def refresh_mirror(store: ObjectStore, root: Path, *, create: bool = False) -> int:
    """Make a mirror's documents equal to those of the place; returns how many were received.

    Killed anywhere, the same call goes on. Two processes do it one after the other.

    Raises:
        NotFoundError: nothing was pushed to or built at the place, and `create` is false.
        DamagedError: a document is not what the listing or its record says.
    """
    make_folder(root / "runs")
    with _alone(root):
        return _Refresh(store, root).run(create=create)


class _Refresh:
    """One refreshing of a mirror."""

    def __init__(self, store: ObjectStore, root: Path) -> None:
        self._store, self._root, self._paths = store, root, RootPaths(root)
        self._state, self._n_received = _read_state(root / STATE), 0
        self._before = json.dumps(_as_json(self._state))

    def run(self, *, create: bool) -> int:
        catalogue = read_catalogue(self._store, unless=self._state.listing)
        if catalogue is not None:
            if catalogue.tag is None and not create:
                hint = "check the address; or push something there, or build a run there"
                raise NotFoundError("no cache there", place=self._store.name, hint=hint)
            self._take(catalogue.listing.items)
            self._state.listing = catalogue.tag
        for run_id in self._state.by_records:
            self._run(run_id)
        self._save()
        return self._n_received

    def _save(self) -> None:
        said = json.dumps(_as_json(self._state))
        if said != self._before:
            write_file_atomically(self._root / STATE, said.encode())
            self._before = said

    def _take(self, items: Sequence[Item]) -> None:
        """Make the documents of items equal to the listing's; those whose item is gone are removed."""
        known = self._state.items
        wanted = {f"{item.kind}/{item.id}": item for item in items if item.kind in MIRRORED}
        self._state.by_records = [item.id for item in items if item.by_records]
        for key in sorted(known.keys() - wanted.keys()):
            self._remove(key, known.pop(key))
        for key, item in wanted.items():
            files = [file for file in item.files if not is_array(file.path)]
            now = digest([[file.path, file.sha256] for file in item.files])
            if known.get(key, {}).get("digest") == now and not item.by_records:
                continue
            for files_of_rank in _by_rank(files):
                _all_of(partial(self._receive, item_id=item.id), files_of_rank)
            for old in sorted({*known.get(key, {}).get("files", ())} - {f.path for f in files}):
                if not old.startswith("annotations/"):
                    (self._root / old).unlink(missing_ok=True)
            known[key] = {"digest": now, "files": [] if item.kind == "run" else [file.path for file in files]}

    def _remove(self, key: str, entry: dict[str, Any]) -> None:
        kind, _, item_id = key.partition("/")
        if kind == "run":
            shutil.rmtree(self._paths.run(item_id).folder, ignore_errors=True)
        for path in entry.get("files", ()):
            (self._root / path).unlink(missing_ok=True)

    def _receive(self, file: ListedFile, *, item_id: str) -> None:
        """A listed document, if it is not here already."""
        target = self._root / file.path
        if _is_file(target, file):
            return
        data = self._get(file.path)
        if (len(data), _sha256(data)) != (file.n_bytes, file.sha256):
            place = self._place(file.path)
            raise DamagedError("its SHA-256 is not the one that is listed", place=place, hint="push it again")
        self._write(file.path, data, item_id)

    def _run(self, run_id: str) -> None:
        """The documents of a run that is found by its records: those that were not here, or have changed."""
        run, base = self._paths.run(run_id), f"runs/{run_id}"
        said = self._changed(f"{base}/run.json", again=not run.document.exists())
        document = self._document(run_id, said)
        if document is None:
            return  # listed, and not begun
        current = self._changed(f"{base}/CURRENT", again=not run.current.exists())
        name = run.current.read_text().strip() if current is None and run.current.exists() else _text(current)
        if not re.fullmatch(r"g[0-9]{4}", name):
            return  # begun, and no generation yet
        if not self._generation(run, name):
            return
        for dataset in document.datasets:
            path = self._paths.annotation(dataset.dataset, dataset.inputs_digest)
            inside = path.relative_to(self._root).as_posix()
            labels = self._changed(inside, again=not path.exists())
            if labels is not None:
                self._write(inside, labels, run_id)
        self._records(run, document, name)
        if current is not None:
            self._write(f"{base}/CURRENT", current, run_id)
        if said is not None:  # the last: from here on it is a run
            self._write(f"{base}/run.json", said, run_id)

    def _document(self, run_id: str, said: bytes | None) -> RunDocument | None:
        run = self._paths.run(run_id)
        if said is None:
            return read_run_document(run.document) if run.document.exists() else None
        document = parse_run_document(said, self._place(f"runs/{run_id}/run.json"))
        if document.run_id != run_id:
            raise DamagedError("the document of another run", place=self._place(f"runs/{run_id}/run.json"))
        return document

    def _generation(self, run: RunPaths, name: str) -> bool:
        """The metadata of a generation; whether there is any."""
        base, folder = f"runs/{run.folder.name}/{name}", run.generation(name)
        group = self._changed(f"{base}/zarr.json", again=not (folder / "zarr.json").exists())
        if group is not None:
            if (folder / "zarr.json").exists():
                self._drop_uncommitted(run, name)
            self._write(f"{base}/zarr.json", group, run.folder.name)
        if not (folder / "zarr.json").exists():
            return False
        info = read_generation(folder)
        lacking = [inner for inner in generation_files(info.layout, info.codec) if not (folder / inner).exists()]
        _all_of(lambda inner: self._write(f"{base}/{inner}", self._get(f"{base}/{inner}"), run.folder.name), lacking)
        return True

    def _drop_uncommitted(self, run: RunPaths, generation: str) -> None:
        """Remove records that are no longer there: a generation whose metadata has changed may have lost shards."""
        folder = run.shards(generation)
        here = sorted(folder.glob("[0-9]*.json")) if folder.is_dir() else []
        there = _all_of(lambda path: self._store.head(path.relative_to(self._root).as_posix()), here)
        for path, found in zip(here, there, strict=True):
            if found is None:
                path.unlink(missing_ok=True)

    def _records(self, run: RunPaths, document: RunDocument, generation: str) -> None:
        """Records by their planned names, up to the first many that are not there, with the tables that they name."""
        folder = run.shards(generation)
        here = set(os.listdir(folder)) if folder.is_dir() else set()
        lacking = [s.shard_idx for s in document.shards if f"{s.shard_idx:05d}.json" not in here]
        for start in range(0, len(lacking), WINDOW):
            found = _all_of(lambda idx: self._shard(run, generation, idx), lacking[start : start + WINDOW])
            if not any(found):
                return

    def _shard(self, run: RunPaths, generation: str, shard_idx: int) -> bool:
        path = run.shard(generation, shard_idx)
        inside = path.relative_to(self._root).as_posix()
        fetched = self._store.get(inside, most=MOST_BYTES)
        if fetched is None:
            return False
        data = bytes(fetched.data)
        record = parse_shard_record(data, self._place(inside))
        if record.shard_idx != shard_idx:
            raise DamagedError("the record of another shard", place=self._place(inside), hint=_VERIFY)
        self._tables(run, record)
        self._write(inside, data, run.folder.name)
        return True

    def _tables(self, run: RunPaths, record: ShardRecord) -> None:
        for file in record.files:
            if not re.fullmatch(r"(?:rows|samples)/[0-9]{5}\.parquet", file.path):
                continue
            target = run.folder / file.path
            if target.exists() and target.stat().st_size == file.n_bytes:
                continue  # of another generation of the same shard
            inside = target.relative_to(self._root).as_posix()
            data = self._get(inside)
            if (len(data), google_crc32c.value(data)) != (file.n_bytes, file.crc32c):
                place = self._place(inside)
                raise DamagedError("its checksum is not that of its record", place=place, hint=_VERIFY)
            self._write(inside, data, run.folder.name)

    def _changed(self, path: str, *, again: bool) -> bytes | None:
        """A document that may be replaced, if it is another one than before; None where it is not, or is not there."""
        before = None if again else self._state.tags.get(path)
        try:
            found = self._store.get(path, most=MOST_BYTES, unless=before)
        except NotChangedError:
            return None
        if found is None:
            return None
        self._state.tags[path] = found.info.tag
        return bytes(found.data)

    def _get(self, path: str) -> bytes:
        found = self._store.get(path, most=MOST_BYTES)
        if found is None:
            raise DamagedError("listed, and not there", place=self._place(path), hint="push it again")
        return bytes(found.data)

    def _place(self, path: str) -> str:
        return f"{self._store.name}/{path}"

    def _check(self, path: str, data: bytes, item_id: str) -> None:
        """Refuse documents that are no documents of their item, before they get their names."""
        is_run = path.endswith("run.json")
        found = parse_run_document(data, self._place(path)).run_id if is_run else self._vector_id(path, data)
        if found != item_id:
            raise DamagedError("the document of another item", place=self._place(path))

    def _vector_id(self, path: str, data: bytes) -> str:
        target = self._root / path
        scratch = target.with_name(f".{target.name}.{os.getpid()}.new")  # the reader of vectors takes files only
        try:
            scratch.write_bytes(data)
            return read_vector(scratch).vector.vector_id
        except DamagedError as error:
            hint = "push the vector again"
            raise DamagedError(error.message, place=self._place(path), hint=hint) from error
        finally:
            scratch.unlink(missing_ok=True)

    def _write(self, path: str, data: bytes, item_id: str) -> None:
        target = self._root / path
        make_folder(target.parent)
        if path.endswith((f"{item_id}/run.json", ".safetensors")):
            self._check(path, data, item_id)
        write_file_atomically(target, data)
        self._n_received += 1


def _is_file(path: Path, file: ListedFile) -> bool:
    try:
        return path.stat().st_size == file.n_bytes and _sha256(path.read_bytes()) == file.sha256
    except (FileNotFoundError, NotADirectoryError):
        return False


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _by_rank(files: Iterable[ListedFile]) -> list[list[ListedFile]]:
    ranked: dict[int, list[ListedFile]] = {}
    for file in files:
        ranked.setdefault(_rank(file.path), []).append(file)
    return [ranked[order] for order in sorted(ranked)]


def _rank(path: str) -> int:
    """What a reader needs first comes first; the document that makes it a run or a sweep comes last."""
    return 5 if path.endswith("/run.json") else rank(path)


def _all_of(work: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    listed = list(items)
    return [work(item) for item in listed] if len(listed) < 2 else list(requests_pool().map(work, listed))


def _text(data: bytes | None) -> str:
    return "" if data is None else data[:100].decode(errors="replace").strip()


def _read_state(path: Path) -> _State:
    try:
        said = json.loads(path.read_bytes())
        return _State(**{name: said[name] for name in ("listing", "tags", "items", "by_records")})
    except (OSError, ValueError, KeyError, TypeError):
        return _State()  # all is asked for again


def _as_json(state: _State) -> dict[str, Any]:
    return {
        "format": 1,
        "listing": state.listing,
        "tags": state.tags,
        "items": state.items,
        "by_records": state.by_records,
    }


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    fd = os.open(root / f"{STATE}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
