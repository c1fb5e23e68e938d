"""What `cache status` says of a root, the damaged runs in it included."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from steercache.cache.handle import open_cache
from steercache.cache.status import cache_status
from tests.tracing import write_small_trace


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    write_small_trace(folder / "trace", n=12).build(folder / "root")
    write_small_trace(folder / "trace", n=10, name="whole").build(folder / "root")
    return folder / "root"


@pytest.mark.parametrize(
    ("pattern", "hurt"),
    [
        ("runs/{}/g0001/zarr.json", lambda path: path.write_text("{")),
        ("runs/{}/CURRENT", lambda path: path.write_text("g0009\n")),
        ("runs/{}/CURRENT", lambda path: path.unlink()),
        ("runs/{}/run.json", lambda path: path.write_text("{}")),
    ],
    ids=["no-metadata", "no-such-generation", "no-current", "no-document"],
)
def test_a_damaged_run_is_named_and_does_not_hide_the_others(
    pattern: str, hurt: Callable[[Path], object], two_runs: Path, tmp_path: Path
) -> None:
    shutil.copytree(two_runs, tmp_path / "root")
    damaged_id = open_cache(tmp_path / "root").resolve_run("small")
    hurt(tmp_path / "root" / pattern.format(damaged_id))
    status = cache_status(open_cache(tmp_path / "root"))
    assert [run.name for run in status.runs] == ["whole"]
    assert len(status.damaged) == 1
    assert damaged_id in status.damaged[0]
    with open_cache(tmp_path / "root").connection() as connection:
        names = connection.execute("select name from runs where name = 'whole'").fetchall()
    assert names == [("whole",)]


def test_a_run_with_a_record_that_cannot_be_read_still_stands_in_the_list(two_runs: Path, tmp_path: Path) -> None:
    shutil.copytree(two_runs, tmp_path / "root")
    cache = open_cache(tmp_path / "root")
    record = cache.run_paths(cache.resolve_run("small")).shard("g0001", 0)
    os.truncate(record, 40)
    status = cache_status(cache)
    found = {run.name: (run.n_shards_damaged, run.complete) for run in status.runs}
    assert found == {"small": (1, False), "whole": (0, True)}
    assert len(status.damaged) == 1
    assert str(record) in status.damaged[0]
