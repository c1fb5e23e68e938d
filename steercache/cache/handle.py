"""`CacheFolder`: one handle over a root's files and its index."""

import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from steercache.cache.catch_up import CATCH_UP_WAIT_S, catch_up, is_fresh
from steercache.cache.documents import RunDocument, read_run_document
from steercache.cache.entries import all_sweep_files, all_vector_rows, run_files, run_row
from steercache.cache.paths import RootPaths, RunPaths
from steercache.cache.remote import RemoteRoot, remote_of
from steercache.cache.source import RunSource
from steercache.core.errors import BusyError, DamagedError, NotFoundError, SteercacheWarning, UsageError
from steercache.core.ids import SHORT_ID, resolve_name
from steercache.core.locks import NoLocksError
from steercache.index.database import Index
from steercache.index.files import RunFiles, over_files
from steercache.index.place import home_expanded
from steercache.store.durable import make_folder

READER_WAIT_S = 2.0  # that a reader waits for another process to let go of the index
HELD_S = 30.0  # so long after it waited in vain, it does not wait again: files are read at once


class CacheFolder:
    """A cache root. Holds no file open: each query opens the index for its own length."""

    def __init__(self, root: Path) -> None:
        self.paths = RootPaths(root)
        self.index = Index(self.paths.index)
        self._reading_index = Index(self.paths.index, wait_s=READER_WAIT_S)
        self._held_until = 0.0
        self._sources: dict[tuple[str, str], RunSource] = {}

    @property
    def root(self) -> Path:
        return self.paths.root

    @property
    def remote(self) -> RemoteRoot | None:
        """Where the cache is, if its folder only mirrors it."""
        return remote_of(self.root)

    def documents(self) -> list[RunDocument]:
        """Every run's document, newest first. A damaged one does not hide the others: `damaged_documents` has it."""
        found = [document for _, document in self._read_documents() if isinstance(document, RunDocument)]
        return sorted(found, key=lambda d: (d.created_at, d.run_id), reverse=True)

    def damaged_documents(self) -> list[DamagedError]:
        """What is wrong with runs whose `run.json` cannot be read."""
        return [error for _, error in self._read_documents() if isinstance(error, DamagedError)]

    def _read_documents(self) -> Iterator[tuple[str, RunDocument | DamagedError]]:
        for run in self.paths.all_runs():
            try:
                yield run.folder.name, read_run_document(run.document)
            except DamagedError as error:
                yield run.folder.name, error
            except NotFoundError:
                continue  # removed since it was listed
        for run in self.paths.runs_without_document():
            message = "run.json is gone, and the run's shards are there"
            hint = "build it again with its manifest, which writes the document and traces nothing that is there"
            yield run.folder.name, DamagedError(message, place=str(run.document), hint=hint)

    def resolve_run(self, wanted: str) -> str:
        """The id of the run that answers to a name, an id or a unique prefix; of several of one name the newest."""
        candidates = [(d.run_id, d.name) for d in self.documents()]
        _name_the_one_that_is_meant(wanted, candidates)
        return resolve_name(wanted, candidates, noun="run", list_command="steercache cache status")

    def resolve_run_to_remove(self, wanted: str) -> str:
        """As `resolve_run`; also resolves runs whose `run.json` is unreadable, by id only."""
        candidates = [(d.run_id, d.name) for d in self.documents()]
        nameless = [run_id for run_id, found in self._read_documents() if isinstance(found, DamagedError)]
        candidates += [(run_id, run_id[:SHORT_ID]) for run_id in nameless]
        _name_the_one_that_is_meant(wanted, candidates)
        return resolve_name(wanted, candidates, noun="run", list_command="steercache cache status")

    def name_of(self, run_id: str) -> str:
        """A run's name, or its short id where its document cannot be read."""
        try:
            return self.run_document(run_id).name
        except (DamagedError, NotFoundError):
            return run_id[:SHORT_ID]

    def run_paths(self, run_id: str) -> RunPaths:
        return self.paths.run(run_id)

    def run_document(self, run_id: str) -> RunDocument:
        """A run's document. Raises NotFoundError, DamagedError."""
        return read_run_document(self.paths.run(run_id).document)

    def source(self, run_id: str) -> RunSource:
        """The rows of a run, in its current generation; the same object until the generation or its shards change."""
        paths = self.paths.run(run_id)
        shards = sum(1 for _ in (paths.folder / "shards").glob("*/*.json"))
        key = (run_id, f"{paths.current.read_bytes()[:100] if paths.current.exists() else b''!r}:{shards}")
        if key not in self._sources:
            for old in [k for k in self._sources if k[0] == run_id]:
                del self._sources[old]
            self._sources[key] = RunSource(paths, self.run_document(run_id))
        return self._sources[key]

    def run_files(self) -> Iterator[RunFiles]:
        """What the index is derived from, run by run, oldest first."""
        for document in reversed(self.documents()):
            yield run_files(self.paths, document)

    def run_row(self, run_id: str) -> dict[str, Any]:
        """A run as a row of the index."""
        document = self.run_document(run_id)
        return run_row(self.paths, document)

    @contextmanager
    def connection(self) -> Iterator[Any]:
        """A DuckDB connection for one query over what the files say at this moment.

        It is the index, brought up to date first where it lags behind; or the files themselves, when another process holds the
        index or it cannot be written. Documents mirrored from elsewhere are asked for again now and then.
        """
        remote = self.remote
        if remote is not None:
            remote.refresh_now_and_then()
        if not any(folder.is_dir() for folder in (self.paths.runs, self.paths.vectors, self.paths.sweeps)):
            raise NotFoundError("the cache is empty", place=str(self.root), hint="steercache build smollm2-concepts")
        with ExitStack() as stack:
            connection = self._fresh_index(stack)
            if connection is None:
                connection = over_files(
                    list(self.run_files()), all_vector_rows(self.paths), list(all_sweep_files(self.paths))
                )
                stack.callback(connection.close)
            yield connection

    def _fresh_index(self, stack: ExitStack) -> Any:
        """The index as a reading connection on `stack`, or None when it cannot be had up to date."""
        for _ in range(2):
            waits = time.monotonic() >= self._held_until
            try:
                with ExitStack() as attempt:
                    wait_s = READER_WAIT_S if waits else 0.0
                    connection = attempt.enter_context(self._reading_index.read(wait_s=wait_s))
                    if is_fresh(self.paths, connection):
                        stack.enter_context(attempt.pop_all())
                        self._held_until = 0.0
                        return connection
            except (BusyError, NoLocksError):
                return self._held(waits)
            except NotFoundError:
                pass  # no index yet: made below
            try:
                if catch_up(self.paths, wait_s=CATCH_UP_WAIT_S if waits else 0.0) is not None:
                    return self._held(waits)
            except UsageError:
                return None  # a root that cannot be written is read from its files
        return None

    def _held(self, waited: bool) -> None:
        """Note that the index was waited for in vain."""
        if waited:
            self._held_until = time.monotonic() + HELD_S


def _name_the_one_that_is_meant(wanted: str, candidates: Sequence[tuple[str, str]]) -> None:
    """Warn where several runs have the name `wanted`; `candidates` are (id, name) pairs, newest first."""
    same = [run_id[:SHORT_ID] for run_id, name in candidates if name == wanted]
    if len(same) > 1:
        older = ", ".join(same[1:])
        message = f"{len(same)} runs are named {wanted!r}: {same[0]}, the newest, is meant; older ones by id: {older}"
        warnings.warn(message, SteercacheWarning, stacklevel=3)


def open_cache(root: Path, *, create: bool = False) -> CacheFolder:
    """Open the cache at `root`; one that mirrors a cache elsewhere is brought up to date.

    Raises:
        NotFoundError: there is no cache and `create` is false.
        UsageError: the folder cannot be made, or cannot hold an index; or the place elsewhere does not answer.
    """
    root = home_expanded(root)
    cache = CacheFolder(root)
    remote = cache.remote
    if remote is not None:
        remote.refresh(create=create)
        return cache
    looks_like_cache = any((root / name).exists() for name in ("runs", "index.duckdb", "vectors", "annotations"))
    if not looks_like_cache:
        if not create:
            raise NotFoundError(
                "no cache here",
                place=str(root),
                hint="name the folder of another cache, or build a run here; create=True makes an empty one",
            )
        make_folder(root / "runs")
    return cache
