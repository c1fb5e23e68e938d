"""An `index.duckdb` that somebody else made: what is in it runs nowhere, and the files make it anew."""

import warnings
from pathlib import Path

import duckdb
import pytest

from steercache.core.errors import SteercacheWarning
from steercache.index.database import ForeignIndexError, Index
from steercache.queries.session import open_session
from tests.index.small import Sentence
from tests.queries.small_cache import add_run

HOSTILE = {
    "view in a table's place": "ALTER TABLE seen RENAME TO seen_2;"
    " CREATE VIEW seen AS SELECT content AS path, 1::BIGINT AS mtime_ns FROM read_text('{secret}')",
    "view of versions": "ALTER TABLE schema_migrations RENAME TO m2;"
    " CREATE VIEW schema_migrations AS SELECT length(content)::INTEGER AS version, 'x' AS name FROM read_text('{secret}')",
    "view beside": "CREATE VIEW more AS SELECT content FROM read_text('{secret}')",
    "trigger": "CREATE TABLE log (content VARCHAR); CREATE TRIGGER t AFTER INSERT ON seen FOR EACH STATEMENT"
    " INSERT INTO log SELECT content FROM read_text('{secret}')",
    "macro": "CREATE MACRO read_seen(x) AS TABLE SELECT content FROM read_text('{secret}')",
    "macro with a plain name": "CREATE MACRO sum_of(x, y) AS x + y",
    "default": "ALTER TABLE seen ALTER COLUMN path SET DEFAULT current_setting('temp_directory')",
    "sequence": "CREATE SEQUENCE s",
    "type": "CREATE TYPE mood AS ENUM ('x')",
    "schema": "CREATE SCHEMA system2; CREATE VIEW system2.duckdb_tables AS SELECT content FROM read_text('{secret}')",
    "changed view": "CREATE OR REPLACE VIEW trials AS SELECT content FROM read_text('{secret}')",
    "extra column": "ALTER TABLE runs ADD COLUMN mine VARCHAR",
    "lost table": "DROP TABLE searches",
    "another database": "DROP VIEW trials; CREATE TABLE trials (i INTEGER)",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    add_run(tmp_path / "cache", "text", [[Sentence(text="plain words")]])
    return tmp_path / "cache"


def spoil(root: Path, sql: str, secret: Path) -> None:
    secret.write_text("the secret")
    con = duckdb.connect(str(root / "index.duckdb"))
    con.execute(sql.format(secret=secret))
    con.close()


@pytest.mark.parametrize("name", HOSTILE)
def test_an_index_with_anything_of_its_own_is_moved_aside_and_made_again(name: str, root: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = open_session(root).sql("SELECT * FROM tokens ORDER BY ALL").fetchall()
    spoil(root, HOSTILE[name], tmp_path / "secret")
    with pytest.raises(ForeignIndexError), Index(root / "index.duckdb").read():
        pass
    with pytest.warns(SteercacheWarning, match="is kept as index.duckdb.aside-"):
        assert open_session(root).sql("SELECT * FROM tokens ORDER BY ALL").fetchall() == before
    assert len(list(root.glob("index.duckdb.aside-*"))) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_session(root).sql("SELECT * FROM tokens ORDER BY ALL").fetchall() == before


def test_a_log_beside_a_received_index_is_looked_at_as_well(root: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("the secret")
    con = duckdb.connect(str(root / "index.duckdb"))
    con.execute("PRAGMA disable_checkpoint_on_shutdown")
    con.execute(f"CREATE VIEW more AS SELECT * FROM read_text('{tmp_path / 'secret'}')")
    con.close()
    assert (root / "index.duckdb.wal").exists()
    with pytest.warns(SteercacheWarning, match="view more"):
        open_session(root).runs()
    assert not (root / "index.duckdb.wal").exists()


def test_a_connection_reaches_no_file_but_its_own(root: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("the secret")
    (root / "inside").write_text("of the cache")
    index = Index(root / "index.duckdb")
    with index.read() as con:
        for path in (tmp_path / "secret", root / "inside"):
            with pytest.raises(duckdb.PermissionException):
                con.execute(f"SELECT * FROM read_text('{path}')").fetchall()
    for sql in (f"SELECT * FROM read_text('{tmp_path / 'secret'}')", "SET memory_limit = '1GB'"):
        with pytest.raises(duckdb.Error), index.write() as con:
            con.execute(sql)


@pytest.mark.parametrize("folder", ["plain", "a[b]c", "it's", "with *"])
def test_a_root_of_any_name_is_indexed(folder: str, tmp_path: Path) -> None:
    add_run(tmp_path / folder, "text", [[Sentence(text="plain words")]])
    assert open_session(tmp_path / folder).runs().fetchall()
