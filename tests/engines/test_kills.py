"""A few kills of a build on a cluster; `python -m tests.engines.kill_harness` makes many."""

from pathlib import Path

import pytest

from tests.engines.kill_harness import run


@pytest.mark.slow
def test_a_build_of_which_workers_nodes_and_coordinators_are_killed_ends_in_the_same_bytes(tmp_path: Path) -> None:
    killed = run(tmp_path, n_kills=5, seed=1, longest_s=8.0)
    assert killed["worker"] + killed["node"] + killed["coordinator"] == 5
    assert killed["builds"] >= 1
