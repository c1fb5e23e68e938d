"""Trials on disk: what was tried and every answer it got."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from steercache.cache.handle import Cache
from steercache.cache.sweep_files import ingest_sweep, read_sweep_files
from steercache.core.errors import BusyError
from steercache.core.ids import canonical_json, digest
from steercache.core.trials import Answer, Cell
from steercache.index.schemas import ANSWERS
from steercache.store.durable import make_folder, remove, write_file_atomically


def begin_sweep(cache: Cache, name: str, *, manifest: Mapping[str, Any], cells: Sequence[Cell]) -> str:
    """Write what a sweep is and which cells it asks for, before any answer; returns its id (a digest of its manifest).

    Answers that it has from before stay.
    """
    document = {"name": name, "manifest": dict(manifest)}
    sweep_id = digest(document)
    _write_document(cache, sweep_id, document, cells=cells, status="running")
    return sweep_id


def add_answers(cache: Cache, sweep_id: str, answers: Sequence[Answer]) -> None:
    """Write a part of a sweep's answers, durably; the index takes it in when it is next read."""
    folder = cache.paths.sweep(sweep_id) / "answers"
    make_folder(folder)
    last = max((int(path.stem) for path in folder.glob("*.parquet")), default=0)
    write_file_atomically(folder / f"{last + 1:05}.parquet", _parquet(answers))


def save_sweep(
    cache: Cache,
    name: str,
    *,
    manifest: Mapping[str, Any],
    cells: Sequence[Cell],
    answers: Sequence[Answer],
    status: str = "complete",
) -> str:
    """Write a sweep's manifest, cells and answers, tell the index, and return the sweep's id (a digest of its manifest).

    Written again, it takes the place of itself and of the parts it was written in; `status` is "running" while more answers
    are to come.
    """
    document = {"name": name, "manifest": dict(manifest)}
    sweep_id = digest(document)
    folder = cache.paths.sweep(sweep_id)
    make_folder(folder / "answers")
    whole = folder / "answers" / "00000.parquet"
    write_file_atomically(whole, _parquet(answers))
    _write_document(cache, sweep_id, document, cells=cells, status=status)
    for part in sorted((folder / "answers").glob("*.parquet")):
        if part != whole:
            remove(part)
    try:
        with cache.index.write() as connection:
            ingest_sweep(connection, read_sweep_files(folder))
    except BusyError:
        pass  # the files are the truth: `catch_up` takes them in when the index is free
    return sweep_id


def _write_document(
    cache: Cache, sweep_id: str, document: Mapping[str, Any], *, cells: Sequence[Cell], status: str
) -> None:
    """Write what a sweep is. When it was saved stands beside it and not in it: asked again, it is the same sweep."""
    folder = cache.paths.sweep(sweep_id)
    make_folder(folder)
    beside = {
        "sweep_id": sweep_id,
        "status": status,
        "created_at": datetime.now(UTC).isoformat(timespec="microseconds"),
        "cells": [asdict(c) | {"cell_id": c.cell_id} for c in cells],
    }
    write_file_atomically(folder / "manifest.json", canonical_json({**document, **beside}))


def _parquet(answers: Sequence[Answer]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([asdict(a) for a in answers], schema=ANSWERS), sink, compression="zstd")
    data: bytes = sink.getvalue().to_pybytes()
    return data
