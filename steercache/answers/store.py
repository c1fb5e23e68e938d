"""Answers that are kept: read before anything is computed, written while it is, so that a killed run loses little."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from steercache.cache.handle import Cache
from steercache.cache.sweeps import add_answers, begin_sweep, save_sweep
from steercache.core.trials import Answer, Cell, Mode

EVERY_S: Final = 1.0  # between two writings: what a kill may cost, beside the answers being computed
SHARE: Final = 20  # writing takes at most one part in so many of the time
Key = tuple[str, str]  # cell, sample

_STORED = """
SELECT cell_id, sample_id, min(raw) AS raw, min(margin) AS margin, min(mode) AS mode FROM answers
WHERE status = 'ok' AND cell_id IN (SELECT unnest($cells)) GROUP BY cell_id, sample_id
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What the model wrote to one sample in one cell, how clearly, and how that was computed."""

    raw: str
    margin: float | None = None
    mode: Mode | None = None


def stored_answers(cache: Cache, cell_ids: Sequence[str]) -> dict[Key, Said]:
    """Every answer the cache has in these cells, whichever sweep asked for it."""
    if not cell_ids or not cache.paths.sweeps.is_dir():
        return {}
    with cache.connection() as con:
        rows = con.execute(_STORED, {"cells": list(cell_ids)}).fetchall()
    return {(cell, sample): Said(raw=raw, margin=margin, mode=mode) for cell, sample, raw, margin, mode in rows}


@dataclass(slots=True, kw_only=True)
class SweepWriter:
    """One sweep's answers on their way to disk: in parts as they come, and in one file, by cell and sample, at the end."""

    cache: Cache
    name: str
    manifest: Mapping[str, Any]
    cells: dict[str, Cell] = field(default_factory=dict)
    answers: dict[Key, Answer] = field(default_factory=dict)
    sweep_id: str = ""
    _unwritten: list[Answer] = field(default_factory=list)
    _due: float = field(default_factory=lambda: time.monotonic() + EVERY_S)

    def ask_for(self, cells: Mapping[str, Cell]) -> None:
        """Say which cells, by id, answers are to come for; before the first of them."""
        if self.sweep_id and cells.keys() <= self.cells.keys():
            return
        self.cells |= cells
        self.sweep_id = begin_sweep(self.cache, self.name, manifest=self.manifest, cells=list(self.cells.values()))

    def add(self, answers: Sequence[Answer]) -> None:
        """Take answers in; what came since the last writing is written every so often. Those added at once stay together."""
        self.answers |= {(a.cell_id, a.sample_id): a for a in answers}
        self._unwritten += answers
        if time.monotonic() >= self._due:
            self.flush()

    def flush(self) -> None:
        """Write what has come since the last time."""
        if not self._unwritten:
            return
        start = time.monotonic()
        add_answers(self.cache, self.sweep_id, self._unwritten)
        self._unwritten = []
        took = time.monotonic() - start
        self._due = time.monotonic() + max(EVERY_S, SHARE * took)

    def save(self, *, status: str) -> str:
        """Write all there is in its final form; returns the sweep's id."""
        self._unwritten = []
        ordered = [answer for _, answer in sorted(self.answers.items())]
        return save_sweep(
            self.cache,
            self.name,
            manifest=self.manifest,
            cells=list(self.cells.values()),
            answers=ordered,
            status=status,
        )
