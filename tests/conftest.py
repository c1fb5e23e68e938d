"""What holds for every test: one thread, and temporary folders in memory where there is such a disk.

Tiny models are faster on one thread, far more so on a busy machine; and everything durable is fsynced, which is what takes
the time on a disk.
"""

import os
from pathlib import Path

import pytest
from hypothesis import settings

from tests.drawn_once import drawn_once as drawn_once
from tests.fresh_indexes import fresh_indexes as fresh_indexes
from tests.fresh_indexes import real_migrations as real_migrations
from tests.without_torch import skipped

os.environ.setdefault("OMP_NUM_THREADS", "1")
if Path("/dev/shm").is_dir():
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", "/dev/shm")

# On a server the same examples every time: a run says something about the change, not about luck. At a desk, new ones.
settings.register_profile("server", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("server")


def pytest_collect_directory(path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Where torch is not installed, a folder whose conftest imports it is skipped by name."""
    return skipped(path, parent)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Where torch is not installed, a test file that imports it is skipped by name."""
    return skipped(module_path, parent)
