"""Every test file is collected: pytest skips folders of some names (`build`, `dist`, `venv`) without a word by default."""

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

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
