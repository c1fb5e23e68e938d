"""Selections over arrays in memory: what the fit tests feed the fitting functions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from steercache.core.selection import QueryRecord, Selection


@dataclass(frozen=True, kw_only=True)
class ArraySource:
    """A RowSource over one (n, d) array per layer, without views."""

    arrays: Mapping[int, np.ndarray]
    run_id: str = "run-0"
    generation: str = "g0001"
    lossy: bool = False

    def layers(self, site: str) -> tuple[int, ...]:
        return tuple(sorted(self.arrays))

    def gather(self, site: str, layer: int, rows: np.ndarray) -> np.ndarray:
        return self.arrays[layer][rows]


@dataclass(frozen=True, kw_only=True)
class ViewedSource(ArraySource):
    """The same, offering views of stretches that begin at `starts`, as a store cut into shards does."""

    starts: tuple[int, ...] = (0,)

    def layer_views(self, site: str, layer: int) -> list[tuple[int, np.ndarray]]:
        ends = (*self.starts[1:], len(self.arrays[layer]))
        return [(a, self.arrays[layer][a:b]) for a, b in zip(self.starts, ends, strict=True)]


@dataclass(frozen=True, kw_only=True)
class CountingSource(ArraySource):
    """The same, remembering the largest gather: what a streaming fit may hold at once."""

    largest: list[int] = field(default_factory=list)

    def gather(self, site: str, layer: int, rows: np.ndarray) -> np.ndarray:
        self.largest.append(len(rows))
        return self.arrays[layer][rows]


def selection(source: Any, rows: np.ndarray, label: np.ndarray, **columns: Any) -> Selection:
    """A selection of `rows`; sentences of eight rows and token ids cycling through 50 unless told otherwise."""
    rows = np.asarray(rows, np.int64)
    known: dict[str, Any] = {
        "sample_idx": rows // 8,
        "position": (rows % 8 + 1).astype(np.int32),
        "token_id": (rows % 50).astype(np.int32),
        "concept": "counting",
    }
    known.update(columns)
    query = known.pop("query", QueryRecord(name="anchors", text="select 1", bindings={"concept": "counting"}))
    return Selection(source=source, query=query, rows=rows, label=np.asarray(label, np.int8), **known)
