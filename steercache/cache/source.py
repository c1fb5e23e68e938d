"""The rows of one run, opened at first use."""

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, overload

import numpy.typing as npt

from steercache.cache.conventions import conventions_in
from steercache.cache.documents import RunDocument, fitted_on, read_shard_record
from steercache.cache.paths import RunPaths
from steercache.cache.remote import open_rows
from steercache.core.errors import DamagedError, NotFoundError
from steercache.core.layout import ShardRecord
from steercache.core.selection import RowIndex
from steercache.core.vectors import FittedOn
from steercache.store.reader import GenerationReader

_BUILD = "build the run again: that puts its newest whole generation in force, and traces nothing that is there"


def current_generation(paths: RunPaths) -> str:
    """The generation that `CURRENT` names. Raises DamagedError when it names none."""
    try:
        name = paths.current.read_bytes()[:100].decode(errors="replace").strip()
    except FileNotFoundError as error:
        raise DamagedError("CURRENT is missing", place=str(paths.folder), hint=_BUILD) from error
    if not name.isalnum() or not paths.generation(name).is_dir():
        raise DamagedError(
            f"CURRENT names {name!r}, which is not there",
            place=str(paths.folder),
            hint=f"restore {name} from a copy; or remove CURRENT, and {_BUILD}",
        )
    return name


class ShardRecords(Mapping[int, ShardRecord]):
    """The committed shards of a generation; a record is read at first use, so that opening a run is cheap."""

    def __init__(self, paths: RunPaths, generation: str) -> None:
        self._paths, self._generation = paths, generation
        folder = paths.shards(generation)
        names = os.listdir(folder) if folder.is_dir() else ()
        self._shard_idxs = sorted(int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdigit())
        self._known = frozenset(self._shard_idxs)
        self._records: dict[int, ShardRecord] = {}

    def __getitem__(self, shard_idx: int) -> ShardRecord:
        if shard_idx not in self._known:
            raise KeyError(shard_idx)
        if shard_idx not in self._records:
            self._records[shard_idx] = read_shard_record(self._paths.shard(self._generation, shard_idx))
        return self._records[shard_idx]

    def __contains__(self, shard_idx: object) -> bool:
        return shard_idx in self._known

    def __iter__(self) -> Iterator[int]:
        return iter(self._shard_idxs)

    def __len__(self) -> int:
        return len(self._shard_idxs)


class StoredRecords(Sequence[ShardRecord]):
    """Records of the committed shards, in order, each read whenever it is asked for: those of 100,000 shards fill a memory."""

    def __init__(self, paths: RunPaths, generation: str) -> None:
        self._paths, self._generation = paths, generation
        self._shard_idxs = tuple(ShardRecords(paths, generation))

    def __len__(self) -> int:
        return len(self._shard_idxs)

    @overload
    def __getitem__(self, at: int) -> ShardRecord: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[ShardRecord, ...]: ...
    def __getitem__(self, at: int | slice) -> ShardRecord | tuple[ShardRecord, ...]:
        if isinstance(at, slice):
            return tuple(self._read(idx) for idx in self._shard_idxs[at])
        return self._read(self._shard_idxs[at])

    @property
    def shard_idxs(self) -> tuple[int, ...]:
        """The shards, ascending, by the names of their records: nothing is read."""
        return self._shard_idxs

    def _read(self, shard_idx: int) -> ShardRecord:
        return read_shard_record(self._paths.shard(self._generation, shard_idx))


def committed_shards(paths: RunPaths, generation: str) -> tuple[ShardRecord, ...]:
    """Records of the committed shards, in order."""
    return tuple(ShardRecords(paths, generation).values())


def newest_generation(paths: RunPaths, *, n_shards: int) -> str | None:
    """The newest generation that has all `n_shards` shards, else the newest there is: what CURRENT named before it was lost.

    A compaction activates a generation as soon as it is whole. None where there is no generation.
    """
    names = sorted(path.parent.name for path in paths.folder.glob("g[0-9]*/zarr.json"))
    whole = [name for name in names if len(ShardRecords(paths, name)) == n_shards]
    return max(whole or names, default=None)


def readable_shards(paths: RunPaths, generation: str) -> tuple[tuple[ShardRecord, ...], dict[int, DamagedError]]:
    """Records of the committed shards, in order, and what is wrong with those that cannot be read, by shard."""
    shards = ShardRecords(paths, generation)
    records, unreadable = [], {}
    for shard_idx in shards:
        try:
            records.append(shards[shard_idx])
        except DamagedError as error:
            unreadable[shard_idx] = error
    return tuple(records), unreadable


class RunSource:
    """A `core.selection.RowSource` over the current generation of a run."""

    def __init__(self, paths: RunPaths, document: RunDocument) -> None:
        self._paths = paths
        self.document = document
        self._generation = current_generation(paths)
        self._reader: GenerationReader | None = None

    @property
    def run_id(self) -> str:
        return self.document.run_id

    @cached_property
    def fitted_on(self) -> FittedOn:
        """The model whose rows these are, with how its prompts begin, as vectors fitted on them name it."""
        return fitted_on(self.document.model, conventions_in(self._paths.tokens(0)))

    @property
    def n_heads(self) -> int | None:
        """Attention heads of a block of the run's model; None where the run does not say."""
        return self.document.model.n_heads

    @property
    def generation(self) -> str:
        return self._generation

    @property
    def reader(self) -> GenerationReader:
        """The reader of the generation; opened once. One that was compacted and collected since is followed."""
        if self._paths.folder.is_dir() and not self._paths.generation(self._generation).is_dir():
            self._follow()
        if self._reader is None:
            self._reader = self._open(self._generation)
        return self._reader

    def _open(self, generation: str) -> GenerationReader:
        return open_rows(self._paths, generation, ShardRecords(self._paths, generation))

    def _follow(self) -> None:
        """Read the generation in force, which has the same rows.

        Raises:
            NotFoundError: it has lost precision, and nobody who selected rows was told.
        """
        current = current_generation(self._paths)
        reader = self._open(current)
        if reader.lossy and not (self._reader is not None and self._reader.lossy):
            raise NotFoundError(
                f"{self._generation} of the run {self.document.name!r} was collected; {current} is lossy",
                place=str(self._paths.folder),
                hint="select again; a vector fitted then records that its rows are lossy",
            )
        self._generation, self._reader = current, reader

    @property
    def lossy(self) -> bool:
        """Whether values differ from what the model computed (an int8 generation)."""
        return self.reader.lossy

    def layers(self, site: str) -> tuple[int, ...]:
        """Blocks kept for `site`. Raises NotFoundError when the run does not have the site."""
        try:
            return self.document.layout.site(site).layers
        except KeyError as error:
            has = ", ".join(s.site for s in self.document.layout.sites)
            raise NotFoundError(f"the run {self.document.name!r} has no site {site!r}; it has {has}") from error

    def gather(self, site: str, layer: int, rows: RowIndex) -> npt.NDArray[Any]:
        """Rows of one layer in the given order, shape (n, d), as stored."""
        kept = self.layers(site)
        if layer not in kept:
            raise NotFoundError(
                f"layer {layer} is not in the run {self.document.name!r}; it has {_span(kept)} at {site}"
            )
        return self.reader.gather(site, layer, rows)

    def layer_views(self, site: str, layer: int) -> Sequence[tuple[int, npt.NDArray[Any]]]:
        """(first row, rows (n, d)) of every committed shard; empty for a generation whose rows must be decoded."""
        return self.reader.layer_views(site, layer) if self.reader.codec == "raw" else ()

    def close(self) -> None:
        """Let go of the memory maps."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None


def _span(layers: tuple[int, ...]) -> str:
    consecutive = layers == tuple(range(layers[0], layers[-1] + 1))
    return f"layers {layers[0]} to {layers[-1]}" if consecutive else f"layers {', '.join(map(str, layers))}"
