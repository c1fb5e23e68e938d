"""Trials on disk: what was tried and every answer it got.

Several processes may write one sweep. Every change of its folder is made under a lock that the functions here take, so no
caller can forget it: what `add_answers` has returned from stays, whatever is saved afterwards. `answers/00000.parquet` is what
was saved as a whole; the other files there are parts that were added since.
"""

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from steercache.cache.answer_files import merged, read_answers, without, without_cells
from steercache.cache.handle import CacheFolder
from steercache.cache.lock_wait import wait_for_lock
from steercache.cache.rebuild import tell_index
from steercache.cache.sweep_files import MANIFEST, read_sweep_files, write_choices
from steercache.core.errors import DamagedError
from steercache.core.ids import canonical_json, digest
from steercache.core.trials import Answer, Cell, Choice
from steercache.index.schemas import ANSWERS
from steercache.store.durable import make_folder, read_bytes, remove, write_file_atomically

SAVED: Final = "00000.parquet"


def begin_sweep(cache: CacheFolder, name: str, *, manifest: Mapping[str, Any], cells: Sequence[Cell]) -> str:
    """Write what a sweep is and which cells it asks for, before any answer; returns its id (a digest of its manifest).

    Answers and cells that it has from before stay.
    """
    sweep_id = sweep_id_of(name, manifest)
    with _locked(cache, sweep_id) as folder:
        before = _before(folder)
        rows = _cell_rows(cells, before=before.cells)
        _write_document(folder, name, manifest, cells=rows, status="running", whole=before.whole)
    return sweep_id


def add_answers(cache: CacheFolder, sweep_id: str, answers: Sequence[Answer]) -> None:
    """Write a part of a sweep's answers durably, under a new name; the index adds it at the next read."""
    data = _parquet(_table(answers))
    with _locked(cache, sweep_id) as folder:
        number = 1 + max((_number(path) for path in _parts(folder)), default=0)
        write_file_atomically(folder / "answers" / f"{number:05}-{secrets.token_hex(4)}.parquet", data)


def finish_sweep(
    cache: CacheFolder,
    name: str,
    *,
    manifest: Mapping[str, Any],
    cells: Sequence[Cell],
    answers: Sequence[Answer],
    status: str = "complete",
) -> str:
    """Put all answers of a sweep, these and every one that it has already, into one file by cell and sample; returns its id.

    Of two answers to one sample in one cell the one given here stays. Cells that it has from before stay, too.
    """
    sweep_id = sweep_id_of(name, manifest)
    with _locked(cache, sweep_id) as folder:
        parts = _parts(folder)
        every = merged([*(read_answers(path) for path in parts), _table(answers)])
        rows = _cell_rows(cells, before=_before(folder).cells)
        _write_document(folder, name, manifest, cells=rows, status=status, whole=False)
        _save(folder, every, superseded=parts)
    tell_index(cache)
    return sweep_id


def save_sweep(
    cache: CacheFolder,
    name: str,
    *,
    manifest: Mapping[str, Any],
    cells: Sequence[Cell],
    answers: Sequence[Answer],
    status: str = "complete",
) -> str:
    """Write a sweep's manifest, cells and answers as a whole, and return the sweep's id (a digest of its manifest).

    Saved again, the answers take the place of those that this function saved for the same cells before. Those of other cells
    stay, and so do answers that came by `add_answers`, unless one to the same sample in the same cell is given here.
    `status` is "running" while more answers are to come.
    """
    sweep_id = sweep_id_of(name, manifest)
    with _locked(cache, sweep_id) as folder:
        before, table = _before(folder), _table(answers)
        whole = folder / "answers" / SAVED
        parts = {path: read_answers(path) for path in _parts(folder)}
        rest = {path: without(part, table) for path, part in parts.items()}
        if before.whole and whole in parts:
            rest[whole] = without_cells(
                parts[whole], [*(cell.cell_id for cell in cells), *(a.cell_id for a in answers)]
            )
        answered = {cell for part in rest.values() for cell in part["cell_id"].to_pylist()}
        rows = _cell_rows(cells, before=[row for row in before.cells if row["cell_id"] in answered])
        kept = rest.get(whole)
        if kept is not None and kept.num_rows:
            table = merged([kept, table])
        _save(folder, table, superseded=[path for path, part in rest.items() if not part.num_rows])
        saved_whole = before.whole or kept is None or not kept.num_rows
        _write_document(folder, name, manifest, cells=rows, status=status, whole=saved_whole)
    tell_index(cache)
    return sweep_id


def save_choices(cache: CacheFolder, sweep_id: str, choices: Sequence[Choice]) -> None:
    """Store the cell that each arm of a begun sweep chose, replacing the stored choices."""
    with _locked(cache, sweep_id) as folder:
        write_choices(folder, choices)
    tell_index(cache)


def sweep_id_of(name: str, manifest: Mapping[str, Any]) -> str:
    """The id of a sweep: when it was saved, and what was answered, are no part of it."""
    return digest({"name": name, "manifest": dict(manifest)})


@contextmanager
def _locked(cache: CacheFolder, sweep_id: str) -> Iterator[Path]:
    """The folder of a sweep, for the length of one change. The lock is not the one that a whole run of a sweep holds."""
    folder = cache.paths.sweep(sweep_id)
    with wait_for_lock(folder / "answers" / "lock", what=f"the folder of the sweep {sweep_id[:12]}"):
        make_folder(folder / "answers")
        yield folder


def _parts(folder: Path) -> list[Path]:
    """Files of answers in the order in which the index takes them in: of equal ones the last counts."""
    return sorted((folder / "answers").glob("*.parquet"))


def _number(path: Path) -> int:
    number = path.stem.split("-")[0]
    return int(number) if number.isdigit() else 0


def _save(folder: Path, table: pa.Table, *, superseded: Sequence[Path]) -> None:
    """The saved file first, then the removal of what it has; killed in between, the same answers are there twice."""
    whole = folder / "answers" / SAVED
    write_file_atomically(whole, _parquet(table))
    for part in superseded:
        if part != whole:
            remove(part)


@dataclass(frozen=True, slots=True)
class _Before:
    """What a sweep's manifest says already: its cells, and whether the saved answers are those of `save_sweep` alone."""

    cells: tuple[Mapping[str, Any], ...] = ()
    whole: bool = False


def _before(folder: Path) -> _Before:
    """What is there; nothing where the manifest cannot be read: it is written anew."""
    if not (folder / MANIFEST).exists():
        return _Before()
    try:
        cells = read_sweep_files(folder).cells
        whole = json.loads(read_bytes(folder / MANIFEST)).get("saved_whole") is True
    except DamagedError:
        return _Before()
    return _Before(tuple({n: value for n, value in cell.items() if n != "sweep_id"} for cell in cells), whole)


def _cell_rows(cells: Sequence[Cell], *, before: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    found = {cell.cell_id: _cell_row(cell) for cell in cells}
    return [*found.values(), *(row for row in before if row["cell_id"] not in found)]


def _cell_row(cell: Cell) -> dict[str, Any]:
    """A cell as it is stored; a plain one as it was before there were `parts`."""
    row = {**asdict(cell), "cell_id": cell.cell_id}
    if not cell.parts:
        del row["parts"]
    return row


def _write_document(
    folder: Path,
    name: str,
    manifest: Mapping[str, Any],
    *,
    cells: Sequence[Mapping[str, Any]],
    status: str,
    whole: bool,
) -> None:
    """Write what a sweep is. When it was saved stands beside it and not in it: asked again, it is the same sweep."""
    document = {
        "name": name,
        "manifest": dict(manifest),
        "sweep_id": sweep_id_of(name, manifest),
        "status": status,
        "created_at": datetime.now(UTC).isoformat(timespec="microseconds"),
        "cells": list(cells),
        "saved_whole": whole,
    }
    write_file_atomically(folder / MANIFEST, canonical_json(document))


def _table(answers: Sequence[Answer]) -> pa.Table:
    each = {(a.cell_id, a.sample_id): a for a in answers}  # of two to one sample in one cell the last
    return pa.Table.from_pylist([asdict(a) for a in each.values()], schema=ANSWERS)


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    data: bytes = sink.getvalue().to_pybytes()
    return data
