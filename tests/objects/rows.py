"""For tests: a generation whose metadata is in a local folder and whose files are in a store that counts requests."""

import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steercache.core.layout import ShardRecord
from steercache.objects.addresses import parse_address
from steercache.objects.blocks import BlockReader
from steercache.objects.folder import FolderStore
from steercache.objects.interface import Fetched, ObjectInfo
from steercache.objects.limit import BlockLimit
from steercache.objects.segments import Segments
from steercache.store.reader import GenerationReader


class CountingStore(FolderStore):
    """A folder that notes every request."""

    def __init__(self, folder: Path) -> None:
        super().__init__(parse_address(f"file://{folder}"))
        self.ranges: list[tuple[str, int, int]] = []
        self.heads: list[str] = []
        self._count = threading.Lock()

    def head(self, path: str) -> ObjectInfo | None:
        with self._count:
            self.heads.append(path)
        return super().head(path)

    def get_range(self, path: str, first: int, n_bytes: int, *, tag: str | None = None) -> Fetched:
        with self._count:
            self.ranges.append((path, first, n_bytes))
        return super().get_range(path, first, n_bytes, tag=tag)

    @property
    def n_bytes(self) -> int:
        return sum(n for _, _, n in self.ranges)

    def forget(self) -> None:
        self.ranges, self.heads = [], []


@dataclass
class Elsewhere:
    """A place whose object `r/...` are a run's files, and readers of it over one folder of blocks."""

    place: Path
    local: Path
    limit: int = 2**30
    store: CountingStore = field(init=False)

    def __post_init__(self) -> None:
        self.store = CountingStore(self.place)
        self.blocks.mkdir(parents=True, exist_ok=True)

    @property
    def blocks(self) -> Path:
        return self.local / "blocks"

    def blocks_reader(self) -> BlockReader:
        segments = Segments(self.blocks)
        return BlockReader(self.store, "r", segments, BlockLimit(segments, self.limit))

    def open(self, name: str, records: tuple[ShardRecord, ...]) -> GenerationReader:
        """A new reader, as a new process has one."""
        return GenerationReader(self.local / name, {r.shard_idx: r for r in records}, elsewhere=self.blocks_reader())

    def used(self) -> int:
        return sum(entry.stat().st_blocks * 512 for entry in Segments(self.blocks).files())


def put_elsewhere(generation: Path, root: Path, **options: Any) -> Elsewhere:
    """Copy a generation to a place, and only its metadata to a local folder."""
    place, local = root / "place", root / "local"
    shutil.copytree(generation, place / "r" / generation.name, dirs_exist_ok=True)
    for path in _metadata(generation):
        target = local / generation.name / path.relative_to(generation)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return Elsewhere(place=place, local=local, **options)


def _metadata(generation: Path) -> Iterator[Path]:
    yield from (path for path in generation.rglob("zarr.json"))
