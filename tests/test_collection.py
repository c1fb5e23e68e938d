"""Every test file is collected: pytest skips folders of some names (`build`, `dist`, `venv`) without a word by default."""

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.without_torch import HEAVY, chain_to

TESTS = Path(__file__).parent
HOLDS_TESTS = re.compile(r"^(?:async )?def test_|^class Test", re.MULTILINE)


def files_with_tests() -> list[Path]:
    """Python files below `tests/` that define tests, whatever they are called."""
    return [p for p in sorted(TESTS.rglob("*.py")) if HOLDS_TESTS.search(p.read_text())]


def is_collected(path: Path, config: pytest.Config) -> bool:
    """Whether pytest's own rules (and those of plugins and conftest files) let it recurse to `path` and read it."""
    steps = [*reversed([p for p in path.parents if p.is_relative_to(TESTS)]), path]
    ignored = any(config.hook.pytest_ignore_collect(collection_path=step, config=config) for step in steps)
    return not ignored and any(fnmatch(path.name, pattern) for pattern in config.getini("python_files"))


def test_every_file_with_tests_is_collected(request: pytest.FixtureRequest) -> None:
    files = files_with_tests()
    assert len(files) > 100
    assert [str(p.relative_to(TESTS)) for p in files if not is_collected(p, request.config)] == []


def test_every_file_named_as_a_test_holds_tests() -> None:
    assert sorted({*TESTS.rglob("test_*.py")} - {*files_with_tests()}) == []


def test_the_whole_suite_is_what_a_plain_run_collects(request: pytest.FixtureRequest) -> None:
    assert [request.config.rootpath / p for p in request.config.getini("testpaths")] == [TESTS]


# What needs no model is tested without torch, on other Pythons (`make test-pythons`): whole folders but for these files.
FREE_OF_TORCH = {
    "data": {"test_hub.py", "benchmarks/test_hub.py"},
    "fit": {"test_from_cache.py", "test_paper_pooled.py", "test_probe.py"},
    "index": {"test_roles.py"},
    "manifests": set[str](),
    "queries": set[str](),
    "stats": set[str](),
    "store": set[str](),
}


@pytest.mark.parametrize("folder", FREE_OF_TORCH)
def test_folders_without_models_need_no_torch_but_for_files_named_here(folder: str) -> None:
    tests = TESTS / folder
    chains = {path.relative_to(tests).as_posix(): chain_to(HEAVY, path) for path in tests.rglob("*.py")}
    assert len(chains) > 3
    assert {name: chain for name, chain in chains.items() if chain and name not in FREE_OF_TORCH[folder]} == {}
    assert {name for name, chain in chains.items() if chain} == FREE_OF_TORCH[folder]


def test_imports_of_torch_are_found_through_other_modules_and_only_where_they_run(tmp_path: Path) -> None:
    assert chain_to(("torch",), TESTS / "cache" / "test_status.py") == (
        "tests.cache.test_status",
        "tests.tracing",
        "steercache.runs.job",
        "torch",
    )
    assert (
        chain_to(("torch",), TESTS / "store" / "written.py") is None
    )  # `steercache` names torch users for type checkers only
    assert chain_to(("duckdb",), TESTS / "index" / "small.py") is not None
