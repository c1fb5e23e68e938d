"""Answers that are kept: read before anything is computed, written while it is, so that a killed run loses little."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from steercache.cache.handle import CacheFolder
from steercache.cache.lock import hold_lock
from steercache.cache.sweep_files import read_choices
from steercache.cache.sweeps import add_answers, begin_sweep, finish_sweep, save_choices, sweep_id_of
from steercache.core.errors import DamagedError
from steercache.core.trials import Answer, Cell, Choice, Mode

EVERY_S: Final = 1.0  # between two writings: what a kill may cost, beside the answers being computed
SHARE: Final = 20  # writing takes at most one part in so many of the time
_KEPT: Final = ("damage", "nulls", "panel")
Key = tuple[str, str]  # cell, sample

# Of several sweeps' answers to one sample in one cell whole rows, one for each set of options that their margins are of: with a
# margin, in the mode nearest to a full forward pass, of the sweep that was saved last.
_STORED = """
SELECT a.cell_id, a.sample_id, a.raw, a.margin, a.margin_of, a.mode
FROM answers a
LEFT JOIN sweeps w ON w.sweep_id = a.sweep_id
WHERE a.status = 'ok' AND a.cell_id IN (SELECT unnest($cells))
QUALIFY row_number() OVER (
    PARTITION BY a.cell_id, a.sample_id, a.margin_of
    ORDER BY
        a.margin IS NULL,
        list_position(['full', 'replay', 'branch'], a.mode) NULLS LAST,
        w.created_at DESC NULLS LAST,
        a.sweep_id
) = 1
ORDER BY
    a.margin IS NULL,
    list_position(['full', 'replay', 'branch'], a.mode) NULLS LAST,
    w.created_at DESC NULLS LAST,
    a.sweep_id
"""

_SCORES = """
SELECT cell_id, sample_id, score, mode
FROM answers
WHERE cell_id IN (SELECT unnest($cells)) AND (status = 'failed' OR score IS NOT NULL)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAnswer:
    """What the model wrote to one sample in one cell, how clearly (`margin`, of the options `margin_of`), and how that was
    computed."""

    raw: str
    margin: float | None = None
    margin_of: str | None = None
    mode: Mode | None = None


def stored_answers(
    cache: CacheFolder, cell_ids: Sequence[str], *, margins: Mapping[str, str | None] | None = None
) -> dict[Key, StoredAnswer]:
    """Every answer of these cells in the cache, of any sweep.

    With `margins` (`option_tokens.margins_wanted`) only answers to those samples, with the margin of those options: another
    right answer, or other options, have another margin. None there: no margin is wanted, and none given.
    """
    if not cell_ids or not cache.paths.sweeps.is_dir():
        return {}
    with cache.connection() as con:
        rows = con.execute(_STORED, {"cells": list(cell_ids)}).fetchall()
    found: dict[Key, StoredAnswer] = {}
    for cell, sample, raw, margin, of, mode in rows:
        said = StoredAnswer(raw=raw, margin=margin, margin_of=of, mode=mode)
        if margins is not None:
            if sample not in margins or margins[sample] not in (None, of):
                continue
            if margins[sample] is None:
                said = StoredAnswer(raw=raw, mode=mode)
        found.setdefault((cell, sample), said)
    return found


def stored_scores(cache: CacheFolder, cell_ids: Sequence[str]) -> dict[Key, tuple[float | None, Mode | None]]:
    """Scores of every answer in these cells, None where its forward pass was not finite, and how each was computed."""
    if not cell_ids or not cache.paths.sweeps.is_dir():
        return {}
    with cache.connection() as con:
        rows = con.execute(_SCORES, {"cells": list(cell_ids)}).fetchall()
    return {(cell, sample): (score, mode) for cell, sample, score, mode in rows}


@dataclass(slots=True, kw_only=True)
class SweepWriter:
    """One sweep's answers on their way to disk: in parts as they come, and in one file, by cell and sample, at the end.

    Work on it inside `held`, which keeps a second process from computing the same answers.
    """

    cache: CacheFolder
    name: str
    manifest: Mapping[str, Any]
    cells: dict[str, Cell] = field(default_factory=dict)
    answers: dict[Key, Answer] = field(default_factory=dict)
    _begun: bool = False
    _unwritten: list[Answer] = field(default_factory=list)
    _due: float = field(default_factory=lambda: time.monotonic() + EVERY_S)

    @property
    def sweep_id(self) -> str:
        """The sweep's id, before anything is written too."""
        return sweep_id_of(self.name, self.manifest)

    @property
    def folder(self) -> Path:
        """The sweep's folder."""
        return self.cache.paths.sweep(self.sweep_id)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the sweep for the length of the block; what was answered by its end, or by an error, is written.

        Raises:
            BusyError: another process works on this sweep.
        """
        with hold_lock(self.folder / "lock", what=f"the sweep {self.name}"):
            try:
                yield
            finally:
                self.flush()  # an interrupt costs nothing that was answered

    def ask_for(self, cells: Mapping[str, Cell]) -> None:
        """Say which cells, by id, answers are to come for; before the first of them."""
        if self._begun and cells.keys() <= self.cells.keys():
            return
        self.cells |= cells
        begin_sweep(self.cache, self.name, manifest=self.manifest, cells=list(self.cells.values()))
        self._begun = True

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

    def choose(self, choices: Sequence[Choice]) -> None:
        """Store the cell that each arm chose, replacing the stored choice; called after the first answers.

        Stored details of the same cell (damage, null directions) that are not given now are kept.
        """
        before: dict[tuple[str, str], Choice] = {}
        with suppress(DamagedError):  # written anew
            before = {(one.arm, one.cell_id): one for one in read_choices(self.folder)}
        kept = []
        for one in choices:
            old = before.get((one.arm, one.cell_id))
            known = {} if old is None else {k: v for k, v in old.details.items() if k in _KEPT}
            kept.append(replace(one, details={**known, **one.details}))
        save_choices(self.cache, self.sweep_id, kept)

    def save(self, *, status: str) -> str:
        """Write all there is in its final form, with what other processes added; returns the sweep's id."""
        sweep_id = finish_sweep(
            self.cache,
            self.name,
            manifest=self.manifest,
            cells=list(self.cells.values()),
            answers=list(self.answers.values()),
            status=status,
        )
        self._unwritten = []
        return sweep_id
