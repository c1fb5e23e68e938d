"""SQL that came with a file (a vector, a folder of queries, a command): ended from outside, and else as any other."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import steercache
from steercache.api.cache import Cache
from steercache.api.querying import Limits
from steercache.core.errors import QueryError, UsageError
from steercache.core.vectors import SteeringVector
from steercache.fit import mean_shift
from steercache.queries.isolated import GRACE_S
from tests.hostile.test_sql import DEAF
from tests.index.small import Sentence
from tests.queries.small_cache import add_run

ROWS = (
    "SELECT t.run_id, t.row_idx, (t.row_idx % 2)::TINYINT AS label"
    " FROM tokens t WHERE t.run_id = $run AND t.row_idx IS NOT NULL"
)
DEAF_ROWS = f"{ROWS} AND ({DEAF}) < 2"
DEAF_FILE = f"""-- name: deaf
-- kind: selection
-- summary: Rows, after minutes.
-- params:
--   run: {{type: run, default: newest, help: the run}}
-- returns:
--   run_id: run
--   row_idx: row
--   label: side
{DEAF_ROWS}
"""
START_S = 15.0  # for a Python with DuckDB and Arrow to start on a machine that does other things


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("received") / "cache"
    add_run(root, "text", [[Sentence(text="plain words of a sentence"), Sentence(text="and four more words")]])
    return root


def received(root: Path, **changes: Any) -> SteeringVector:
    """A vector whose provenance says that `changes` picked its rows."""
    vector = mean_shift(steercache.open(root).select(ROWS), name="received")
    made = {**vector.provenance, "query": {**vector.provenance["query"], **changes}}
    return replace(vector, provenance=made)


def by_refit(root: Path, limits: Limits) -> None:
    cache = steercache.open(root, limits=limits)
    cache.save(received(root, text=DEAF_ROWS))
    cache.refit("received")


def by_fit(root: Path, limits: Limits) -> None:
    steercache.open(root, limits=limits).fit("mean_shift", query=DEAF_ROWS)


def by_folder(root: Path, limits: Limits) -> None:
    folder = root.parent / "folder"
    folder.mkdir(exist_ok=True)
    (folder / "deaf.sql").write_text(DEAF_FILE)
    steercache.open(root, queries=[folder], limits=limits).query("deaf")


def children_of(pid: int) -> list[int]:
    """Processes that run a statement for the process `pid`."""
    found = subprocess.run(["pgrep", "-P", str(pid), "-f", "isolated_child"], capture_output=True, text=True)
    return [int(word) for word in found.stdout.split()]


@pytest.mark.parametrize(
    "ask", [by_refit, pytest.param(by_fit, marks=pytest.mark.slow), pytest.param(by_folder, marks=pytest.mark.slow)]
)
def test_a_received_statement_that_hears_no_interrupt_is_stopped_in_time(
    root: Path, ask: Callable[[Path, Limits], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steercache.queries.isolated.GRACE_S", 0.3)
    began = time.monotonic()
    with pytest.raises(QueryError, match=r"stopped after 0\.5 s"):
        ask(root, Limits(time_s=0.5))
    assert time.monotonic() - began < 0.5 + GRACE_S + START_S
    assert children_of(os.getpid()) == []


def test_rows_and_bindings_are_those_of_the_same_statement_in_this_process(root: Path) -> None:
    cache = steercache.open(root)
    text = f"{ROWS} AND t.row_idx >= $first"
    here, there = cache.select(text, first=2), cache.select_isolated(text, bindings={"first": 2})
    assert there.query == here.query
    assert (there.run_id, there.site, there.concept) == (here.run_id, here.site, here.concept)
    for name in ("rows", "sample_idx", "position", "token_id", "label"):
        np.testing.assert_array_equal(getattr(there, name), getattr(here, name))
    assert mean_shift(there) == mean_shift(here)


def _error(ask: Callable[[], Any]) -> tuple[type, str]:
    with pytest.raises(steercache.core.errors.SteercacheError) as caught:
        ask()
    return type(caught.value), str(caught.value)


@pytest.mark.parametrize(
    ("text", "bindings"),
    [
        (ROWS, {"nobody": 1}),
        pytest.param("SELECT * FROM no_table", {}, marks=pytest.mark.slow),
        pytest.param("COPY tokens TO '/tmp/x'", {}, marks=pytest.mark.slow),
        pytest.param("SELECT error('no') AS run_id, 1 AS row_idx", {}, marks=pytest.mark.slow),
        pytest.param(ROWS, {"run": "no-such-run"}, marks=pytest.mark.slow),
        pytest.param("SELECT $a AS run_id, 1 AS row_idx", {"a": object()}, marks=pytest.mark.slow),
    ],
)
def test_what_is_wrong_is_said_as_in_this_process(root: Path, text: str, bindings: dict[str, Any]) -> None:
    cache = steercache.open(root)
    given = dict(bindings)
    assert _error(lambda: cache.select_isolated(text, bindings=given)) == _error(lambda: cache.select(text, **given))


def test_output_beyond_the_memory_limit_is_refused(root: Path) -> None:
    many = ROWS.replace("FROM tokens t", "FROM tokens t, range(3000000)")
    with pytest.raises(QueryError, match="larger than 64 MiB"):
        steercache.open(root, limits=Limits(memory_mib=64)).select_isolated(many)


def test_a_process_that_dies_is_an_error_of_the_query(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif 'steercache.queries.isolated_child' in sys.orig_argv: os.kill(os.getpid(), 11)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(QueryError, match=signal.Signals(11).name):
        steercache.open(root).select_isolated(ROWS)


@pytest.mark.parametrize(
    "query", [{"text": 3}, {"text": ROWS, "bindings": [1]}, {"text": ROWS, "bindings": None}, {"name": ["x"]}]
)
def test_provenance_of_odd_types_is_no_query(root: Path, query: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="cannot be fitted again"):
        steercache.fit.refit(received(root, **query), steercache.open(root))


def test_a_query_that_ships_runs_in_this_process(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_child(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a process was started")

    cache: Cache = steercache.open(root)
    monkeypatch.setattr(subprocess, "Popen", no_child)
    named = cache.select_isolated("all_rows")
    np.testing.assert_array_equal(cache.select_isolated(cache.queries()["all_rows"].text).rows, named.rows)
    with pytest.raises(AssertionError, match="started"):
        cache.select_isolated(ROWS)


@pytest.mark.slow
def test_the_process_is_limited_by_the_kernel_and_ends_when_the_one_that_asked_is_killed(root: Path) -> None:
    program = "import sys, steercache; steercache.open(sys.argv[1]).select_isolated(sys.argv[2])"
    parent = subprocess.Popen([sys.executable, "-c", program, str(root), DEAF_ROWS], cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + 4 * START_S
    while not (children := children_of(parent.pid)) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(3)  # inside of its statement
    limits = {
        line[:25].strip(): line[26:].split() for line in Path(f"/proc/{children[0]}/limits").read_text().splitlines()
    }
    most = Limits()
    memory, file = int(limits["Max data size"][0]), int(limits["Max file size"][0])
    assert 2 * most.memory_mib * 2**20 < memory < 4 * most.memory_mib * 2**20
    assert file == most.spill_mib * 2**20
    parent.kill()
    parent.wait()
    while any(Path(f"/proc/{pid}").exists() for pid in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert children
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
