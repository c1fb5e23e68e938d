"""One text run and one multimodal model for the whole folder."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from steercache.cells.model import find_model
from steercache.models.spec import LoadedModel
from steercache.queries.session import Session, open_session
from tests.sweeps.small_run import write_text_run


@dataclass(frozen=True, kw_only=True)
class World:
    """A cache with vectors of tiny's backbone, and tiny itself in float32."""

    session: Session
    loaded: LoadedModel


@pytest.fixture(scope="package")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two threads that wait for each other on busy cores are slower
    folder = tmp_path_factory.mktemp("world")
    session = write_text_run(folder / "text", folder / "root")
    yield World(session=session, loaded=find_model("tiny", folder / "root").load(folder / "root", dtype="float32"))
    torch.set_num_threads(n_threads)


@pytest.fixture
def own_session(world: World, tmp_path: Path) -> Session:
    """A copy of the cache, for tests that ask how often something was done."""
    shutil.copytree(
        world.session.cache.root, tmp_path / "root", ignore=shutil.ignore_patterns("models", "sweeps", "ledger*")
    )
    return open_session(tmp_path / "root")
