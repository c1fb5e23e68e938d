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

QUICK = 30  # examples of a property in a default run; the slow tests (`-m slow`) repeat properties with all of theirs

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
        elif (chosen or settings.default).max_examples > QUICK:
            function._hypothesis_internal_use_settings = settings(chosen, max_examples=QUICK)
