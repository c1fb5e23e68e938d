"""Keep the index equal to the files: takes in what it has not, drops what is gone.

A build tells the index of its shards once a minute. Whatever was missed (a process killed between a commit and the
index, an index that somebody held, files copied in by hand) shows in the times of a few files and folders, which are compared
before every read.
"""

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from steercache.cache.documents import RunDocument, read_run_document
from steercache.cache.entries import all_vectors, run_files
from steercache.cache.paths import RootPaths
from steercache.cache.sweep_files import SEARCHES, ingest_sweep, read_sweep_files
from steercache.cache.vector_files import vector_rows
from steercache.core.errors import BusyError, DamagedError
from steercache.core.ids import digest
from steercache.core.layout import ShardRecord
from steercache.index.database import Index
from steercache.index.files import RunFiles
from steercache.index.ingest import (
    ShardFiles,
    annotate,
    drop_run,
    drop_vector,
    put_run,
    put_shard_rows,
    put_shards,
    put_vector,
    shard_row,
)
from steercache.index.seen import read_seen, write_seen

CATCH_UP_WAIT_S = 0.5


def catch_up(paths: RootPaths, *, wait_s: float = CATCH_UP_WAIT_S) -> str | None:
    """Bring the index up to date with the files, in one transaction.

    Returns None when it is, or the message that says who holds the index; then the files stay the truth and the next call
    tries again.
    """
    files = files_seen(paths)  # before the work: what changes meanwhile differs next time
    try:
        with Index(paths.index, wait_s=wait_s).write() as connection:
            known = read_seen(connection)
            changed = {path for path in files.keys() | known.keys() if files.get(path) != known.get(path)}
            if changed:
                _runs(paths, connection, changed)
                if any(path.startswith("vectors") for path in changed):
                    _vectors(paths, connection)
                for sweep_id in sorted({path.split("/")[1] for path in changed if path.startswith("sweeps/")}):
                    if (
                        paths.sweep(sweep_id) / "manifest.json"
                    ).exists():  # else its writer was killed before it said what it is
                        ingest_sweep(connection, read_sweep_files(paths.sweep(sweep_id)))
                write_seen(connection, files)
    except BusyError as error:
        return error.message
    return None


def is_fresh(paths: RootPaths, connection: Any) -> bool:
    """Whether the index that `connection` reads equals the files: a handful of stat calls per run."""
    return read_seen(connection) == files_seen(paths)


def files_seen(paths: RootPaths) -> dict[str, int]:
    """Times of change, in ns, of what the index is made from; a folder's changes whenever a file in it appears or goes."""
    found: dict[str, int] = {}
    for run in paths.all_runs():
        for part in (run.document, run.current, *_entries(run.folder / "shards")):
            _see(paths.root, part, found)
    for dataset in _entries(paths.annotations):
        for part in _entries(dataset):
            _see(paths.root, part, found)
    _see(paths.root, paths.vectors, found)
    for sweep in _entries(paths.sweeps):
        for part in (sweep / "manifest.json", sweep / "answers", sweep / SEARCHES):
            _see(paths.root, part, found)
    return found


def add_shards(paths: RootPaths, document: RunDocument, records: Sequence[ShardRecord]) -> str | None:
    """Put shards that were just committed into the index; returns who holds it when it is not free."""
    run = paths.run(document.run_id)
    labels = [paths.annotation(d.dataset, d.inputs_digest) for d in document.datasets]
    shards = [ShardFiles(record=r, tokens=run.tokens(r.shard_idx), samples=run.samples(r.shard_idx)) for r in records]
    try:
        with Index(paths.index, wait_s=CATCH_UP_WAIT_S).write() as connection:
            put_shards(connection, document.run_id, shards, annotations=[a for a in labels if a.exists()])
    except BusyError as error:
        return error.message
    return None


def _entries(folder: Path) -> list[Path]:
    return [Path(e.path) for e in os.scandir(folder)] if folder.is_dir() else []


def _see(root: Path, path: Path, found: dict[str, int]) -> None:
    try:
        found[path.relative_to(root).as_posix()] = path.stat().st_mtime_ns
    except FileNotFoundError:
        return


def _runs(paths: RootPaths, connection: Any, changed: set[str]) -> None:
    known = {row[0] for row in connection.execute("select run_id from runs").fetchall()}
    there = {run.folder.name for run in paths.all_runs()}
    relabelled = {tuple(path.split("/")[1:]) for path in changed if path.startswith("annotations/")}
    for run_id in sorted(there):
        try:
            document = read_run_document(paths.run(run_id).document)
            is_new = any(path.startswith(f"runs/{run_id}/") for path in changed)
            labels = {(d.dataset, f"{d.inputs_digest}.parquet") for d in document.datasets}
            is_relabelled = run_id in known and bool(relabelled & labels)
            files = run_files(paths, document) if is_new or is_relabelled else None
        except DamagedError:
            continue  # `cache verify` names it; the other runs stay usable
        if files is not None and is_new:
            _run(connection, files)
        if files is not None and is_relabelled:
            annotate(connection, run_id, files.annotations)
    for gone in known - there:
        drop_run(connection, gone)


def _run(connection: Any, files: RunFiles) -> None:
    run_id = files.run["run_id"]
    rows = connection.execute("select shard_idx, digest from shards where run_id = ?", [run_id]).fetchall()
    known = dict(rows)
    if set(known) - {record.shard_idx for record in files.shards}:
        drop_run(connection, run_id)  # shards were un-committed: begin again
        known = {}
    put_run(connection, files.run)
    new = [shard for shard in files.shard_files if shard.record.shard_idx not in known]
    put_shards(connection, run_id, new, annotations=files.annotations)
    found = {record.shard_idx: digest(asdict(record)) for record in files.shards if record.shard_idx in known}
    if found != known:  # another generation: other array files, the same tokens and samples
        put_shard_rows(
            connection, run_id, [shard_row(run_id, s.record, files=(s.tokens, s.samples)) for s in files.shard_files]
        )


def _vectors(paths: RootPaths, connection: Any) -> None:
    rows = connection.execute("select vector_id, count(*) from vectors group by vector_id").fetchall()
    known = {row[0] for row in rows}
    stored = all_vectors(paths)
    for item in stored:
        if item.vector.vector_id not in known:
            for row in vector_rows(item):
                put_vector(connection, row)
    for gone in known - {item.vector.vector_id for item in stored}:
        drop_vector(connection, gone)
