"""Keep the index equal to the files: add what is missing, drop what is gone.

A build tells the index of its shards once a minute, and nothing else writes rows by itself. Whatever changed (a vector or a
sweep that was saved, a process killed between a commit and the index, an index held by another process, files copied in,
edited or removed by hand) shows in the states of the files (`states`), which are compared before every read. What changed is
read anew, by the functions that a rebuild uses, so that catching up and rebuilding give the same tables.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from steercache.cache.changing import read_while_files_change
from steercache.cache.documents import RunDocument, read_run_document
from steercache.cache.entries import newest_of_each, run_files
from steercache.cache.paths import RootPaths
from steercache.cache.states import (
    ANNOTATIONS,
    UNSETTLED,
    VECTORS,
    FileStates,
    labels_state,
    states_of,
    vector_states,
)
from steercache.cache.sweep_files import MANIFEST, read_sweep_files
from steercache.cache.vector_files import read_vector, vector_rows
from steercache.core.errors import BusyError, DamagedError, NotFoundError
from steercache.core.layout import ShardRecord
from steercache.core.locks import NoLocksError
from steercache.index.database import Index
from steercache.index.files import RunFiles, put_sweep_files
from steercache.index.ingest import (
    ShardFiles,
    annotate,
    drop_run,
    drop_shards,
    drop_sweep,
    drop_vector,
    known_ids,
    put_run,
    put_shard_rows,
    put_shards,
    put_vector,
    shard_row,
    stored_shards,
)
from steercache.index.rows import Row
from steercache.index.seen import SourceState, read_seen, read_sources, write_seen, write_sources

CATCH_UP_WAIT_S = 0.5
_AT_ONCE = 512  # records of shards in memory


def catch_up(paths: RootPaths, *, wait_s: float = CATCH_UP_WAIT_S, settle: bool = True) -> str | None:
    """Bring the index up to date with the files, in one transaction.

    Returns None when it is, or the message that says who holds the index, or that the file system has no locks; then the files
    stay the truth and the next call tries again. Without `settle`, what changed just now is not waited for: the next call looks
    at it again.

    Raises:
        DamagedError: a file that rows are made from is missing or not readable; the index stays as it was.
    """
    return read_while_files_change(paths, lambda states: _catch_up(paths, states, wait_s), settle=settle)


def _catch_up(paths: RootPaths, states: FileStates, wait_s: float) -> str | None:
    try:
        with Index(paths.index, wait_s=wait_s).write() as connection:
            known = read_seen(connection)
            changed = {path for path in states.of.keys() | known.keys() if states.of.get(path) != known.get(path)}
            if changed:
                _take_in(paths, connection, changed)
                write_seen(connection, states.settled)
    except (BusyError, NoLocksError) as error:
        return error.message
    return None


def is_fresh(paths: RootPaths, connection: Any) -> bool:
    """Whether the index that `connection` reads equals the files: a `stat` call for each, and no file is opened."""
    return read_seen(connection) == states_of(paths).of


def _take_in(paths: RootPaths, connection: Any, changed: set[str]) -> None:
    known, before = known_ids(connection), read_sources(connection)
    sources = _runs(paths, connection, changed, known["run_id"], before)
    if VECTORS in changed:
        sources = _vectors(paths, connection, known["vector_id"], sources)
    _sweeps(paths, connection, changed, known["sweep_id"])
    if sources != before:
        write_sources(connection, sources)


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


def _runs(
    paths: RootPaths, connection: Any, changed: set[str], known: set[str], sources: Mapping[str, SourceState]
) -> dict[str, SourceState]:
    """Make the rows of runs equal to their files; returns `sources` with the labels that they were joined with."""
    kept = dict(sources)
    there = {run.folder.name for run in paths.all_runs()}
    for run_id in sorted(there):
        if f"runs/{run_id}" not in changed and ANNOTATIONS not in changed:
            continue
        try:
            files = run_files(paths, read_run_document(paths.run(run_id).document))
            is_new = f"runs/{run_id}" in changed
            rows = _shard_rows(files) if is_new else {}
        except NotFoundError:
            there.discard(run_id)  # removed since it was listed
            continue
        except DamagedError:
            if not _has_document(paths, run_id):
                there.discard(run_id)  # it says of none of its rows whose they are
            continue  # `cache verify` names it; the other runs stay usable
        labels, path = SourceState(labels_state(files.annotations), run_id), labels_path(run_id)
        n_kept = _run(connection, files, rows) if is_new else len(files.shards)
        if n_kept and (kept.get(path) != labels or labels.state == UNSETTLED):
            annotate(connection, run_id, files.annotations)
        kept[path] = labels
    for gone in known - there:
        drop_run(connection, gone)
        kept.pop(labels_path(gone), None)
    return kept


def _has_document(paths: RootPaths, run_id: str) -> bool:
    try:
        read_run_document(paths.run(run_id).document)
    except (DamagedError, NotFoundError):
        return False
    return True


def labels_path(run_id: str) -> str:
    """The path in `sources` of the labels of a run."""
    return f"runs/{run_id}"


def _shard_rows(files: RunFiles) -> dict[int, Row]:
    """What `shards` says of a run by its files, by shard."""
    run_id = files.run["run_id"]
    return {
        shard.record.shard_idx: shard_row(run_id, shard.record, files=(shard.tokens, shard.samples))
        for shard in files.shard_files()
    }


def _run(connection: Any, files: RunFiles, rows: Mapping[int, Row]) -> int:
    """Make the rows of one run equal to its files; returns how many of its shards were there already.

    Tokens and samples are read again where the Parquet files of a shard are others; a compaction leaves them as they are.
    """
    run_id = files.run["run_id"]
    stored = stored_shards(connection, run_id)
    same = {idx for idx, row in stored.items() if idx in rows and _has_same_tables(row, rows[idx])}
    drop_shards(connection, run_id, sorted(stored.keys() - same))
    put_run(connection, files.run)
    new = [at for at, idx in enumerate(rows) if idx not in same]
    for first in range(0, len(new), _AT_ONCE):
        some = [shard for at in new[first : first + _AT_ONCE] for shard in files.shard_files(at, at + 1)]
        put_shards(connection, run_id, some, annotations=files.annotations)
    if any(stored[idx] != rows[idx] for idx in same):
        put_shard_rows(connection, run_id, list(rows.values()))
    return len(same)


def _has_same_tables(stored: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    """Whether a shard's Parquet files are those that were taken in; of an older index, whether its whole record is the same."""
    name = "digest" if stored["tables_digest"] is None else "tables_digest"
    return bool(stored[name] == row[name])


def _vectors(
    paths: RootPaths, connection: Any, known: set[str], sources: Mapping[str, SourceState]
) -> dict[str, SourceState]:
    """Make the rows of vectors equal to their files; only files that changed are read, and those of the same ids."""
    states = vector_states(paths)
    old = {path: source for path, source in sources.items() if path.startswith(f"{VECTORS}/")}
    kept = {path: source for path, source in old.items() if states.get(path) == source.state != UNSETTLED}
    read = {path: read_vector(paths.root / path) for path in states.keys() - kept.keys()}
    kept |= {path: SourceState(states[path], stored.vector.vector_id) for path, stored in read.items()}
    there = {source.id for source in kept.values()}
    stale = {source.id for path, source in old.items() if kept.get(path) != source}
    stale |= {stored.vector.vector_id for stored in read.values()} | (known ^ there)
    for vector_id in sorted(stale):
        drop_vector(connection, vector_id)
    again = {path for path, source in kept.items() if source.id in stale and path not in read}
    read |= {path: read_vector(paths.root / path) for path in again}
    for stored in newest_of_each(read[path] for path in sorted(read)):
        for row in vector_rows(stored):
            put_vector(connection, row)
    return {path: source for path, source in sources.items() if path not in old} | kept


def _sweeps(paths: RootPaths, connection: Any, changed: Iterable[str], known: set[str]) -> None:
    there = {folder.name for folder in paths.sweep_folders() if (folder / MANIFEST).exists()}
    for sweep_id in sorted(there):
        if f"sweeps/{sweep_id}" in changed:
            put_sweep_files(connection, read_sweep_files(paths.sweep(sweep_id)))
    for gone in (
        known - there
    ):  # a folder without a manifest is of a writer that was killed before it said what the sweep is
        drop_sweep(connection, gone)
