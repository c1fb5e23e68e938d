"""One tiny model with its own trace, and what plain transformers computes of the same texts."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import constants

import steercache
from steercache import Cache
from tests.exchange.engines import Plain, plainly
from tests.exchange.hub_server import Hub, serving
from tests.tiny import sentences
from tests.tracing import SmallTrace, write_small_trace

N = 24


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A trace, and its samples as an engine computed them: `plain` in the order of the data set."""

    trace: SmallTrace
    texts: list[str]
    plain: list[Plain]
    root: Path

    @property
    def model(self) -> str:
        return str(self.trace.folder / "model")


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    torch.set_num_threads(1)
    folder, texts = tmp_path_factory.mktemp("engine"), sentences(N)
    write_small_trace(folder / "trace", texts=texts)
    rows = [{"text": text, "anchor": text.split()[1], "concept": "order"} for text in texts]
    (folder / "trace" / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"anchor": "anchor", "concept": "concept"}
    source = {"type": "jsonl", "path": "data.jsonl", "columns": columns}
    words = {"kind": "dataset", "version": 1, "name": "words", "source": source, "first_position": "allow"}
    manifest = yaml.safe_load((folder / "trace" / "trace.yaml").read_text()) | {"datasets": [words]}
    (folder / "trace" / "trace.yaml").write_text(yaml.safe_dump(manifest))
    trace = SmallTrace(folder=folder / "trace")
    trace.cache(folder / "root")
    return Engine(trace=trace, texts=texts, plain=plainly(trace.folder / "model", texts), root=folder / "root")


@pytest.fixture
def cache(engine: Engine, tmp_path: Path) -> Cache:
    """A copy of the cache with the engine's own run `small`."""
    shutil.copytree(engine.root, tmp_path / "root")
    return steercache.open(tmp_path / "root")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A local server of the hub's API, which huggingface_hub is pointed at."""
    with serving() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
        yield hub
