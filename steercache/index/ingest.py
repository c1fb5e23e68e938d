"""Take files into the index, and out again. Every function is idempotent and runs inside the caller's transaction.

No primary keys: at 100 million tokens DuckDB's key indexes cost more memory than the data. A row is replaced by deleting
what carries its key and inserting it anew, and a shard that was never taken in needs no deleting.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb

from steercache.core.ids import digest
from steercache.core.layout import ShardRecord
from steercache.index.labels import SAMPLES_OF_SHARDS, TOKENS_OF_SHARDS, relabel_samples, relabel_tokens
from steercache.index.parquet import blaming, check_labels, held, labels_of, rows_of, rows_of_shards, views
from steercache.index.rows import Row, insert, replace
from steercache.index.schemas import ANSWERS, SAMPLES, TOKENS, check_parquet

Connection = duckdb.DuckDBPyConnection
_MODES = """
UPDATE cells SET answer_mode = found.mode, exact = true
FROM (
    SELECT cell_id, arg_min(mode, list_position(['full', 'replay', 'branch'], mode)) AS mode
    FROM answers WHERE sweep_id = ? AND mode IS NOT NULL GROUP BY cell_id
) found
WHERE cells.sweep_id = ? AND cells.cell_id = found.cell_id
"""
_ROWS_AT_ONCE = 1_000_000  # tokens: their sort stays far below the memory limit
_PER_RUN = ("tokens", "samples", "shards", "sites", "codec_errors", "runs")
_OF_A_RUN = ("sites", "codec_errors")  # tables whose rows come with that of a run
PER_SWEEP = ("answers", "searches", "choices", "cells", "sweeps")


def put_run(con: Connection, run: Row) -> None:
    """Insert or replace one run; its shards stay. Keys are columns of `runs`, and `sites` and `codec_errors`: rows of these."""
    run_id = run["run_id"]
    row = {key: value for key, value in run.items() if key not in _OF_A_RUN}
    replace(con, "runs", [row], key=("run_id",))
    for table in _OF_A_RUN:
        con.execute(f"DELETE FROM {table} WHERE run_id = ?", [run_id])
        insert(con, table, [{"run_id": run_id, **one} for one in run.get(table, ())])


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardFiles:
    """One committed shard and its Parquet files."""

    record: ShardRecord
    tokens: Path
    samples: Path


def put_shards(con: Connection, run_id: str, shards: Sequence[ShardFiles], *, annotations: Sequence[Path]) -> None:
    """Take in committed shards of one run, in order: their tokens and samples, with the labels known about them.

    Raises:
        DamagedError: a Parquet file is missing or not what it should be, or two labels claim one sample.
    """
    if not shards:
        return
    labels = labels_of(annotations)
    drop_shards(con, run_id, [shard.record.shard_idx for shard in shards])
    for some in _few_rows(shards):
        _put_tables(con, run_id, some, labels=labels, annotations=annotations)
    rows = [shard_row(run_id, shard.record, files=(shard.tokens, shard.samples)) for shard in shards]
    insert(con, "shards", rows)


def drop_shards(con: Connection, run_id: str, shard_idx: Sequence[int]) -> None:
    """Take shards of a run out; some may not be there."""
    key = {"run": run_id, "shards": list(shard_idx)}
    these = "run_id = $run AND list_contains($shards::INTEGER[], shard_idx)"
    if con.execute(f"SELECT 1 FROM shards WHERE {these} LIMIT 1", key).fetchall():
        for table in ("tokens", "samples", "shards"):
            con.execute(f"DELETE FROM {table} WHERE {these}", key)


def _few_rows(shards: Sequence[ShardFiles]) -> Iterator[list[ShardFiles]]:
    """Consecutive shards that are taken in by one statement: its fixed cost is that of some 30,000 tokens."""
    some: list[ShardFiles] = []
    n_rows = 0
    for shard in shards:
        check_parquet(shard.samples, SAMPLES)
        n_rows += check_parquet(shard.tokens, TOKENS)
        some.append(shard)
        if n_rows >= _ROWS_AT_ONCE:
            yield some
            some, n_rows = [], 0
    if some:
        yield some


def _put_tables(
    con: Connection, run_id: str, shards: Sequence[ShardFiles], *, labels: str, annotations: Sequence[Path]
) -> None:
    samples = rows_of_shards([(s.record.shard_idx, s.samples) for s in shards], SAMPLES)
    tokens = rows_of_shards([(s.record.shard_idx, s.tokens) for s in shards], TOKENS)
    files = [path for shard in shards for path in (shard.tokens, shard.samples)]
    with (
        blaming(*files, *annotations),
        views(con, tokens_file=tokens, all_labels=labels),
        held(con, "samples_file", samples),
    ):
        first, last = con.execute("SELECT min(ordinal), max(ordinal) FROM samples_file").fetchall()[0]
        within = f"ordinal BETWEEN {first or 0} AND {last or 0}"  # row groups of other shards are never read
        with views(con, labels_file=f"FROM all_labels WHERE {within}"):
            check_labels(con, annotations)
            for table, rows in (("samples", SAMPLES_OF_SHARDS), ("tokens", TOKENS_OF_SHARDS)):
                con.execute(f"INSERT INTO {table} BY NAME SELECT $run AS run_id, * FROM ({rows})", {"run": run_id})


def put_shard_rows(con: Connection, run_id: str, rows: Sequence[Row]) -> None:
    """Replace what `shards` says of a run; its tokens and samples stay as they are."""
    con.execute("DELETE FROM shards WHERE run_id = ?", [run_id])
    insert(con, "shards", rows)


def annotate(con: Connection, run_id: str, annotations: Sequence[Path]) -> None:
    """Join a run's labels anew, after they were mended: samples and the roles of their tokens. Only what differs is written."""
    with blaming(*annotations), views(con, labels_file=labels_of(annotations)):
        check_labels(con, annotations)
        relabel_samples(con, run_id)
        relabel_tokens(con, run_id)


def drop_run(con: Connection, run_id: str) -> None:
    """Take a run out. Vectors fitted on it stay."""
    for table in _PER_RUN:
        con.execute(f"DELETE FROM {table} WHERE run_id = ?", [run_id])


def put_vector(con: Connection, row: Row) -> None:
    """Insert or replace one layer of a vector; keys are columns of `vectors`, and `features`: rows of `features` of the whole
    vector, which one of its layers brings."""
    replace(
        con, "vectors", [{key: value for key, value in row.items() if key != "features"}], key=("vector_id", "layer")
    )
    if "features" in row:
        con.execute("DELETE FROM features WHERE vector_id = ?", [row["vector_id"]])
        insert(con, "features", row["features"])


def drop_vector(con: Connection, vector_id: str) -> None:
    """Take a vector out, every layer of it, with the features that were considered for it."""
    for table in ("vectors", "features"):
        con.execute(f"DELETE FROM {table} WHERE vector_id = ?", [vector_id])


def drop_sweep(con: Connection, sweep_id: str) -> None:
    """Take a sweep out, with all that belongs to it."""
    for table in PER_SWEEP:
        con.execute(f"DELETE FROM {table} WHERE sweep_id = ?", [sweep_id])


def put_sweep(con: Connection, sweep: Row) -> None:
    """Insert or replace one sweep; keys are columns of `sweeps`."""
    replace(con, "sweeps", [sweep], key=("sweep_id",))


def put_cells(con: Connection, cells: Iterable[Row]) -> None:
    """Insert or replace settings of sweeps; keys are columns of `cells` (`mode` is `answer_mode`'s older name)."""
    rows = [{"answer_mode" if key == "mode" else key: value for key, value in cell.items()} for cell in cells]
    replace(con, "cells", rows, key=("sweep_id", "cell_id"))


def put_searches(con: Connection, sweep_id: str, rows: Sequence[Row]) -> None:
    """Replace what is known of other ways through a sweep; keys are columns of `searches`."""
    con.execute("DELETE FROM searches WHERE sweep_id = ?", [sweep_id])
    insert(con, "searches", [{"sweep_id": sweep_id, **row} for row in rows])


def put_choices(con: Connection, sweep_id: str, rows: Sequence[Row]) -> None:
    """Replace what the arms of a sweep took; keys are columns of `choices`, but `place`, which is a row's own."""
    con.execute("DELETE FROM choices WHERE sweep_id = ?", [sweep_id])
    insert(con, "choices", [{"sweep_id": sweep_id, "place": at, **row} for at, row in enumerate(rows)])


def put_answers(con: Connection, sweep_id: str, answers: Path) -> None:
    """Take in one part of a sweep's answers, after its cells; `trials` counts them, and `cells` say how they were computed.

    Raises:
        DamagedError: the Parquet file is missing or not what it should be.
    """
    check_parquet(answers, ANSWERS)
    with blaming(answers), views(con, answers_file=rows_of(answers, ANSWERS)):
        con.execute(
            "DELETE FROM answers WHERE sweep_id = ? AND (cell_id, sample_id) IN"
            " (SELECT (cell_id, sample_id) FROM answers_file)",
            [sweep_id],
        )
        con.execute(
            f"INSERT INTO answers BY NAME SELECT ? AS sweep_id, {', '.join(ANSWERS.names)} FROM answers_file",
            [sweep_id],
        )
        con.execute(_MODES, [sweep_id, sweep_id])


def tables_digest(record: ShardRecord) -> str:
    """Digest of what a record says of its Parquet files: equal records have equal tokens and samples."""
    tables = [asdict(file) for file in record.files if file.path.split("/")[0] in ("rows", "samples")]
    return digest({"first_sample": record.first_sample, "n_samples": record.n_samples, "files": tables})


def known_ids(con: Connection) -> dict[str, set[str]]:
    """Ids of the runs, vectors and sweeps that any table has rows of."""
    sources = {
        "run_id": ("runs", "sites", "codec_errors", "shards"),  # tokens and samples come and go with their shards
        "vector_id": ("vectors", "features"),
        "sweep_id": PER_SWEEP,
    }
    found = {}
    for column, tables in sources.items():
        rows = con.execute(" UNION ".join(f"SELECT {column} FROM {table}" for table in tables)).fetchall()
        found[column] = {str(row[0]) for row in rows if row[0] is not None}
    return found


def stored_shards(con: Connection, run_id: str) -> dict[int, dict[str, Any]]:
    """Rows of `shards` of a run, as `shard_row` makes them, by shard."""
    found = con.execute("SELECT * FROM shards WHERE run_id = ?", [run_id])
    names = [column[0] for column in found.description or ()]
    rows = [dict(zip(names, values, strict=True)) for values in found.fetchall()]
    return {row["shard_idx"]: row | {"committed_at": _in_utc(row["committed_at"])} for row in rows}


def _in_utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=UTC)


def shard_row(run_id: str, record: ShardRecord, *, files: Sequence[Path]) -> dict[str, Any]:
    """A shard as a row of `shards`. It was committed when the last of its files was written."""
    committed = max(path.stat().st_mtime for path in files)
    return {
        "run_id": run_id,
        "shard_idx": record.shard_idx,
        "n_rows": record.n_rows,
        "n_bytes": record.n_bytes,
        "digest": record.digest(),
        "tables_digest": tables_digest(record),
        "committed_at": datetime.fromtimestamp(committed, UTC),
        "first_sample": record.first_sample,
        "n_samples": record.n_samples,
        "n_non_finite": record.n_non_finite,
    }
