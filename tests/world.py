"""One text run and one multimodal model for the whole folder."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from steercache.answers.costs import costs_here
from steercache.answers.ties import tie_nats_here
from steercache.cache.handle import CacheFolder
from steercache.cells.model import find_model
from steercache.models.spec import LoadedModel
from steercache.queries.session import Session, open_session
from tests.sweeps.small_run import write_text_run


@dataclass(frozen=True, kw_only=True)
class World:
    """A cache with vectors of tiny's backbone, and tiny itself in float32."""

    session: Session
    loaded: LoadedModel


_MADE: list[World] = []  # once in a process: every package has a copy of its cache


def measure_once(cache: CacheFolder, loaded: LoadedModel) -> None:
    """Time the model and measure its near-ties now: a copy of the cache has the results and need not measure again."""
    tie_nats_here(cache, loaded)
    costs_here(cache, loaded)


@pytest.fixture(scope="package")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two threads that wait for each other on busy cores are slower
    if not _MADE:
        folder = tmp_path_factory.mktemp("world")
        session = write_text_run(folder / "text", folder / "root")
        loaded = find_model("tiny", folder / "root").load(folder / "root", dtype="float32")
        measure_once(session.cache, loaded)
        _MADE.append(World(session=session, loaded=loaded))
    (made,) = _MADE
    root = tmp_path_factory.mktemp("world-of-a-package") / "root"
    shutil.copytree(made.session.cache.root, root)
    yield World(session=open_session(root), loaded=made.loaded)
    torch.set_num_threads(n_threads)


@pytest.fixture
def own_session(world: World, tmp_path: Path) -> Session:
    """A copy of the cache, for tests that ask how often something was done."""
    shutil.copytree(
        world.session.cache.root, tmp_path / "root", ignore=shutil.ignore_patterns("models", "sweeps", "ledger*")
    )
    return open_session(tmp_path / "root")
