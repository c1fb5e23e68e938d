"""One small cache behind the explorer for the whole folder."""

from collections.abc import Iterator

import pytest

from tests.explorer.small_site import Site, Small, make_small


@pytest.fixture(scope="package")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    return make_small(tmp_path_factory.mktemp("explorer") / "cache")


@pytest.fixture(scope="package")
def site(small: Small) -> Iterator[Site]:
    with Site(small.root) as client:
        yield client
