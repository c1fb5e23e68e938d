"""The SQL page: results, and statements of an attacker; each runs in a real process of its own."""

import shutil
import time
from pathlib import Path

import pytest

from steercache.explorer.cells import MAX_BYTES, cells_of
from tests.explorer.small_site import EVIL, Page, Site, Small


def files_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_a_statement_shows_its_rows_escaped(site: Site) -> None:
    answer = site.sql(f"SELECT '{EVIL}' AS \"<b>\", 1.5 AS x, [1, 2, 3, 4, 5, 6, 7, 8] AS l, NULL AS n")
    assert answer.status_code == 200
    page = Page(answer.text)
    assert page.dangers() == []
    assert EVIL in page.text
    assert "<b>" in page.text
    assert "[1, 2, 3, 4, 5, 6, … 8 values]" in page.text
    assert "1 row," in page.text


@pytest.mark.slow
def test_a_named_query_takes_its_parameters(site: Site, small: Small) -> None:
    answer = site.sql("", name="token_frequency", **{"param-top": "2", "param-run": small.text})
    assert answer.status_code == 200, answer.text
    assert "2 rows" in Page(answer.text).text


def test_long_and_many_cells_are_cut() -> None:
    import pyarrow as pa

    long = pa.table(
        {"a": ["x" * 1_000_000], "b": [[[1.0] * 100_000]], "c": [b"\x00" * 300_000], "d": [{"k": "y" * 90_000}]}
    )
    rows, n = cells_of(long)
    assert n == 1
    assert all(len(cell) < 600 for cell in rows[0])
    many = pa.table({"a": ["z" * 390] * 5000})
    rows, n = cells_of(many)
    assert sum(len(cell) for row in rows for cell in row) <= MAX_BYTES
    assert 0 < n < 5000


ATTACKS = [
    "DELETE FROM runs",
    "INSERT INTO runs SELECT * FROM runs",
    "CREATE TABLE x AS SELECT 1",
    "DROP VIEW trials",
    "ATTACH '{root}/other.duckdb' AS x",
    "COPY tokens TO '{root}/stolen.csv'",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_text('{root}/runs')",
    "FROM '/etc/passwd'",
    "SELECT * FROM glob('/*')",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET enable_external_access = true",
    "PRAGMA database_list",
    "EXPORT DATABASE '{root}/x'",
    "SELECT 1; DROP TABLE runs",
    "SELECT getenv('HOME')",
]


@pytest.mark.slow
def test_statements_that_write_or_reach_files_are_refused_and_change_nothing(small: Small, tmp_path: Path) -> None:
    root = tmp_path / "cache"
    shutil.copytree(small.root, root)
    with Site(root) as site:
        site.sql("SELECT 1")
        before = files_of(root)
        for attack in ATTACKS:
            answer = site.sql(attack.format(root=root))
            assert answer.status_code == 400, attack
            assert 'role="alert"' in answer.text, attack
            for secret in ("root:", "Traceback", str(root)):
                shown = Page(answer.text)
                told = " ".join(shown.words).split("Run busy")[0]
                assert secret not in told.replace(attack.format(root=root), ""), attack
        assert files_of(root) == before


@pytest.mark.slow
def test_a_slow_statement_ends_at_its_time_and_a_huge_result_at_its_size(small: Small) -> None:
    with Site(small.root, sql_time_s=1.0) as site:
        begun = time.monotonic()
        slow = site.sql("SELECT count(*) FROM range(10000000000) a, range(1000000) b")
        assert slow.status_code == 400
        assert "stopped after 1 s" in slow.text
        deaf = site.sql(
            "SELECT jaro_similarity(s, reverse(s))"
            " FROM (SELECT string_agg(hash(r.range)::VARCHAR, '') AS s FROM range(300000) r)"
        )
        assert deaf.status_code == 400
        assert time.monotonic() - begun < 60
    with Site(small.root) as site:
        many = site.sql("SELECT range AS i, md5(range::VARCHAR) AS x FROM range(1000000)")
        assert many.status_code == 200
        assert len(many.content) < 2_000_000
        assert "500 rows, the first: there are more" in Page(many.text).text
        wide = site.sql("SELECT string_agg(md5(range::VARCHAR), '') AS x FROM range(1000000)")
        assert wide.status_code in (200, 400)
        assert len(wide.content) < 1_000_000
