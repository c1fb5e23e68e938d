"""The index from nothing but files: rebuilt on disk, or read in memory while another process holds the file."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from operator import and_
from pathlib import Path
from typing import Any, Literal

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as fs

from steercache.core.errors import DamagedError
from steercache.core.layout import ShardRecord
from steercache.index.attach import attach_to_write, logs_of, naming_missing_locks
from steercache.index.database import WRITER, is_busy, naming_damage, reader_config, set_aside
from steercache.index.gate import gate_of, retry, writers_lock
from steercache.index.ingest import (
    ShardFiles,
    drop_sweep,
    put_answers,
    put_cells,
    put_choices,
    put_run,
    put_searches,
    put_shards,
    put_sweep,
    put_vector,
    shard_row,
)
from steercache.index.labels import SAMPLES_OF_RUNS, TOKENS_OF_RUNS
from steercache.index.migrate import migrate
from steercache.index.objects import foreign_objects
from steercache.index.place import duckdb_name
from steercache.index.rows import Row, insert
from steercache.index.schemas import ANNOTATIONS, SAMPLES, TOKENS, check_present
from steercache.index.seen import SourceState, write_seen, write_sources

REBUILD_WAIT_S = 10.0
_SHARD_KEYS = {"run_id": pa.string(), "shard_idx": pa.int32()}
_PER_TRANSACTION = 8  # shards of a rebuild: few enough to keep memory flat, enough to hide the cost of a commit


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFiles:
    """One run as the index needs it: `run` as `put_run` takes it, and the files of each committed shard, in one order.

    `shards` may read a record whenever it is asked for it.
    """

    run: Row
    shards: Sequence[ShardRecord]
    tokens: tuple[Path, ...]
    samples: tuple[Path, ...]
    annotations: tuple[Path, ...]

    def shard_files(self, first: int = 0, end: int | None = None) -> Iterator[ShardFiles]:
        """Each committed shard with its Parquet files, from the one at place `first` to before that at `end`."""
        for at in range(first, len(self.shards) if end is None else min(end, len(self.shards))):
            yield ShardFiles(record=self.shards[at], tokens=self.tokens[at], samples=self.samples[at])


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepFiles:
    """One sweep as the index needs it: rows as `put_sweep`, `put_cells`, `put_searches` and `put_choices` take them, and its
    parts of answers, in order: of answers to one sample in one cell the last counts."""

    sweep: Row
    cells: tuple[Row, ...]
    answers: tuple[Path, ...]
    searches: tuple[Row, ...] = ()
    choices: tuple[Row, ...] = ()


def rebuild(
    path: Path,
    runs: Iterable[RunFiles],
    vectors: Iterable[Row],
    sweeps: Iterable[SweepFiles],
    *,
    seen: Mapping[str, int] | None = None,
    sources: Mapping[str, SourceState] | None = None,
    wait_s: float = REBUILD_WAIT_S,
    on_shards: Callable[[int], None] = lambda n_new: None,
) -> int:
    """Make the index at `path` again, equal to the states `seen` and `sources` of the files.

    Readers keep the old one until the new one takes its name; writers wait. `on_shards` hears of every few shards that came in.
    Returns the number of all.

    Killed anywhere, the old or the new index is there: nothing is written into either once it has its name.

    Raises:
        BusyError: another process has the index open. NoLocksError: the file system has no locks.
        DamagedError: a file that it is made from is missing or not readable; nothing is replaced.
    """
    new, n_shards = path.with_name(path.name + ".new"), 0
    with writers_lock(path, wait_s):
        for leftover in (new, *logs_of(new)):
            leftover.unlink(missing_ok=True)
        try:
            with naming_damage(new), naming_missing_locks(new):
                con = duckdb.connect(duckdb_name(new), config=WRITER)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
        try:
            with naming_damage(new):
                _in_transaction(con, lambda: migrate(con))
                for run in runs:
                    _fill_run(con, run, on_shards)
                    n_shards += len(run.shards)
                _in_transaction(con, lambda: _fill_rest(con, vectors, sweeps))
                _in_transaction(con, lambda: _remember(con, seen or {}, sources or {}))
                con.execute("CHECKPOINT")
        finally:
            con.close()
        _swap(path, new, wait_s)
    return n_shards


def over_files(
    runs: Sequence[RunFiles], vectors: Iterable[Row], sweeps: Iterable[SweepFiles]
) -> duckdb.DuckDBPyConnection:
    """The same tables in memory, over the Parquet files themselves; the caller closes it.

    Raises:
        DamagedError: a Parquet file is missing.
    """
    check_present([path for run in runs for path in (*run.tokens, *run.samples, *run.annotations)])
    con = duckdb.connect(":memory:", config=reader_config())
    migrate(con)
    for run in runs:
        put_run(con, run.run)
        rows = [shard_row(run.run["run_id"], s.record, files=(s.tokens, s.samples)) for s in run.shard_files()]
        insert(con, "shards", rows)
    _fill_rest(con, vectors, sweeps)
    con.register("tokens_file", parquet_dataset(TOKENS, _per_shard(runs, "tokens")))
    con.register("samples_file", parquet_dataset(SAMPLES, _per_shard(runs, "samples")))
    labels = [
        (path, {"run_id": run.run["run_id"], "dataset": path.parent.name}) for run in runs for path in run.annotations
    ]
    con.register(
        "labels_file", parquet_dataset(ANNOTATIONS, labels, keys={"run_id": pa.string(), "dataset": pa.string()})
    )
    _replace_by_view(con, "samples", SAMPLES_OF_RUNS)
    _replace_by_view(con, "tokens", TOKENS_OF_RUNS)
    return con


def _fill_run(con: duckdb.DuckDBPyConnection, run: RunFiles, on_shards: Callable[[int], None]) -> None:
    _in_transaction(con, lambda: put_run(con, run.run))
    for first in range(0, len(run.shards), _PER_TRANSACTION):
        some = list(run.shard_files(first, first + _PER_TRANSACTION))
        fill = partial(put_shards, con, run.run["run_id"], some, annotations=run.annotations)
        _in_transaction(con, fill)
        on_shards(len(some))


def _fill_rest(con: duckdb.DuckDBPyConnection, vectors: Iterable[Row], sweeps: Iterable[SweepFiles]) -> None:
    for vector in vectors:
        put_vector(con, vector)
    for sweep in sweeps:
        put_sweep_files(con, sweep)


def put_sweep_files(con: duckdb.DuckDBPyConnection, sweep: SweepFiles) -> None:
    """Make the rows of one sweep equal to its files, whatever they were before. Raises DamagedError."""
    sweep_id = sweep.sweep["sweep_id"]
    drop_sweep(con, sweep_id)
    put_sweep(con, sweep.sweep)
    put_cells(con, sweep.cells)
    for answers in sweep.answers:
        put_answers(con, sweep_id, answers)
    put_searches(con, sweep_id, sweep.searches)
    put_choices(con, sweep_id, sweep.choices)


def _remember(con: duckdb.DuckDBPyConnection, seen: Mapping[str, int], sources: Mapping[str, SourceState]) -> None:
    write_seen(con, seen)
    write_sources(con, sources)


def _in_transaction(con: duckdb.DuckDBPyConnection, fill: Callable[[], None]) -> None:
    con.execute("BEGIN")
    fill()
    con.execute("COMMIT")


def _swap(path: Path, new: Path, wait_s: float) -> None:
    """Give `new` the name `path`. The old file's log must be gone by then: beside the new file it would be an error."""
    with gate_of(path).hold(path, wait_s):
        if path.exists():
            try:
                with naming_damage(path):
                    foreign = retry(lambda: _open_and_close(path), wait_s=wait_s, again=is_busy)
                if foreign:
                    set_aside(path, foreign)
            except DamagedError:
                path.unlink()
        for log in logs_of(path):
            log.unlink(missing_ok=True)
        for synced in (new, path.parent):
            descriptor = os.open(synced, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
        os.replace(new, path)


def _open_and_close(path: Path) -> list[str]:
    """Find out whether somebody has the file open, and what in it is not ours.

    Without the checkpoint of a last connection, which writes in place.
    """
    con = attach_to_write(path, WRITER, first=["PRAGMA disable_checkpoint_on_shutdown"])
    try:
        return foreign_objects(con, path)
    finally:
        con.close()


def _per_shard(runs: Sequence[RunFiles], kind: Literal["tokens", "samples"]) -> list[tuple[Path, dict[str, Any]]]:
    return [
        (path, {"run_id": run.run["run_id"], "shard_idx": record.shard_idx})
        for run in runs
        for record, path in zip(run.shards, run.tokens if kind == "tokens" else run.samples, strict=True)
    ]


def parquet_dataset(
    schema: pa.Schema, files: Sequence[tuple[Path, Mapping[str, Any]]], *, keys: Mapping[str, pa.DataType] = _SHARD_KEYS
) -> ds.Dataset:
    """Parquet files as one data set with constant columns per file, by which whole files are skipped."""
    whole = schema
    for name, kind in keys.items():
        whole = whole.append(pa.field(name, kind)) if name not in whole.names else whole
    if not files:
        return ds.dataset(whole.empty_table())
    parquet, local = ds.ParquetFileFormat(), fs.LocalFileSystem()
    fragments = []
    for path, values in files:
        constant = [ds.field(name) == pa.scalar(value, keys[name]) for name, value in values.items()]
        expression = reduce(and_, constant) if constant else None
        fragments.append(parquet.make_fragment(str(path.absolute()), filesystem=local, partition_expression=expression))
    return ds.FileSystemDataset(fragments, whole, parquet, local)


def _replace_by_view(con: duckdb.DuckDBPyConnection, table: str, rows: str) -> None:
    """Put a view with the table's columns and comments in the place of an empty table."""
    columns = con.execute(
        "SELECT column_name, data_type, comment FROM duckdb_columns() WHERE table_name = ? ORDER BY column_index",
        [table],
    ).fetchall()
    con.execute(f"DROP TABLE {table}")
    chosen = ", ".join(f"CAST({name} AS {kind}) AS {name}" for name, kind, _ in columns)
    con.execute(f"CREATE VIEW {table} AS SELECT {chosen} FROM ({rows})")
    for name, _, comment in columns:
        con.execute(f"COMMENT ON COLUMN {table}.{name} IS '{comment.replace(chr(39), chr(39) * 2)}'")
