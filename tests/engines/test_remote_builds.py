"""Builds into a bucket on a real server, by every engine, through a network that fails: the bytes of a build in a folder."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from steercache.core.errors import UsageError
from steercache.engines.crew import EngineOptions
from tests.cache.contents import tables_of
from tests.exchange.stores import BUCKET, SECRET, Fault, Faults, at_random, azurite, environment, moto, proxy
from tests.objects.recorded import comparable, objects_of
from tests.remote_builds import build_at, objects_in_bucket
from tests.tracing import SmallTrace, write_small_trace

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    with moto() as port:
        yield port


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> SmallTrace:
    return write_small_trace(tmp_path_factory.mktemp("t"), n=40)


@pytest.fixture(scope="module")
def undisturbed(trace: SmallTrace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("undisturbed") / "root"
    trace.build(root)
    return root


@pytest.fixture
def faults(server: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Faults]:
    """The proxy's, with the environment set so that it is used."""
    monkeypatch.setenv("STEERCACHE_SCRATCH", str(tmp_path / "scratch"))
    with proxy(server) as (port, faults):
        for name, value in environment(port).items():
            monkeypatch.setenv(name, value)
        yield faults


@pytest.fixture
def address(faults: Faults, request: pytest.FixtureRequest) -> str:
    return f"s3://{BUCKET}/{request.node.name.replace('[', '-').rstrip(']')[:60]}"


@pytest.mark.parametrize(
    "engine",
    [EngineOptions(), EngineOptions(workers=2), EngineOptions(name="ray", workers=2)],
    ids=["one", "workers", "ray"],
)
def test_every_engine_writes_the_bytes_of_a_build_in_a_folder(
    engine: EngineOptions, trace: SmallTrace, undisturbed: Path, address: str, tmp_path: Path
) -> None:
    n_tokens: list[int] = []
    result = build_at(address, trace, tmp_path / "mirror", engine=engine, on_tokens=n_tokens.append)
    assert comparable(objects_in_bucket(address)) == comparable(objects_of(undisturbed))
    assert tables_of(tmp_path / "mirror") == tables_of(undisturbed)
    assert result.n_shards_built > 3
    assert sum(n_tokens) > 0
    assert build_at(address, trace, tmp_path / "another", engine=engine).n_shards_built == 0
    assert tables_of(tmp_path / "another") == tables_of(undisturbed)


@pytest.mark.parametrize(
    "choose",
    [at_random(1, 1 / 4, "latency", "error", "slow-down", "throttled"), at_random(2, 1 / 8, "cut")],
    ids=["refused", "cut"],
)
def test_a_network_that_fails_again_and_again_changes_nothing(
    choose: Callable[[], Fault], trace: SmallTrace, undisturbed: Path, address: str, faults: Faults, tmp_path: Path
) -> None:
    faults.choose = choose
    for attempt in range(6):  # an answer that is cut off may come through as an error: the same call goes on
        try:
            build_at(address, trace, tmp_path / "mirror")
            break
        except UsageError:
            assert attempt < 5
    faults.choose = lambda: None
    assert comparable(objects_in_bucket(address)) == comparable(objects_of(undisturbed))
    assert tables_of(tmp_path / "mirror") == tables_of(undisturbed)
    assert sum(faults.seen.values()) > 10


def test_credentials_that_expire_in_the_middle_end_the_build_and_nothing_is_lost(
    trace: SmallTrace, undisturbed: Path, address: str, faults: Faults, tmp_path: Path
) -> None:
    n_requests = 0

    def expired() -> Fault:
        nonlocal n_requests
        n_requests += 1
        return "expired" if n_requests > 60 else None

    faults.choose = expired
    with pytest.raises(UsageError, match="the store refuses") as refused:
        build_at(address, trace, tmp_path / "mirror")
    assert SECRET not in str(refused.value)
    faults.choose = lambda: None
    n_there = sum("/shards/" in path for path in objects_in_bucket(address))
    result = build_at(address, trace, tmp_path / "mirror")
    assert 0 < result.n_shards_kept == n_there
    assert result.n_shards_built > 0
    assert comparable(objects_in_bucket(address)) == comparable(objects_of(undisturbed))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


def test_a_container_of_azure_holds_the_same(
    trace: SmallTrace, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which(os.environ.get("AZURITE", "azurite-blob")) is None:
        pytest.skip("Azurite is not installed (npm install azurite; AZURITE names its program)")
    monkeypatch.setenv("STEERCACHE_SCRATCH", str(tmp_path / "scratch"))
    with azurite(tmp_path) as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        address = f"az://{BUCKET}/built"
        assert build_at(address, trace, tmp_path / "mirror").n_shards_built > 3
        assert build_at(address, trace, tmp_path / "another").n_shards_built == 0
        assert comparable(objects_in_bucket(address)) == comparable(objects_of(undisturbed))
        assert tables_of(tmp_path / "another") == tables_of(undisturbed)
