"""One small cache for the whole folder; tests that write take a copy."""

import shutil
from pathlib import Path

import pytest

from tests.cli.small import Terminal, build_cache, write_work_folder


@pytest.fixture(scope="session")
def built_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_work_folder(tmp_path_factory.mktemp("cli") / "work")
    build_cache(folder)
    return folder


@pytest.fixture
def work(built_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the working folder, which is the current one."""
    folder = tmp_path / "work"
    shutil.copytree(built_once, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def terminal(capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(capsys=capsys)
