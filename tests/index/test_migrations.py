"""From an empty file, and from every older version with rows in it, to the newest."""

from pathlib import Path

import duckdb
import pytest

from steercache.core.errors import DamagedError
from steercache.index.database import Index
from steercache.index.ingest import put_vector
from steercache.index.migrate import MIGRATIONS, Migration, load_migrations, migrate, version_of
from steercache.index.seen import SourceState, read_seen, read_sources, write_seen, write_sources
from tests.index.small import vector_row

DESIGNED = {
    "runs": "run_id name model_id model_fingerprint backbone_run_id parent_run_id modality dtype hidden_size n_layers"
    " replayable complete generation created_at manifest numerics",
    "sites": "run_id site layer layer_pos width",
    "shards": "run_id shard_idx n_rows n_bytes digest committed_at",
    "samples": "run_id sample_idx sample_id dataset split concept text question choices answer image_digest group_id"
    " batch_no slot padded_len meta",
    "tokens": "run_id sample_idx position row_idx token_id piece char_start char_end kind is_anchor is_control tile"
    " patch_row patch_col",
    "vectors": "vector_id name method concept site layer norm resid_norm auc run_id generation query_name query_text params"
    " control_kind control_seed created_at",
    "features": "sae_id layer feature_idx concept hits score rank rate_anchor rate_control explanation verdict"
    " verdict_digest",
    "cells": "cell_id vector_id layer alpha alpha_unit target site model_id prompt_id answer_mode exact",
    "sweeps": "sweep_id name manifest status",
    "trials": "sweep_id cell_id split n n_failed n_correct",
    "answers": "cell_id sample_id split raw parsed correct margin status error",
}


def shape_of(con: duckdb.DuckDBPyConnection) -> list[tuple[object, ...]]:
    return con.execute(
        "SELECT table_name, column_name, data_type, is_nullable, comment FROM duckdb_columns() WHERE NOT internal ORDER BY ALL"
    ).fetchall()


def newest_shape() -> list[tuple[object, ...]]:
    con = duckdb.connect(":memory:")
    migrate(con)
    shape = shape_of(con)
    con.close()
    return shape


def test_an_empty_file_becomes_the_newest_version(tmp_path: Path) -> None:
    index = Index(tmp_path / "index.duckdb")
    with index.write():
        pass
    with index.read() as con:
        assert version_of(con) == MIGRATIONS[-1].version
        assert [r for r in shape_of(con) if r[0] != "schema_migrations"] == [
            r for r in newest_shape() if r[0] != "schema_migrations"
        ]


@pytest.mark.parametrize("older", [m.version for m in MIGRATIONS[:-1]])
def test_an_older_index_is_brought_up_to_date_by_reading_it_and_keeps_its_rows(older: int, tmp_path: Path) -> None:
    path = tmp_path / "index.duckdb"
    con = duckdb.connect(str(path))
    migrate(con, migrations=MIGRATIONS[:older])
    put_vector(con, vector_row("v", 3))
    assert version_of(con) == older
    con.close()
    with Index(path).read() as read:
        assert version_of(read) == MIGRATIONS[-1].version
        assert shape_of(read) == newest_shape()
        assert read.execute("SELECT vector_id, layer FROM vectors").fetchall() == [("v", 3)]


def test_sweeps_of_an_index_from_before_their_times_were_known_are_read_again() -> None:
    con = duckdb.connect(":memory:")
    migrate(con, migrations=MIGRATIONS[:8])
    write_seen(con, {"sweeps/ab/manifest.json": 1, "runs/one/run.json": 2, "vectors": 3})
    migrate(con, migrations=MIGRATIONS[:22])
    assert read_seen(con) == {"runs/one/run.json": 2, "vectors": 3}
    con.close()


def test_vectors_of_an_index_from_before_their_predictors_were_columns_are_read_again() -> None:
    (number,) = (m.version for m in MIGRATIONS if m.name == "wrong_way")
    con = duckdb.connect(":memory:")
    migrate(con, migrations=MIGRATIONS[: number - 1])
    write_seen(con, {"runs/one": 2, "vectors": 3})
    write_sources(con, {"runs/one": SourceState(1, "one"), "vectors/a.safetensors": SourceState(2, "a")})
    migrate(con)
    assert read_seen(con) == {"runs/one": 2}
    assert read_sources(con) == {"runs/one": SourceState(1, "one")}
    con.close()


def test_a_migration_that_fails_leaves_the_older_version(tmp_path: Path) -> None:
    path = tmp_path / "index.duckdb"
    newer = (
        *MIGRATIONS,
        Migration(version=len(MIGRATIONS) + 1, name="bad", sql="CREATE TABLE a (b INT); SELECT nonsense"),
    )
    con = duckdb.connect(str(path))
    migrate(con)
    con.execute("BEGIN")
    with pytest.raises(duckdb.BinderException):
        migrate(con, migrations=newer)
    con.execute("ROLLBACK")
    con.close()
    with Index(path).read() as read:
        assert shape_of(read) == newest_shape()


def test_an_index_of_a_newer_version_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "index.duckdb"
    con = duckdb.connect(str(path))
    migrate(con, migrations=(*MIGRATIONS, Migration(version=99, name="future", sql="CREATE TABLE things (x INT)")))
    con.close()
    index = Index(path)
    with pytest.raises(DamagedError, match="version 99") as read, index.read():
        pass
    assert "upgrade" in str(read.value)
    with pytest.raises(DamagedError, match="version 99"), index.write():
        pass


def test_migrations_are_numbered_from_one_without_gaps() -> None:
    assert [m.version for m in load_migrations()] == list(range(1, len(MIGRATIONS) + 1))


def test_every_table_and_column_says_what_it_is() -> None:
    con = duckdb.connect(":memory:")
    migrate(con)
    silent = con.execute("SELECT table_name, column_name FROM duckdb_columns() WHERE NOT internal AND comment IS NULL")
    assert silent.fetchall() == []
    silent = con.execute("SELECT table_name FROM duckdb_tables() WHERE NOT internal AND comment IS NULL")
    assert silent.fetchall() == []
    con.close()


@pytest.mark.parametrize("table", DESIGNED)
def test_the_columns_that_the_design_names_are_there(table: str) -> None:
    columns = {column for name, column, *_ in newest_shape() if name == table}
    assert set(DESIGNED[table].split()) <= columns
