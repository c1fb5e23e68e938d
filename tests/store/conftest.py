"""A folder for each test, in memory where there is one: every run that is written costs dozens of fsyncs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.store.written import scratch


@pytest.fixture
def root() -> Iterator[Path]:
    with scratch() as folder:
        yield folder
