"""`steercache query` as it is typed: formats read back by pyarrow, errors with their exit codes, and hostile SQL."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from steercache.cli.query import query
from steercache.core.errors import NotFoundError, QueryError, UsageError

TOKENS = "SELECT piece, position, row_idx FROM tokens WHERE run_id = $run ORDER BY sample_idx, position"


def run(root: Path, *words: str) -> Result:
    return CliRunner().invoke(query, [*words, "--root", str(root)])


def failed(root: Path, *words: str) -> BaseException:
    result = run(root, *words)
    assert result.exception is not None
    return result.exception


@pytest.fixture
def expected(text_run: str, root: Path) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = json.loads(run(root, TOKENS, "-p", f"run={text_run}", "--json").stdout)
    assert len(rows) == 22
    assert rows[1] == {"piece": "cat", "position": 1, "row_idx": 1}
    assert rows[14] == {"piece": "dogs", "position": 3, "row_idx": None}
    return rows


def test_every_format_goes_to_a_file_and_is_read_back(
    root: Path, text_run: str, expected: list[dict[str, object]], tmp_path: Path
) -> None:
    for name in ("csv", "json", "jsonl", "parquet", "arrow"):
        out = tmp_path / f"out.{name}"
        result = run(root, TOKENS, "-p", f"run={text_run}", "--format", name, "-o", str(out))
        assert result.exit_code == 0, result.output
        assert result.stdout == ""
        assert "22 rows" in result.stderr
    assert pq.read_table(tmp_path / "out.parquet").to_pylist() == expected
    with pyarrow.ipc.open_stream(tmp_path / "out.arrow") as stream:
        assert stream.read_all().to_pylist() == expected
    assert json.loads((tmp_path / "out.json").read_text()) == expected
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == expected
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text(), newline="")))
    assert [row["piece"] for row in rows] == [row["piece"] for row in expected]
    assert rows[14]["row_idx"] == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        f"out.{n}" for n in ("arrow", "csv", "json", "jsonl", "parquet")
    ]


def test_formats_go_to_stdout_too(root: Path, text_run: str, expected: list[dict[str, object]]) -> None:
    given = ("-p", f"run={text_run}", "--format")
    assert pq.read_table(io.BytesIO(run(root, TOKENS, *given, "parquet").stdout_bytes)).to_pylist() == expected
    assert pyarrow.ipc.open_stream(run(root, TOKENS, *given, "arrow").stdout_bytes).read_all().to_pylist() == expected
    assert [json.loads(line) for line in run(root, TOKENS, *given, "jsonl").stdout.splitlines()] == expected


def test_a_table_shows_the_first_rows_and_says_that_there_are_more(root: Path) -> None:
    result = run(root, "SELECT range AS n FROM range(1000)")
    assert [line.strip() for line in result.stdout.splitlines()[2:]] == [str(n) for n in range(20)]
    assert "first 20 rows" in result.stderr
    assert len(run(root, "SELECT range AS n FROM range(1000)", "--limit", "3").stdout.splitlines()) == 5


def test_cells_of_a_table_are_text_and_never_markup(root: Path) -> None:
    assert "[/b] [red]" in run(root, "SELECT '[/b] [red]' AS piece").stdout


def test_a_query_comes_by_name_from_a_file_or_as_text(root: Path, tmp_path: Path) -> None:
    by_name = run(root, "anchor_tokens", "-p", "concept=spatial", "--json").stdout
    (tmp_path / "mine.sql").write_text("SELECT $n + 1 AS m")
    assert [row["piece"] for row in json.loads(by_name)] == ["on", "under"]
    assert json.loads(run(root, "-f", str(tmp_path / "mine.sql"), "-p", "n=2", "--json").stdout) == [{"m": 3}]


def test_the_library_is_listed_and_shown(root: Path) -> None:
    listed = run(root, "--list").stdout
    assert "anchor_vs_control" in listed
    assert "[split]" in listed
    names = {entry["name"] for entry in json.loads(run(root, "--list", "--json").stdout)}
    assert {"anchor_vs_control", "check_pairs", "runs_overview"} <= names
    assert run(root, "--show", "check_pairs").stdout.startswith("-- name: check_pairs\n")


@pytest.mark.parametrize(
    ("words", "kind", "named"),
    [
        ((), UsageError, "a query's name"),
        (("all_rows", "-f", "x.sql"), UsageError, "a query's name"),
        (("SELECT 1", "--format", "table", "-o", "x.txt"), UsageError, "table"),
        (("anchor_tokens", "-p", "concept"), UsageError, "NAME=VALUE"),
        (("anchor_tokens", "-p", "concept=a", "-p", "concept=b"), UsageError, "twice"),
        (("SELECT 1", "--format", "csv", "-o", "/nowhere/at/all.csv"), UsageError, "cannot be written"),
        (("anchor_tokns",), NotFoundError, "anchor_tokns"),
        (("--show", "anchor_tokns"), NotFoundError, "anchor_tokens"),
        (("-f", "no.sql"), NotFoundError, "no.sql"),
        (("anchor_tokens",), QueryError, "needs a value for concept"),
        (("anchor_tokens", "-p", "concpt=x"), QueryError, "its parameters: concept"),
        (("token_frequency", "-p", "top=many", "-p", "run=text"), QueryError, "not an integer"),
        (("SELECT $a", "-p", "b=1"), QueryError, "no value for $a"),
        (("COPY tokens TO 'x.csv'",), QueryError, "COPY"),
        (("SELECT * FROM read_text('/etc/passwd')",), QueryError, "read_text"),
        (("SELEC 1",), QueryError, "syntax"),
    ],
)
def test_what_is_wrong_is_said(root: Path, words: tuple[str, ...], kind: type[Exception], named: str) -> None:
    error = failed(root, *words)
    assert type(error) is kind
    assert named in str(error)


def test_a_query_that_fails_leaves_the_file_that_was_there(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    out.write_text("before")
    sql = "SELECT CASE WHEN range > 150000 THEN error('late') ELSE 'x' END AS a FROM range(200000)"
    assert "late" in str(failed(root, sql, "--format", "csv", "-o", str(out)))
    assert out.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["out.csv"]


def steercache(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "steercache.cli.main", "query", *words, "--root", str(root)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=100)


@pytest.mark.parametrize(
    ("sql", "error"),
    [
        ("SELECT * FROM tokns", "error: Catalog Error"),
        ("SELECT activation('x', 'resid_post', 1, 1)", "error: no run named 'x'"),
    ],
)
def test_an_error_at_the_terminal_is_a_message_and_an_exit_code(root: Path, sql: str, error: str) -> None:
    result = steercache(root, sql)
    assert result.returncode == 3
    assert result.stdout == ""
    assert result.stderr.startswith(error)
    assert "Traceback" not in result.stderr
    assert "leaked" not in result.stderr  # DuckDB's binding complains of objects that an error kept alive


@pytest.mark.parametrize(
    "sql",
    [
        pytest.param("SELECT range(2000000000) AS a, range(2000000000) AS b", marks=pytest.mark.slow),
        "SELECT length(" + "replace(" * 8 + "'aaaaaaaaaa'" + ", 'a', 'aaaaaaaaaa')" * 8 + ")",
        pytest.param("SELECT count(*) FROM range(1000000000000)", marks=pytest.mark.slow),
    ],
)
def test_hostile_sql_ends_within_the_limits_of_the_command(root: Path, sql: str) -> None:
    result = steercache(root, sql, "--time-limit", "1", "--memory-limit", "256")
    assert result.returncode == 3, result.stderr
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr


def test_a_reader_that_stops_listening_is_no_error(root: Path) -> None:
    words = f"query 'SELECT range FROM range(3000000)' --format csv --root {root}"
    command = f"{sys.executable} -m steercache.cli.main {words} | head -1"
    result = subprocess.run(["bash", "-c", command], check=False, capture_output=True, text=True, timeout=100)
    assert result.stdout == '"range"\n'
    assert result.stderr == ""
