"""When a build tells the index of its shards: at intervals, all that wait together; what was not told is found by who reads."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import pytest

from steercache.cache.commit import TELL_EVERY_S, RunWriter
from steercache.cache.handle import open_cache
from steercache.core.layout import ShardRecord
from tests.tracing import SmallTrace, write_small_trace

N_SHARDS = 4


class StoppedError(Exception):
    """Stands for a process that died before its build was finished."""


@pytest.fixture
def trace(tmp_path: Path) -> SmallTrace:
    return write_small_trace(tmp_path / "trace", n=60)


def build_but_not_finish(trace: SmallTrace, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(self: RunWriter) -> None:
        raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(RunWriter, "finish", stop)
        with pytest.raises(StoppedError):
            trace.build(root)


def told(root: Path) -> list[int]:
    """Shards in the index's file as it lies there."""
    with duckdb.connect(str(open_cache(root).paths.index), read_only=True) as con:
        return [row[0] for row in con.execute("select shard_idx from shards order by 1").fetchall()]


def read(root: Path) -> list[int]:
    """Shards as a query sees them."""
    with open_cache(root).connection() as con:
        return [row[0] for row in con.execute("select shard_idx from shards order by 1").fetchall()]


def test_a_short_build_tells_nothing_before_its_end_and_a_reader_misses_nothing(
    trace: SmallTrace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_but_not_finish(trace, tmp_path / "root", monkeypatch)
    assert told(tmp_path / "root") == []
    assert len(read(tmp_path / "root")) >= N_SHARDS


def test_after_the_interval_all_that_wait_are_told_at_once(
    trace: SmallTrace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(monotonic=lambda: clock.now, now=0.0)
    commit_files = RunWriter.commit_files

    def commit_slowly(self: RunWriter, *shard: Any) -> ShardRecord:
        record = commit_files(self, *shard)
        clock.now = (
            0.4 * TELL_EVERY_S * min(record.shard_idx + 1, 3)
        )  # the third comes after the interval; then time stops
        return record

    monkeypatch.setattr("steercache.cache.commit.time", clock)
    monkeypatch.setattr(RunWriter, "commit_files", commit_slowly)
    build_but_not_finish(trace, tmp_path / "root", monkeypatch)
    assert told(tmp_path / "root") == [0, 1, 2]
    trace.build(tmp_path / "root")
    assert told(tmp_path / "root") == read(tmp_path / "root")


def test_a_build_of_a_second_tells_everything_when_it_is_finished(trace: SmallTrace, tmp_path: Path) -> None:
    trace.build(tmp_path / "root")
    assert len(told(tmp_path / "root")) >= N_SHARDS
