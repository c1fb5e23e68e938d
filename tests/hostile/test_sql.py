"""SQL at the terminal that does not hear its interrupt, or takes memory: ended from outside, in its own process."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from steercache.queries.session import open_session
from tests.index.small import Sentence
from tests.queries.small_cache import add_run

# Quadratic in one call, for minutes.
DEAF = (
    "SELECT jaro_similarity(s, reverse(s))"
    " FROM (SELECT string_agg(hash(r.range)::VARCHAR, '') AS s FROM range(300000) r) t"
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hostile") / "cache"
    add_run(root, "text", [[Sentence(text="plain words")]])
    return root


def query(root: Path, *words: str) -> tuple[subprocess.CompletedProcess[str], float]:
    command = [sys.executable, "-m", "steercache.cli.main", "query", *words, "--root", str(root)]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=120)
    return done, time.monotonic() - began


@pytest.mark.slow
def test_a_call_that_hears_no_interrupt_ends_at_its_time(root: Path) -> None:
    _, start_s = query(root, "SELECT 1")
    done, wall_s = query(root, DEAF, "--time-limit", "1")
    assert done.returncode == 3, done.stderr
    assert "stopped after 1 s" in done.stderr
    assert wall_s < 2 * start_s + 8


def test_a_query_that_works_writes_what_it_wrote_and_keeps_its_exit_code(root: Path) -> None:
    done, _ = query(root, "SELECT 41 + 1 AS a", "--format", "csv")
    assert (done.returncode, done.stdout.split()) == (0, ['"a"', "42"])
    assert query(root, "SELEC 1")[0].returncode == 3
    assert query(root, "no_such_query")[0].returncode == 4


def test_a_process_that_dies_is_an_error_of_the_query(root: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif os.environ.get('STEERCACHE_QUERY_PIPE'): os.kill(os.getpid(), 11)\n"
    )
    command = [sys.executable, "-m", "steercache.cli.main", "query", "SELECT 1", "--root", str(root)]
    repository = str(Path(__file__).parents[2])
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{repository}"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60)
    assert done.returncode == 3
    assert signal.Signals(11).name in done.stderr


def test_the_working_directory_is_not_searched_for_modules(root: Path, tmp_path: Path) -> None:
    (tmp_path / "duckdb.py").write_text("raise RuntimeError('imported')")
    repository = str(Path(__file__).parents[2])
    command = [sys.executable, "-P", "-m", "steercache.cli.main", "query", "SELECT 1", "--root", str(root)]
    env = {**os.environ, "PYTHONPATH": repository}
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_query_in_a_notebook_leaves_the_limits_of_its_process_alone(root: Path) -> None:
    before = [resource.getrlimit(kind) for kind in (resource.RLIMIT_DATA, resource.RLIMIT_AS, resource.RLIMIT_FSIZE)]
    session = open_session(root)
    with session.stream("SELECT * FROM range(200000)", {}) as reader:
        reader.read_next_batch()
        during = [
            resource.getrlimit(kind) for kind in (resource.RLIMIT_DATA, resource.RLIMIT_AS, resource.RLIMIT_FSIZE)
        ]
    assert during == before
