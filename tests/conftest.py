"""What holds for every test: one thread, and temporary folders in memory where there is such a disk.

Tiny models are faster on one thread, far more so on a busy machine; and everything durable is fsynced, which is what takes
the time on a disk.
"""

import gc
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

# Examples of a property in a default run (`tests.quick.costly`: fewer); the slow tests (`-m slow`) repeat properties with all
# of theirs.
QUICK = 20

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


# Families for which another one of the table stands in the default run, and what is their own has tests of its own: tried among
# the slow tests only.
VARIANTS = frozenset(
    {"qwen2_vl", "qwen3_vl_moe", "qwen3_5_moe", "glm4v", "glm4v_moe", "glm46v"}
    | {"aya_vision", "idefics2", "llava_next", "mistral3"}
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Properties run twice, with all of their examples among the slow tests; variants of families only there."""
    all_of_them = config.getoption("markexpr") == "slow"
    for item in items:
        callspec = getattr(item, "callspec", None)
        if callspec is not None and callspec.params.get("family") in VARIANTS:
            item.add_marker(pytest.mark.slow)
        function = getattr(item, "function", None)
        chosen = getattr(function, "_hypothesis_internal_use_settings", None)
        if not getattr(function, "is_hypothesis_test", False):
            continue
        if all_of_them:
            item.add_marker(pytest.mark.slow)
            continue
        most = getattr(function, "quick_examples", QUICK)
        if (chosen or settings.default).max_examples > most:
            function._hypothesis_internal_use_settings = settings(chosen, max_examples=most)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Thousands of tests and what they import stay to the end: the garbage collector need not walk them again and again."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure(config: pytest.Config) -> None:
    """DuckDB's binding counts what is alive at the end."""
    gc.unfreeze()
