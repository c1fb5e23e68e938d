"""A few kills of a build on a cluster; `python -m tests.engines.kill_harness` makes many."""

from pathlib import Path

import pytest

from tests.engines.kill_harness import RootKind, run


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["file", "s3"])
def test_a_build_of_which_workers_nodes_and_coordinators_are_killed_ends_in_the_same_bytes(
    kind: RootKind, tmp_path: Path
) -> None:
    killed = run(tmp_path, n_kills=5, seed=1, longest_s=8.0, kind=kind)
    assert killed["worker"] + killed["node"] + killed["coordinator"] == 5
    assert killed["builds"] >= 1
