"""Every shipped query on a small cache, against answers worked out by hand; and over the files as over the index."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from steercache.cache.entries import all_sweep_files, all_vector_rows
from steercache.index.files import over_files
from steercache.index.functions import register_functions
from steercache.index.guard import Limits, run_query
from steercache.queries.encoded import CachedFeatures
from steercache.queries.library import load_library
from steercache.queries.session import Session, open_session
from steercache.queries.values import CachedValues
from tests.index.small import vocabulary
from tests.queries.small_cache import value_of
from tests.queries.small_features import SAE_ID

LIBRARY = load_library()
SMALLEST: dict[str, dict[str, Any]] = {  # values for the parameters that have no default
    "anchor_vs_control": {"concept": "spatial"},
    "concept_vs_other_concepts": {"concept": "spatial"},
    "every_nth": {"n": 5, "run": "text"},
    "all_rows": {"run": "text"},
    "token_frequency": {"run": "text"},
    "anchor_tokens": {"concept": "spatial"},
    "layer_cosine": {"vector": "east", "other": "north-east"},
    "projection_by_token": {"vector": "east", "layer": 1},
    "answers_changed": {"sweep": "trial"},
    "drift_rows": {"run": "text", "other": "text"},
    "patch_projections": {"sample": 0, "vector": "east", "layer": 1},
    "vectors_of_two_runs": {"run": "text", "other": "text"},
    "feature_top_tokens": {"feature": 0, "run": "text"},
    "feature_rates": {"feature": 0, "run": "text"},
    "features_of_concept": {"concept": "spatial", "run": "text"},
    "features_on_patches": {"sample": 0, "run": "pictures"},
}
TEXT_ROWS = [*range(11), *range(64, 74)]

# (query, bindings, columns looked at, rows)
CASES: list[tuple[str, dict[str, Any], str, list[tuple[Any, ...]]]] = [
    (
        "anchor_vs_control",
        {"concept": "spatial"},
        "row_idx label",
        [(1, 0), (2, 0), (3, 1), (4, 0), (5, 0), (7, 0), (8, 1), (9, 0), (10, 0)],
    ),
    ("anchor_vs_control", {"concept": "spatial", "split": "test"}, "row_idx label", [(7, 0), (8, 1), (9, 0), (10, 0)]),
    ("anchor_vs_control", {"concept": "counting", "run": "text"}, "row_idx label", [(65, 0), (66, 1)]),
    ("contrast_last", {}, "row_idx label pair", [(71, 1, "pairs:p1"), (73, 0, "pairs:p1")]),
    ("contrast_from_end", {}, "row_idx label pair", [(71, 1, "pairs:p1"), (73, 0, "pairs:p1")]),
    ("contrast_from_end", {"from_end": 1}, "row_idx label pair", [(70, 1, "pairs:p1"), (72, 0, "pairs:p1")]),
    ("concept_vs_other_concepts", {"concept": "spatial"}, "row_idx label", [(3, 1), (8, 1), (66, 0)]),
    ("concept_vs_other_concepts", {"concept": "counting"}, "row_idx label", [(3, 0), (8, 0), (66, 1)]),
    ("image_rows", {}, "row_idx", [(0,), (1,), (2,)]),
    ("image_rows", {"dataset": "other"}, "row_idx", []),
    ("all_rows", {"run": "text"}, "row_idx", [(r,) for r in TEXT_ROWS if r not in (0, 6, 64, 67, 69, 72)]),
    ("all_rows", {"run": "text", "first_position": True}, "row_idx", [(r,) for r in TEXT_ROWS]),
    ("every_nth", {"n": 5, "run": "text"}, "row_idx", [(5,), (10,), (65,), (70,)]),
    (
        "runs_overview",
        {},
        "name modality complete n_samples n_tokens n_rows sites",
        [
            ("older", "text", True, 1, 2, 2, "resid_post x 3"),
            ("pictures", "multimodal", True, 1, 5, 5, "resid_post x 3"),
            ("text", "text", True, 6, 22, 21, "resid_post x 3"),
        ],
    ),
    (
        "concept_counts",
        {"run": "text"},
        "dataset concept split n_samples n_anchors n_controls n_kept",
        [
            ("concepts", None, None, 1, 0, 0, 0),
            ("concepts", "counting", None, 1, 1, 2, 2),
            ("concepts", "spatial", "test", 1, 1, 3, 4),
            ("concepts", "spatial", "train", 1, 1, 4, 5),
            ("pairs", "mood", None, 2, 0, 0, 0),
        ],
    ),
    (
        "anchor_tokens",
        {"concept": "spatial"},
        "piece n_anchor n_sentences n_control",
        [("on", 1, 1, 0), ("under", 1, 1, 0)],
    ),
    (
        "token_frequency",
        {"run": "text", "top": 2},
        "piece n share n_anchor",
        [("be", 2, pytest.approx(2 / 22), 0), ("the", 3, pytest.approx(3 / 22), 0)],
    ),
    (
        "layer_cosine",
        {"vector": "east", "other": "north-east"},
        "layer cosine norm other_norm",
        [(i, pytest.approx(0.6), 2.0, 5.0) for i in range(3)],
    ),
    (
        "vector_norms",
        {"vector": "east"},
        "layer norm norm_ratio auc",
        [(i, 2.0, pytest.approx(0.2), pytest.approx(a)) for i, a in enumerate((0.6, 0.9, 0.8))],
    ),
    (
        "best_layers",
        {"concept": "spatial"},
        "name layer auc norm_ratio",
        [
            ("east", 1, pytest.approx(0.9), pytest.approx(0.2)),
            ("north-east", 0, pytest.approx(0.7), pytest.approx(0.5)),
        ],
    ),
    ("best_layers", {"concept": "none"}, "name", []),
    ("shard_sizes", {"run": "text"}, "shard_idx n_samples n_rows", [(0, 2, 11), (1, 4, 10)]),
    (
        "projection_by_token",
        {"vector": "east", "layer": 1, "concept": "counting"},
        "piece n projection n_anchor",
        [("saw", 1, 65.0, 0), ("two", 1, 66.0, 1)],
    ),
    (
        "projection_by_token",
        {"vector": "east", "layer": 2, "concept": "spatial"},
        "piece n projection",
        [
            *(("bed", 1, 10.0), ("cat", 1, 1.0), ("is", 1, 2.0), ("look", 1, 7.0)),
            *(("mat", 1, 5.0), ("on", 1, 3.0), ("the", 2, 6.5), ("under", 1, 8.0)),
        ],
    ),
    (
        "trials_by_alpha",
        {"sweep": "trial"},
        "vector layer alpha n n_failed accuracy mean_margin",
        [
            (None, None, 0.0, 3, 0, pytest.approx(1 / 3), pytest.approx(-2 / 3)),
            ("east", 1, 0.5, 3, 1, pytest.approx(1 / 3), 0.0),
        ],
    ),
    ("trials_by_alpha", {"sweep": "no such"}, "vector", []),
    (
        "moved_wrong_way",
        {"sweep": "trial"},
        "vector layer alpha split n wrong_way mean_change std_change",
        [("east", 1, 0.5, "test", 2, 0.5, 0.0, 1.5)],
    ),
    ("moved_wrong_way", {"sweep": "no such"}, "vector", []),
    (
        "answers_changed",
        {"sweep": "trial"},
        "vector alpha sample_id before after effect margin_change",
        [
            ("east", 0.5, "q1", "a", "b", "broken", -1.5),
            ("east", 0.5, "q2", "b", "a", "mended", 1.5),
            ("east", 0.5, "q3", "c", None, "changed", None),
        ],
    ),
    (
        "drift_rows",
        {"run": "text", "other": "text"},
        "row_idx other_row_idx sample_idx other_sample_idx role",
        [
            *((r, r, 0, 0, "first" if r == 0 else "anchor" if r == 3 else "text") for r in range(6)),
            *((r, r, 1, 1, "first" if r == 6 else "anchor" if r == 8 else "text") for r in range(6, 11)),
            *((r, r, 2, 2, role) for r, role in ((64, "first"), (65, "text"), (66, "anchor"))),
            *((r, r, 3, 3, role) for r, role in ((67, "first"), (68, "text"))),
            *((r, r, 4, 4, role) for r, role in ((69, "first"), (70, "text"), (71, "text"))),
            *((r, r, 5, 5, role) for r, role in ((72, "first"), (73, "text"))),
        ],
    ),
    ("drift_rows", {"run": "text", "other": "older"}, "row_idx", []),
    (
        "patch_projections",
        {"sample": 0, "vector": "north-east", "layer": 2},
        "row_idx projection norm",
        [(r, pytest.approx((3 * r + 4 * 2) / 5), pytest.approx((r**2 + 4 + 4 * r**2 + 1) ** 0.5)) for r in range(3)],
    ),
    (
        "vectors_of_two_runs",
        {"run": "text", "other": "text"},
        "concept method layer cosine norm other_norm",
        [("spatial", "mean_shift", i, pytest.approx(1), 5.0, 5.0) for i in range(3)],
    ),
    ("words_by_alpha", {"sweep": "trial"}, "alpha", []),
    ("sweeps_overview", {}, "name n_cells n_answers n_failed", [("trial", 2, 6, 1)]),
    (
        "vectors_overview",
        {},
        "name method concept n_layers hidden_size run",
        [(name, "mean_shift", "spatial", 3, 4, "text") for name in ("east", "north-east")],
    ),
    (
        "feature_top_tokens",
        {"feature": 0, "run": "text", "window": 4},
        "value token_text context concept is_anchor row_idx",
        [
            (5.0, "under", "ook [[under]] the", "spatial", True, 8),
            (2.0, "on", " is [[on]] the", "spatial", True, 3),
            (1.0, "two", "saw [[two]] dog", "counting", True, 66),
        ],
    ),
    (
        "feature_top_tokens",
        {"feature": 0, "run": "text", "sae": "planted", "first_position": True, "top": 1, "window": 0},
        "value context position",
        [(99.0, "[[the]]", 0)],
    ),
    ("feature_top_tokens", {"feature": 2, "run": "text"}, "value", []),
    (
        "feature_rates",
        {"feature": 0, "run": "text", "sae": "5ae"},
        "concept role n n_fires rate mean_value",
        [
            ("spatial", "anchor", 2, 2, 1.0, 3.5),
            ("spatial", "control", 7, 0, 0.0, None),
            ("spatial", "first", 2, 1, 0.5, 99.0),
            ("counting", "anchor", 1, 1, 1.0, 1.0),
            ("counting", "control", 1, 0, 0.0, None),
            ("counting", "first", 1, 0, 0.0, None),
            ("mood", "first", 2, 0, 0.0, None),
            ("mood", "text", 3, 0, 0.0, None),
            (None, "first", 1, 0, 0.0, None),
            (None, "text", 1, 0, 0.0, None),
        ],
    ),
    (
        "features_of_concept",
        {"concept": "spatial", "run": "text"},
        "feature rate_anchor rate_control difference n_anchor n_control mean_anchor",
        [(0, 1.0, 0.0, 1.0, 2, 0, 3.5), (1, 1.0, 1.0, 0.0, 2, 7, 0.5)],
    ),
    (
        "features_on_patches",
        {"sample": 0, "run": "pictures"},
        "patch_row patch_col feature value rank row_idx",
        [(0, 0, 2, 1.0, 1, 0), (0, 2, 3, 5.0, 1, 2), (0, 2, 2, 4.0, 2, 2)],
    ),
    (
        "features_on_patches",
        {"sample": 0, "run": "pictures", "feature": 2, "top": 1},
        "patch_col value",
        [(0, 1.0), (2, 4.0)],
    ),
    ("what_replaces_the_grid", {"sweep": "trial"}, "way", []),  # with rows: tests/sweeps/test_shortcuts.py
    *((name, {}, "run_id", []) for name, query in LIBRARY.items() if query.kind == "check"),
]


@pytest.mark.parametrize(
    ("name", "bindings", "columns", "expected"), CASES, ids=lambda v: v if isinstance(v, str) else ""
)
def test_a_shipped_query_gives_the_answer_worked_out_by_hand(
    session: Session, name: str, bindings: dict[str, Any], columns: str, expected: list[tuple[Any, ...]]
) -> None:
    table = session.query(name, **bindings).to_arrow_table()
    rows = [tuple(row[c] for c in columns.split()) for row in table.to_pylist()]
    assert len(rows) == len(expected)
    by_text = sorted(rows, key=repr)
    assert all(any(row == wanted for row in by_text) for wanted in expected), by_text
    assert all(any(row == wanted for wanted in expected) for row in by_text), by_text


@pytest.mark.parametrize("name", LIBRARY)
def test_a_header_says_exactly_the_columns_that_come(session: Session, name: str) -> None:
    table = session.query(name, **SMALLEST.get(name, {})).to_arrow_table()
    assert table.column_names == list(LIBRARY[name].returns)


@pytest.mark.parametrize("name", LIBRARY)
def test_the_files_give_the_same_answer_as_the_index(session: Session, name: str, text_run: str) -> None:
    cache = session.cache
    ids = {row["name"]: row["vector_id"] for row in all_vector_rows(cache.paths)}
    query = LIBRARY[name]
    values = {n: p.default for n, p in query.params.items()} | SMALLEST.get(name, {})
    values |= {n: ids[values[n]] for n, p in query.params.items() if p.type == "vector" and values[n]}
    values |= {n: text_run for n, p in query.params.items() if p.type == "run"}
    values |= {n: SAE_ID for n, p in query.params.items() if p.type == "sae"}

    def answer(con: Any) -> list[Any]:
        known = CachedValues(cache)
        register_functions(con, activation=known.activation, vector=known.vector)
        CachedFeatures(cache).register(con)
        return sorted(run_query(con, query.text, values, limits=Limits()).to_pylist(), key=repr)

    with cache.index.read() as con:
        from_index = answer(con)
    con = over_files(list(cache.run_files()), all_vector_rows(cache.paths), list(all_sweep_files(cache.paths)))
    from_files = answer(con)
    con.close()
    assert from_files == from_index


HOLD = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.readline()"


def test_somebody_elses_shell_on_the_index_stops_no_reader(root: Path, text_run: str) -> None:
    session = open_session(root)
    command = [sys.executable, "-c", HOLD, str(session.cache.index.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        selection = session.select("anchor_vs_control", concept="spatial")
        process.kill()
    assert selection.run_id == text_run
    assert selection.rows.tolist() == [1, 2, 3, 4, 5, 7, 8, 9, 10]


def test_activations_in_sql_are_the_rows_of_the_store(session: Session) -> None:
    sql = "SELECT row_idx, activation(run_id, 'resid_post', 2, row_idx) AS a FROM tokens WHERE run_id = $run ORDER BY row_idx"
    rows = session.sql(sql, run=session.cache.resolve_run("text")).fetchall()
    kept = [(row, values) for row, values in rows if row is not None]
    assert [row for row, _ in kept] == TEXT_ROWS
    assert [values for _, values in kept] == value_of([row for row, _ in kept], 2).tolist()
    assert [values for row, values in rows if row is None] == [None]


def test_token_ids_come_with_a_selection(session: Session) -> None:
    selection = session.select("anchor_vs_control", concept="counting")
    assert selection.token_id.tolist() == [vocabulary("saw"), vocabulary("two")]
    assert selection.position.tolist() == [1, 2]
    assert selection.sample_idx.tolist() == [2, 2]


def test_at_least_twelve_queries_of_every_kind_ship() -> None:
    kinds = [query.kind for query in LIBRARY.values()]
    assert len(kinds) >= 12
    assert min(kinds.count(kind) for kind in ("selection", "table", "check")) >= 5
