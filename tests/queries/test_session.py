"""`steercache.open`: sql, query, select; bindings, the run that is chosen, and what a selection refuses."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import steercache
from steercache.cache.handle import CacheFolder
from steercache.cache.vectors import list_vectors
from steercache.core.errors import NotFoundError, QueryError
from steercache.core.vectors import SteeringVector
from steercache.index.guard import Limits
from steercache.queries.session import Session, open_session
from tests.index.small import Sentence, span
from tests.queries.small_cache import add_run, value_of

MAT = "the cat is on the mat"
SPATIAL = [[Sentence(text=MAT, labels={"concept": "spatial", "anchors": [span(MAT, "on")]})]]


def test_the_door_of_the_package_opens_a_session(root: Path) -> None:
    assert steercache.open(root).sql("SELECT count(*) AS n FROM runs").fetchall() == [(3,)]


def test_a_result_is_a_relation_that_outlives_the_index(session: Session) -> None:
    relation = session.sql("SELECT piece, position FROM tokens WHERE position < $p ORDER BY ALL", p=2)
    with session.cache.index.write():  # nobody holds the file
        pass
    table = relation.to_arrow_table()
    assert relation.df()["position"].tolist() == relation.pl()["position"].to_list() == table["position"].to_pylist()
    assert relation.filter("piece = 'cat'").fetchall() == [("cat", 1)]


def test_an_error_holds_nothing_of_the_index(session: Session) -> None:
    with pytest.raises(QueryError) as caught:
        session.sql("SELECT vectr FROM vectors")
    with session.cache.index.write():
        pass
    assert "vectr" in caught.value.message


def test_a_query_runs_by_name_by_text_and_with_its_header(session: Session) -> None:
    by_name = session.query("shard_sizes", run="text").fetchall()
    by_header = session.query(session.library["shard_sizes"].text, run="text").fetchall()
    assert by_name == by_header
    assert session.query("SELECT 1 AS one").fetchall() == [(1,)]


@pytest.mark.parametrize("sql", ["", "  \n", ";", "-- only a comment"])
def test_sql_without_a_statement_is_said_to_be_none(session: Session, sql: str) -> None:
    with pytest.raises(QueryError, match="there is no statement") as caught:
        session.sql(sql)
    assert "write a SELECT" in str(caught.value.hint)


def test_a_selection_gathers_the_rows_it_names(session: Session) -> None:
    selection = session.select("anchor_vs_control", concept="spatial", split="train")
    assert selection.rows.tolist() == [1, 2, 3, 4, 5]
    assert selection.label is not None
    assert selection.label.tolist() == [0, 0, 1, 0, 0]
    assert np.array_equal(selection.gather(2), value_of(selection.rows, 2))
    assert selection.concept == "spatial"
    assert selection.query.name == "anchor_vs_control"


def test_a_selection_can_be_made_again_from_its_record(session: Session) -> None:
    first = session.select("anchor_vs_control", concept="spatial", run="text")
    again = session.select(first.query.text, **first.query.bindings)
    assert again.query == first.query
    assert np.array_equal(again.rows, first.rows)


def test_pairs_labels_and_weights_arrive_in_the_order_of_the_rows(session: Session) -> None:
    sql = (
        "SELECT run_id, row_idx, position > 1 AS label, piece AS pair, position * 0.5 AS weight FROM tokens"
        " WHERE run_id = $run AND sample_idx = 0 ORDER BY row_idx DESC"
    )
    selection = session.select(sql, run="text")
    assert selection.rows.tolist() == [0, 1, 2, 3, 4, 5]
    assert selection.label is not None
    assert selection.pair is not None
    assert selection.weight is not None
    assert selection.label.tolist() == [0, 0, 1, 1, 1, 1]
    assert selection.pair.tolist() == [4, 0, 1, 3, 4, 2]  # the cat is on the mat
    assert selection.weight.tolist() == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
    assert selection.query.name is None


def test_contrastive_pairs_are_numbered(session: Session) -> None:
    selection = session.select("contrast_last")
    assert selection.rows.tolist() == [71, 73]
    assert selection.pair is not None
    assert selection.pair.tolist() == [0, 0]


def test_the_rows_of_a_selection_are_the_same_every_time(session: Session) -> None:
    first, second = (session.select("all_rows", run="text") for _ in range(2))
    assert np.array_equal(first.rows, second.rows)
    assert np.all(np.diff(first.rows) > 0)


@pytest.mark.parametrize(
    ("sql", "named"),
    [
        ("SELECT run_id FROM tokens", "row_idx"),
        ("SELECT row_idx FROM tokens", "run_id"),
        ("SELECT run_id, row_idx FROM tokens WHERE row_idx IS NOT NULL", "one run, these rows are of 3"),
        ("SELECT run_id, row_idx FROM tokens WHERE run_id = $run", "1 of the selected rows were not kept"),
        ("SELECT run_id, row_idx FROM tokens WHERE run_id = $run AND row_idx < 0", "no rows"),
        ("SELECT run_id, 3 AS row_idx FROM tokens WHERE run_id = $run", "more than once: 3"),
        ("SELECT $run AS run_id, 999 AS row_idx", "no rows of the run: 999"),
        ("SELECT $run AS run_id, 'x' AS row_idx", "not an integer"),
        ("SELECT $run AS run_id, 1 AS row_idx, 2 AS label", "label is 0 or 1"),
        ("SELECT $run AS run_id, 1 AS row_idx, NULL AS label", "label is 0 or 1"),
        ("SELECT $run AS run_id, 1 AS row_idx, NULL::VARCHAR AS pair", "no pair"),
        ("SELECT $run AS run_id, 1 AS row_idx, -1 AS weight", "weight"),
        ("SELECT $run AS run_id, 1 AS row_idx, 'inf'::FLOAT AS weight", "weight"),
        ("SELECT $run AS run_id, 1 AS row_idx, 'heavy' AS weight", "weight"),
        ("SELECT $run AS run_id, $run AS run_id, 1 AS row_idx", "run_id appears twice"),
    ],
)
def test_rows_that_are_no_selection_are_refused_with_the_reason(session: Session, sql: str, named: str) -> None:
    given = {"run": "text"} if "$run" in sql else {}
    with pytest.raises(QueryError, match=named):
        session.select(sql, **given)


@pytest.mark.parametrize(
    ("columns", "named", "hint"),
    [
        ("1 AS labels, 2.0 AS wieght", "no column labels, wieght", "did you mean label and weight?"),
        ("1 AS LABEL", "no column LABEL", "did you mean label?"),
        (
            "1 AS label, position",
            "no column position; its columns: run_id, row_idx, label, pair, weight",
            "leave it out",
        ),
    ],
)
def test_a_column_that_a_selection_does_not_have_is_named_and_not_dropped(
    session: Session, columns: str, named: str, hint: str
) -> None:
    with pytest.raises(QueryError, match=named) as caught:
        session.select(f"SELECT run_id, row_idx, {columns} FROM tokens WHERE run_id = $run AND row_idx < 3", run="text")
    assert str(caught.value.hint).startswith(hint)


def test_a_table_is_not_a_selection(session: Session) -> None:
    with pytest.raises(QueryError, match="runs_overview is a table"):
        session.select("runs_overview")


def test_a_site_that_the_run_does_not_have_is_named(session: Session) -> None:
    with pytest.raises(NotFoundError, match="attn_out"):
        session.select("all_rows", run="text", site="attn_out")


@pytest.mark.parametrize("wanted", ["text", "id", "prefix"])
def test_a_run_answers_to_name_id_and_prefix(session: Session, text_run: str, wanted: str) -> None:
    run = {"text": "text", "id": text_run, "prefix": text_run[:10]}[wanted]
    assert session.select("all_rows", run=run).run_id == text_run


@pytest.mark.parametrize(
    ("name", "bindings", "named"),
    [
        ("anchor_vs_control", {}, "needs a value for concept"),
        ("anchor_vs_control", {"concept": "spatial", "colour": 1}, "no parameter colour"),
        ("anchor_vs_control", {"concept": 3}, "not a text"),
        ("anchor_vs_control", {"concept": None}, "must have a value"),
        ("every_nth", {"n": "many", "run": "text"}, "not an integer"),
        ("every_nth", {"n": 2.5, "run": "text"}, "not an integer"),
        ("every_nth", {"n": True, "run": "text"}, "not an integer"),
        ("every_nth", {"n": 10**30, "run": "text"}, "not an integer"),
        ("every_nth", {"n": 0, "run": "text"}, "below 1"),
        ("all_rows", {"run": "text", "first_position": "perhaps"}, "not a boolean"),
        ("answers_changed", {"sweep": "trial", "alpha": "big"}, "not a number"),
    ],
)
def test_wrong_bindings_are_named_with_what_is_declared(
    session: Session, name: str, bindings: dict[str, Any], named: str
) -> None:
    with pytest.raises(QueryError, match=named) as caught:
        session.query(name, **bindings)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "bindings", "named"),
    [
        ("all_rows", {"run": "nosuch"}, "no run named 'nosuch'"),
        ("vector_norms", {"vector": "nosuch"}, "no vector named 'nosuch'"),
        ("anchor_vs_control", {"concept": "spatiel"}, "did you mean spatial"),
        ("nosuch", {}, "no query named 'nosuch'"),
    ],
)
def test_what_is_not_there_is_named(session: Session, name: str, bindings: dict[str, Any], named: str) -> None:
    with pytest.raises(NotFoundError, match=named):
        session.query(name, **bindings)


def test_of_several_runs_of_one_model_the_newest_complete_one_is_taken(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    add_run(root, "first", SPATIAL, created_at="2026-01-01T00:00:00+00:00")
    second = add_run(root, "second", SPATIAL, created_at="2026-02-01T00:00:00+00:00")
    add_run(root, "begun", SPATIAL, created_at="2026-03-01T00:00:00+00:00", n_planned=2)
    add_run(root, "seen", SPATIAL, created_at="2026-04-01T00:00:00+00:00", model="seer", modality="multimodal")
    assert open_session(root).select("anchor_vs_control", concept="spatial").run_id == second


def test_runs_of_several_models_are_listed_and_none_is_guessed(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    add_run(root, "small", SPATIAL, model="tiny")
    add_run(root, "large", SPATIAL, model="giant", created_at="2026-03-01T00:00:00+00:00")
    session = open_session(root)
    with pytest.raises(QueryError) as caught:
        session.select("anchor_vs_control", concept="spatial")
    assert all(word in str(caught.value) for word in ("small (tiny)", "large (giant)", "-p run=large"))
    assert session.select("anchor_vs_control", concept="spatial", run="small").rows.tolist() == [1, 2, 3, 4, 5]


def test_a_run_that_is_not_complete_is_not_taken_unasked(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    add_run(root, "begun", SPATIAL, n_planned=2)
    session = open_session(root)
    with pytest.raises(NotFoundError, match="not complete: begun") as caught:
        session.select("anchor_vs_control", concept="spatial")
    assert "-p run=begun" in str(caught.value.hint)
    assert len(session.select("anchor_vs_control", concept="spatial", run="begun")) == 5


def test_an_inline_selection_gets_the_newest_run_too(session: Session, text_run: str) -> None:
    sql = "SELECT run_id, row_idx FROM tokens WHERE run_id = $run AND position = 1"
    assert session.select(sql).run_id == text_run


def test_a_missing_cache_says_how_to_begin(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="create=True"):
        open_session(tmp_path / "nowhere")


def test_limits_of_a_session_hold(root: Path) -> None:
    session = open_session(root, limits=Limits(rows=3))
    with pytest.raises(QueryError, match="more than 3 rows"):
        session.sql("SELECT * FROM tokens")


def test_vectors_are_saved_found_and_used_in_sql(session: Session) -> None:
    vector = session.vector("north-east")
    assert isinstance(vector, SteeringVector)
    sql = "SELECT vector($id, 2) AS v, list_cosine_similarity(vector($id, 0), vector($id, 1)) AS c"
    assert session.sql(sql, id=vector.vector_id).fetchall() == [([3.0, 4.0, 0.0, 0.0], 1.0)]
    with pytest.raises(QueryError, match="no layer 9"):
        session.sql("SELECT vector($id, 9)", id=vector.vector_id)


def test_runs_and_vectors_answer_to_name_and_prefix_in_sql_as_they_do_everywhere(
    session: Session, text_run: str
) -> None:
    vector_id = session.vector("north-east").vector_id
    rows = {
        tuple(session.sql("SELECT activation($run, 'resid_post', 1, 2)", run=run).fetchall()[0][0])
        for run in (text_run, text_run[:12], "text")
    }
    assert rows == {(2.0, 1.0, 2.0, 1.0)}
    directions = {
        tuple(session.sql("SELECT vector($id, 1)", id=wanted).fetchall()[0][0])
        for wanted in (vector_id, vector_id[:12], "north-east")
    }
    assert directions == {(3.0, 4.0, 0.0, 0.0)}


@pytest.mark.parametrize("wanted", ["nosuch", "0" * 64, "../../etc", ""])
@pytest.mark.parametrize(
    ("sql", "there", "hint"),
    [
        ("SELECT vector($wanted, 1)", "there are: east, north-east", "steercache vectors list"),
        ("SELECT activation($wanted, 'resid_post', 1, 1)", "there are: older", "steercache cache status"),
    ],
)
def test_an_unknown_name_in_sql_says_what_there_is(
    session: Session, sql: str, there: str, hint: str, wanted: str
) -> None:
    with pytest.raises(QueryError, match=there) as caught:
        session.sql(sql, wanted=wanted)
    assert caught.value.hint == hint


def test_a_column_of_names_reads_the_list_of_vectors_once_and_one_of_ids_never(
    session: Session, text_run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def counted(noun: str, listing: Any) -> Any:
        def call(*args: Any) -> Any:
            calls.append(noun)
            return listing(*args)

        return call

    monkeypatch.setattr("steercache.queries.values.list_vectors", counted("vectors", list_vectors))
    monkeypatch.setattr(CacheFolder, "documents", counted("runs", CacheFolder.documents))
    sql = "SELECT vector(v, 1), activation($run, 'resid_post', 1, 1) FROM range(9000), (VALUES ($a), ($b)) names(v)"
    ids = [session.vector(name).vector_id for name in ("east", "north-east")]
    calls.clear()
    assert len(session.sql(sql, a=ids[0], b=ids[1], run=text_run).fetchall()) == 18_000
    assert calls == []
    assert len(session.sql(sql, a="east", b=ids[1][:12], run="text").fetchall()) == 18_000
    assert sorted(calls) == ["runs", "vectors"]


@pytest.mark.parametrize("odd", ["seven", [1], 2**70, True, {"a": None}])
def test_provenance_of_odd_types_breaks_no_query(root: Path, tmp_path: Path, odd: Any) -> None:
    shutil.copytree(root, tmp_path / "root")
    session = open_session(tmp_path / "root")
    known = session.vector("north-east")
    wrong = {"control_seed": odd, "control_kind": [odd], "run_id": 3, "generation": 0.5, "query": odd, "params": {}}
    diagnostics = tuple({"layer": layer, "auc": odd, "resid_norm": 2} for layer in known.layers)
    session.save(replace(known, name="odd", provenance=wrong, diagnostics=diagnostics))
    sql = "SELECT control_seed, control_kind, query_name, auc, resid_norm FROM vectors WHERE name = 'odd'"
    assert set(session.sql(sql).fetchall()) == {(None, None, None, None, 2.0)}
    assert session.sql("SELECT count(*) FROM runs").fetchall() == [(3,)]


@pytest.mark.parametrize("run", ["'nosuch'", "'" + "0" * 64 + "'", "'../../etc'"])
def test_activations_of_an_unknown_run_are_a_query_error(session: Session, run: str) -> None:
    with pytest.raises(QueryError):
        session.sql(f"SELECT activation({run}, 'resid_post', 1, 1)")


def test_activations_of_rows_that_are_not_there_are_a_query_error(session: Session, text_run: str) -> None:
    with pytest.raises(QueryError, match="5000"):
        session.sql(f"SELECT activation('{text_run}', 'resid_post', 1, 5000)")
    with pytest.raises(QueryError, match="layer 7"):
        session.sql(f"SELECT activation('{text_run}', 'resid_post', 7, 1)")


def test_runs_lists_them_newest_first(session: Session) -> None:
    assert [row[0] for row in session.runs().fetchall()] == ["pictures", "text", "older"]
