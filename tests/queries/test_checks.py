"""Each check on files with the very fault that it looks for, and with none of it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steercache.core.layout import NonFinite
from steercache.index.database import Index
from steercache.index.files import RunFiles
from steercache.index.guard import Limits, run_query
from steercache.index.ingest import put_run
from steercache.index.schemas import TOKENS
from steercache.queries.library import load_library
from tests.index.contents import put_part
from tests.index.small import RUN_A, Sentence, run_row, span, write_run

CHECKS = {name: query for name, query in load_library().items() if query.kind == "check"}
MAT = "the cat is on the mat"
GLAD = {"pair_id": "p", "polarity": 1}
GOOD = [
    [Sentence(text=MAT, labels={"concept": "spatial", "anchors": [span(MAT, "on")]}), Sentence(text="two words")],
    [Sentence(text="so glad", labels=GLAD), Sentence(text="so sad", labels=GLAD | {"polarity": -1})],
]


def with_rows(run: RunFiles, change: Callable[[list[dict[str, Any]]], None]) -> RunFiles:
    """Rewrite the first shard's tokens."""
    rows = pq.read_table(run.tokens[0]).to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=TOKENS), run.tokens[0])
    return run


def claim_again(rows: list[dict[str, Any]]) -> None:
    rows[7]["row_idx"] = 3


def leave_a_gap(rows: list[dict[str, Any]]) -> None:
    rows[4]["row_idx"] = rows[5]["row_idx"] = None


def labelled(text: str, **labels: Any) -> list[list[Sentence]]:
    return [[Sentence(text=text, labels={"concept": "c", **labels})], *GOOD[1:]]


def good(folder: Path) -> RunFiles:
    return write_run(folder, run_row(RUN_A, "run"), GOOD)


def lying_record(folder: Path) -> RunFiles:
    run = good(folder)
    return replace(run, shards=(replace(run.shards[0], n_rows=9, n_samples=3), run.shards[1]))


def overflowing_record(folder: Path) -> RunFiles:
    run = good(folder)
    parts = (NonFinite(site="resid_post", layer=1, n_rows=2), NonFinite(site="resid_post", layer=2, n_rows=3))
    return replace(run, shards=(replace(run.shards[0], non_finite=parts), replace(run.shards[1], non_finite=())))


def of(sentences: list[list[Sentence]]) -> Callable[[Path], RunFiles]:
    return lambda folder: write_run(folder, run_row(RUN_A, "run"), sentences)


FAULTS: list[tuple[str, Callable[[Path], RunFiles], list[dict[str, Any]]]] = [
    (
        "check_anchors_missing",
        of(labelled(MAT, anchors=[span(MAT, "on"), {"start": 40, "end": 44}, {"start": 3, "end": 4}])),
        [
            {"sample_idx": 0, "ordinal": 0, "anchor_start": 3, "anchor_end": 4, "anchor": " "},
            {"sample_idx": 0, "ordinal": 0, "anchor_start": 40, "anchor_end": 44, "anchor": ""},
        ],
    ),
    (
        "check_first_position_anchor",
        of(labelled(MAT, anchors=[span(MAT, "the")])),
        [{"sample_idx": 0, "piece": "the", "text": MAT, "dataset": "concepts"}],
    ),
    ("check_duplicate_rows", lambda f: with_rows(good(f), claim_again), [{"row_idx": 3, "n_tokens": 2}]),
    (
        "check_rows_without_tokens",
        lambda f: with_rows(good(f), leave_a_gap),
        [{"shard_idx": 0, "first_row": 4, "n_rows": 2}],
    ),
    (
        "check_shards_rows",
        lying_record,
        [{"shard_idx": 0, "n_rows": 9, "n_rows_found": 8, "n_samples": 3, "n_samples_found": 2}],
    ),
    ("check_non_finite_rows", overflowing_record, [{"shard_idx": 0, "name": "run", "n_non_finite": 5}]),
    (
        "check_pairs",
        of([[Sentence(text="so glad", labels=GLAD), Sentence(text="so happy", labels=GLAD)], *GOOD[:1]]),
        [{"pair_id": "p", "n_positive": 2, "n_negative": 0}],
    ),
]


def offending(name: str, folder: Path, run: RunFiles) -> list[dict[str, Any]]:
    index = Index(folder / "index.duckdb")
    with index.write() as con:
        put_run(con, run.run)
        for part in zip(run.shards, run.tokens, run.samples, strict=True):
            put_part(con, run, *part)
    with index.read() as con:
        found: list[dict[str, Any]] = run_query(con, CHECKS[name].text, {"run": None}, limits=Limits()).to_pylist()
    return found


@pytest.mark.parametrize(("name", "faulty", "expected"), FAULTS, ids=lambda v: v if isinstance(v, str) else "")
def test_a_check_names_the_fault(
    name: str, faulty: Callable[[Path], RunFiles], expected: list[dict[str, Any]], tmp_path: Path
) -> None:
    rows = offending(name, tmp_path, faulty(tmp_path))
    assert [{k: row[k] for k in wanted} for row, wanted in zip(rows, expected, strict=True)] == expected
    assert {row["run_id"] for row in rows} == {RUN_A}


@pytest.mark.parametrize("name", CHECKS)
def test_a_check_is_silent_on_a_sound_run(name: str, tmp_path: Path) -> None:
    assert offending(name, tmp_path, good(tmp_path)) == []


def test_every_check_has_a_fault_that_it_was_seen_to_name() -> None:
    assert {name for name, *_ in FAULTS} == set(CHECKS)
