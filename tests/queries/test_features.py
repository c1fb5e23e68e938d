"""Features in SQL, in a notebook and in the child of `steercache query`: what is incomplete is named, the index has no copy."""

import json
import shutil
from pathlib import Path

import pytest

from steercache.cache.handle import open_cache
from steercache.core.errors import NotFoundError, QueryError, SteercacheWarning
from steercache.index.features import COMMENTS, describe_relations
from steercache.queries.session import Session, open_session
from tests.queries.small_features import PICTURE_FEATURES, SAE_ID, TEXT_FEATURES

ALL = "SELECT r.name, f.site, f.layer, f.feature, f.row_idx, f.value FROM feature_acts f JOIN runs r USING (run_id)"


def expected() -> list[tuple[str, str, int, int, int, float]]:
    return sorted(
        (name, "resid_post", 1, feature, row, value)
        for name, features in (("text", TEXT_FEATURES), ("pictures", PICTURE_FEATURES))
        for feature, rows in features.items()
        for row, value in rows.items()
    )


def test_every_activation_of_every_encoding_is_a_row(session: Session) -> None:
    assert sorted(session.sql(ALL).fetchall()) == expected()


def test_a_filter_and_an_aggregate_are_those_of_the_planted_features(session: Session) -> None:
    sql = (
        "SELECT feature, count(*), sum(value) FROM feature_acts WHERE sae_id = $sae AND run_id = $run AND row_idx < 64"
    )
    run = session.cache.resolve_run("text")
    found = session.sql(f"{sql} GROUP BY feature ORDER BY feature", sae=SAE_ID, run=run).fetchall()
    small = {f: [v for row, v in rows.items() if row < 64] for f, rows in TEXT_FEATURES.items()}
    assert found == [(f, len(values), pytest.approx(sum(values))) for f, values in small.items()]


def test_the_encodings_are_a_table(session: Session) -> None:
    sql = "SELECT sae, r.name, layer, n_features, n_rows, n_entries, e.complete FROM sae_encodings e JOIN runs r USING (run_id)"
    assert sorted(session.sql(sql).fetchall()) == [
        ("planted", "pictures", 1, 6, 5, 4, True),
        ("planted", "text", 1, 6, 21, 14, True),
    ]
    assert {"feature_acts", "sae_encodings"} <= {name for (name,) in session.sql("SHOW TABLES").fetchall()}


def test_the_reference_describes_every_column_that_a_query_sees(session: Session) -> None:
    for name, about, columns in describe_relations():
        seen = session.sql(f"DESCRIBE {name}").fetchall()
        assert [(column, kind) for column, kind, _ in columns] == [(column, kind) for column, kind, *_ in seen]
        assert COMMENTS[name][1].keys() == {column for column, _, _ in columns}
        assert about
        assert all(text for _, _, text in columns)


def test_which_encoding_is_meant_is_asked_where_several_fit(session: Session) -> None:
    with pytest.raises(QueryError, match="several encodings fit"):
        session.query("feature_rates", feature=0)
    with pytest.raises(NotFoundError, match="no encoding with an SAE named 'other'"):
        session.query("feature_rates", feature=0, sae="other")
    with pytest.raises(NotFoundError, match="'older' is not encoded"):
        session.query("feature_rates", feature=0, run="older")


def test_a_cache_without_encodings_has_an_empty_table(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "root", ignore=shutil.ignore_patterns("sae"))
    bare = open_session(tmp_path / "root")
    assert bare.sql("SELECT count(*) FROM feature_acts").fetchall() == [(0,)]
    assert bare.sql("FROM sae_encodings").fetchall() == []


def test_rows_that_a_lost_file_held_are_named_not_silently_absent(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "root")
    mine = open_session(tmp_path / "root")
    paths = mine.cache.paths.encoding(SAE_ID, mine.cache.resolve_run("text"))
    paths.acts(1).unlink()
    with pytest.warns(SteercacheWarning, match="11 of 21 rows of the run 'text'"):
        rows = mine.sql(ALL).fetchall()
    assert sorted(rows) == [row for row in expected() if row[0] == "pictures" or row[4] < 64]
    assert mine.sql("SELECT count(*) FROM tokens").fetchall(), "a query of something else does not warn"


def test_features_are_never_copied_into_the_index(root: Path) -> None:
    with open_cache(root).index.read() as con:
        names = {name for (name,) in con.execute("SELECT table_name FROM information_schema.tables").fetchall()}
    assert not names & {"feature_acts", "sae_encodings"}


def test_a_person_at_the_terminal_asks_the_same(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from steercache.cli.main import run

    words = ["query", f"{ALL} ORDER BY ALL", "--format", "json", "--root", str(root)]
    assert run(words) == 0
    found = json.loads(capfd.readouterr().out)
    assert [tuple(row.values()) for row in found] == expected()


def test_a_query_file_of_ones_own_has_them_in_its_child_process(root: Path, tmp_path: Path) -> None:
    header = "\n".join(
        (
            "-- name: mine",
            "-- kind: table",
            "-- summary: Rows of a feature.",
            "-- params:",
            "--   feature: {type: integer, help: feature}",
            "--   sae: {type: sae, default: null, help: SAE}",
            "--   run: {type: run, default: null, help: run}",
            "-- returns:",
            "--   row_idx: row",
        )
    )
    sql = (
        "SELECT row_idx FROM feature_acts WHERE sae_id = $sae AND run_id = $run AND feature = $feature ORDER BY row_idx"
    )
    (tmp_path / "mine.sql").write_text(f"{header}\n{sql}\n")
    mine = open_session(root, queries=[tmp_path])
    assert mine.query("mine", feature=0, run="text").fetchall() == [(row,) for row in sorted(TEXT_FEATURES[0])]
    with pytest.raises(QueryError, match="several encodings fit"):
        mine.query("mine", feature=0)
