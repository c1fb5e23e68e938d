"""One small cache for the whole folder; tests that write take a copy."""

import os
import shutil
from pathlib import Path

import pytest

from steercache.cache.handle import open_cache
from steercache.cells.model import find_model
from tests.cli.small import Terminal, build_cache, write_work_folder
from tests.world import measure_once

_BUILT: list[Path] = []


@pytest.fixture(scope="session")
def built_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not _BUILT:  # several packages take this fixture
        folder = write_work_folder(tmp_path_factory.mktemp("cli") / "work")
        build_cache(folder)
        root = folder / "cache"
        measure_once(open_cache(root), find_model("tiny", root).load(root))  # the model of the zoo: evaluations use it
        _BUILT.append(folder)
    return _BUILT[0]


def copy_or_link(source: str, target: str) -> None:
    """Copy a file; weights, which nothing changes, are linked."""
    os.link(source, target) if source.endswith(".safetensors") and "models" in source else shutil.copy2(source, target)


@pytest.fixture
def work(built_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the working folder, which is the current one."""
    folder = tmp_path / "work"
    shutil.copytree(built_once, folder, copy_function=copy_or_link)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def terminal(capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(capsys=capsys)
