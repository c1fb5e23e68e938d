"""Taking files in: once, twice, in any order, again from nothing, or not at all."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steercache.core.errors import DamagedError
from steercache.index import ingest
from steercache.index.database import Index
from steercache.index.files import RunFiles, SweepFiles, over_files, rebuild
from steercache.index.ingest import (
    ShardFiles,
    annotate,
    drop_run,
    drop_vector,
    put_answers,
    put_cells,
    put_run,
    put_shards,
    put_sweep,
    put_vector,
)
from steercache.index.schemas import ADDED_LATER, ANNOTATIONS, ANSWERS, TOKENS
from tests.index.contents import MAT, every_table, fill, put_part, some_runs, some_sweeps, some_vectors
from tests.index.small import RUN_A, RUN_B, answer_row, cell_row, span, write_labels, write_sweep


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return Index(tmp_path / "index.duckdb")


@pytest.fixture
def runs(tmp_path: Path) -> list[RunFiles]:
    return some_runs(tmp_path)


@pytest.fixture
def sweeps(tmp_path: Path) -> list[SweepFiles]:
    return some_sweeps(tmp_path)


@pytest.fixture
def filled(index: Index, runs: list[RunFiles], sweeps: list[SweepFiles]) -> dict[str, list[object]]:
    """The tables after everything was taken in."""
    fill(index, runs, some_vectors(), sweeps)
    return tables(index)


def tables(index: Index) -> dict[str, list[object]]:
    with index.read() as con:
        return every_table(con)


def test_what_is_taken_in_can_be_read_back(filled: dict[str, list[object]]) -> None:
    assert {
        name: len(rows) for name, rows in filled.items() if name not in ("schema_migrations", "seen", "sources")
    } == {
        "runs": 2,
        "sites": 4,
        "codec_errors": 2,
        "shards": 4,
        "samples": 6,
        "tokens": 6 + 3 + 8 + 6 + 2 + 3,
        "vectors": 3,
        "features": 0,
        "sweeps": 2,
        "cells": 3,
        "cell_parts": 1,
        "answers": 4,
        "answers_with_cells": 4,
        "answers_with_baseline": 1,
        "trials_with_baseline": 1,
        "trials": 3,
        "gradients": 0,
        "searches": 0,
        "choices": 0,
        "tokens_with_text": 28,
    }


@pytest.mark.parametrize("rows_at_once", [1, 9, 1_000_000])
def test_a_rebuild_equals_what_came_in_piece_by_piece_in_every_table(
    index: Index,
    filled: dict[str, list[object]],
    runs: list[RunFiles],
    sweeps: list[SweepFiles],
    monkeypatch: pytest.MonkeyPatch,
    rows_at_once: int,
) -> None:
    monkeypatch.setattr(ingest, "_ROWS_AT_ONCE", rows_at_once)
    rebuild(index.path, runs, some_vectors(), sweeps)
    rebuilt = tables(index)
    assert rebuilt.keys() == filled.keys()
    for name in filled:
        assert rebuilt[name] == filled[name], name


def test_the_files_read_without_an_index_have_the_same_tables(
    index: Index, filled: dict[str, list[object]], runs: list[RunFiles], sweeps: list[SweepFiles]
) -> None:
    con = over_files(runs, some_vectors(), sweeps)
    found = every_table(con)
    described = {t: con.execute(f"DESCRIBE {t}").fetchall() for t in filled}
    con.close()
    assert found.keys() == filled.keys()
    for name in filled:
        assert found[name] == filled[name], name
    with index.read() as con:
        for name in filled:
            types = [row[:2] for row in con.execute(f"DESCRIBE {name}").fetchall()]
            assert [row[:2] for row in described[name]] == types, name


def test_files_from_before_a_column_was_added_read_the_same_with_null_in_it(
    index: Index, filled: dict[str, list[object]], runs: list[RunFiles], sweeps: list[SweepFiles]
) -> None:
    for path in (path for run in runs for path in run.tokens):
        older = pq.read_table(path.absolute()).drop_columns(sorted(ADDED_LATER & {*TOKENS.names}))
        pq.write_table(older, path.absolute())
    for path in (path for run in runs for path in run.annotations):
        older = pq.read_table(path.absolute()).drop_columns(sorted(ADDED_LATER & {*ANNOTATIONS.names}))
        pq.write_table(older, path.absolute())
    rebuild(index.path, runs, some_vectors(), sweeps)
    con = over_files(runs, some_vectors(), sweeps)
    found = every_table(con)
    con.close()
    assert {*TOKENS.names, *ANSWERS.names, *ANNOTATIONS.names} > ADDED_LATER
    for name in ("tokens", "samples", "runs"):
        assert tables(index)[name] == filled[name] == found[name], name


def test_taking_everything_in_twice_changes_nothing(
    index: Index, filled: dict[str, list[object]], runs: list[RunFiles], sweeps: list[SweepFiles]
) -> None:
    fill(index, runs, some_vectors(), sweeps)
    assert tables(index) == filled


def test_a_shard_that_was_made_again_takes_the_place_of_the_old_one(
    index: Index, filled: dict[str, list[object]], runs: list[RunFiles]
) -> None:
    run = runs[0]
    with index.write() as con:
        con.execute("UPDATE shards SET digest = 'old' WHERE run_id = ?", [RUN_A])
        con.execute("DELETE FROM tokens WHERE position = 1")
        for part in zip(run.shards, run.tokens, run.samples, strict=True):
            put_part(con, run, *part)
    again = tables(index)
    for name in ("tokens", "samples", "shards"):
        assert [row for row in again[name] if RUN_A in row] == [row for row in filled[name] if RUN_A in row], name


def test_settings_put_in_twice_are_there_once_for_each_sweep(index: Index) -> None:
    with index.write() as con:
        for mode in ("replay", "full"):
            put_cells(con, [cell_row("c", "s1", mode=mode), cell_row("c", "s2", mode=mode), cell_row("d", "s1")])
        found = con.execute("SELECT sweep_id, cell_id, answer_mode FROM cells ORDER BY ALL").fetchall()
    assert found == [("s1", "c", "full"), ("s1", "d", None), ("s2", "c", "full")]


def test_cells_say_how_their_answers_were_computed(index: Index, tmp_path: Path) -> None:
    cells = [cell_row(name, "s1") for name in ("both", "read", "failed", "old")]
    told = {"both": ["replay", "full"], "read": ["replay", "replay"], "failed": [None, None]}
    some = [answer_row(c, sample, mode=m) for c, modes in told.items() for sample, m in zip("xy", modes, strict=True)]
    new = write_sweep(tmp_path / "new", "s1", cells, some)
    old = write_sweep(tmp_path / "old", "s1", cells, [answer_row("old", "x")])
    pq.write_table(pq.read_table(old.answers[0]).drop_columns("mode"), old.answers[0])
    with index.write() as con:
        put_cells(con, cells)
        for sweep in (new, old):
            put_answers(con, "s1", sweep.answers[0])
        found = con.execute("SELECT cell_id, answer_mode, exact FROM cells").fetchall()
    assert {cell: (mode, exact) for cell, mode, exact in found} == {
        "both": ("full", True),
        "read": ("replay", True),
        "failed": (None, None),
        "old": (None, None),
    }


def test_answers_of_a_part_written_again_replace_those_of_the_part(index: Index, sweeps: list[SweepFiles]) -> None:
    sweep = sweeps[0]
    with index.write() as con:
        put_sweep(con, sweep.sweep)
        for _ in range(2):
            put_answers(con, "s1", sweep.answers[0])
        trials = con.execute(
            "SELECT cell_id, n, n_failed, n_correct, n_unread, mean_margin FROM trials ORDER BY 1"
        ).fetchall()
    assert trials == [("c0", 1, 0, 1, 0, 1.0), ("c1", 1, 0, 0, 1, -1.0)]


def test_mended_labels_equal_labels_that_were_right_from_the_start(
    index: Index, filled: dict[str, list[object]], runs: list[RunFiles], tmp_path: Path
) -> None:
    row = {
        "sample_id": f"id-{MAT}-False",
        "ordinal": 0,
        "concept": "entity",
        "anchors": [span(MAT, "cat")],
        "meta": "{}",
    }
    mended = write_labels(tmp_path, runs[0].run, "concepts", [row])
    with index.write() as con:
        annotate(con, RUN_A, [mended])
        annotate(con, RUN_A, [mended])
    other = Index(tmp_path / "other.duckdb")
    with other.write() as con:
        for part in zip(runs[0].shards, runs[0].tokens, runs[0].samples, strict=True):
            put_part(con, runs[0], *part)
    expected, found = tables(other), tables(index)
    assert found["samples"] != filled["samples"]
    assert [r for r in found["samples"] if RUN_A in r] == expected["samples"]
    assert [r for r in found["tokens"] if RUN_A in r] == expected["tokens"]
    with index.read() as con:
        anchors = con.execute("SELECT piece FROM tokens WHERE is_anchor").fetchall()
    assert anchors == [("cat",)]


def test_a_sentence_in_two_data_sets_keeps_the_labels_of_each(index: Index, filled: dict[str, list[object]]) -> None:
    assert len(filled["samples"]) == 6
    with index.read() as con:
        found = con.execute(
            "SELECT dataset, concept, count(*) FILTER (is_anchor) FROM samples JOIN tokens USING (run_id, sample_idx)"
            " WHERE text = ? GROUP BY ALL ORDER BY 1",
            [MAT],
        ).fetchall()
    assert found == [("concepts", "spatial", 1), ("other", None, 0)]


def test_dropping_a_run_leaves_the_others_and_the_vectors(index: Index, filled: dict[str, list[object]]) -> None:
    with index.write() as con:
        drop_run(con, RUN_A)
        drop_vector(con, "v2")
    after = tables(index)
    for name in ("runs", "sites", "shards", "samples", "tokens"):
        assert after[name] == [row for row in filled[name] if RUN_B in row], name
    assert len(after["vectors"]) == 2


def test_a_vector_saved_again_replaces_its_layers(index: Index) -> None:
    with index.write() as con:
        for vector in (*some_vectors(), *some_vectors()):
            put_vector(con, vector)
        assert con.execute("SELECT count(*), sum(norm) FROM vectors").fetchall() == [(3, 7.0)]


def test_a_key_that_is_no_column_is_not_dropped_silently(index: Index, runs: list[RunFiles]) -> None:
    with pytest.raises(DamagedError, match="colour"), index.write() as con:
        put_run(con, {**runs[0].run, "colour": "red"})
    assert tables(index)["runs"] == []


@pytest.mark.parametrize("kind", ["tokens", "samples", "annotations"])
@pytest.mark.parametrize("hurt", ["missing", "cut", "other columns"])
def test_a_hurt_parquet_file_is_named_and_nothing_of_the_shard_comes_in(
    index: Index, runs: list[RunFiles], kind: str, hurt: str
) -> None:
    run = runs[0]
    path = getattr(run, kind)[0]
    if hurt == "missing":
        path.unlink()
    elif hurt == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    else:
        path.write_bytes(run.samples[1].read_bytes() if kind != "samples" else run.tokens[0].read_bytes())
    with pytest.raises(DamagedError, match=path.name), index.write() as con:
        put_part(con, run, run.shards[0], run.tokens[0], run.samples[0])
    found = tables(index)
    assert found["tokens"] == found["samples"] == found["shards"] == []


def test_two_labels_for_one_sample_are_an_error_that_names_it(
    index: Index, runs: list[RunFiles], tmp_path: Path
) -> None:
    run = runs[0]
    row = {"sample_id": f"id-{MAT}-False", "ordinal": 0, "concept": "spatial"}
    write_labels(tmp_path, run.run, "concepts", [row, row | {"concept": "entity"}])
    with pytest.raises(DamagedError, match="sample 0 of 'concepts'"), index.write() as con:
        put_part(con, run, run.shards[0], run.tokens[0], run.samples[0])


def test_a_failed_transaction_leaves_the_index_as_it_was(index: Index, filled: dict[str, list[object]]) -> None:
    def drop_and_fail(con: Any) -> None:
        drop_run(con, RUN_A)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), index.write() as con:
        drop_and_fail(con)
    assert tables(index) == filled


def test_of_many_files_the_damaged_one_is_named(index: Index, runs: list[RunFiles]) -> None:
    damaged, *others = runs[0].tokens
    data = damaged.read_bytes()
    footer = data[-8 - pq.read_metadata(damaged).serialized_size :]
    damaged.write_bytes(
        data[:4] + bytes(len(data) - 4 - len(footer)) + footer
    )  # the schema is whole, the pages are not
    assert others
    with pytest.raises(DamagedError, match="not the Parquet rows expected") as caught, index.write() as con:
        put_shards(con, RUN_A, list(runs[0].shard_files()), annotations=runs[0].annotations)
    assert caught.value.place == str(damaged)


def test_hundreds_of_small_shards_come_in_together_within_the_writers_memory(
    index: Index, runs: list[RunFiles]
) -> None:
    (first, *_) = runs[0].shard_files()
    for path in (first.tokens, first.samples):
        for i in range(700):
            path.with_name(f"{i}.copy").hardlink_to(path)
    shards = [
        ShardFiles(
            record=replace(first.record, shard_idx=i),
            tokens=first.tokens.with_name(f"{i}.copy"),
            samples=first.samples.with_name(f"{i}.copy"),
        )
        for i in range(700)
    ]
    with index.write() as con:
        put_run(con, runs[0].run)
        put_shards(con, RUN_A, shards, annotations=())
        found = con.execute("SELECT shard_idx, count(*) FROM tokens GROUP BY ALL ORDER BY ALL").fetchall()
    n_tokens = pq.read_metadata(first.tokens.absolute()).num_rows
    assert found == [(i, n_tokens) for i in range(700)]


def test_shards_of_older_and_newer_files_come_in_together(index: Index, runs: list[RunFiles]) -> None:
    shards = list(runs[0].shard_files())
    older = pq.read_table(shards[0].tokens.absolute())
    pq.write_table(older.drop_columns(["frame"]), shards[0].tokens.absolute())
    with index.write() as con:
        put_run(con, runs[0].run)
        put_shards(con, RUN_A, shards, annotations=runs[0].annotations)
        found = dict(con.execute("SELECT piece, count(*) FROM tokens WHERE shard_idx < 2 GROUP BY ALL").fetchall())
    both = pa.concat_tables([older, pq.read_table(shards[1].tokens.absolute())])
    assert found == Counter(both["piece"].to_pylist())
