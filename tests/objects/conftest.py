"""One S3 server for all tests that need one, behind a proxy that makes what networks make."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.exchange.stores import BUCKET, Faults, azurite, environment, moto, proxy


@pytest.fixture(scope="session")
def moto_port() -> Iterator[int]:
    with moto() as port:
        yield port


@pytest.fixture(scope="session")
def proxied(moto_port: int) -> Iterator[tuple[int, Faults]]:
    with proxy(moto_port) as found:
        yield found


@pytest.fixture
def faults(proxied: tuple[int, Faults], monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    """What the proxy does, with the environment set so that it is used."""
    port, faults = proxied
    for name, value in environment(port).items():
        monkeypatch.setenv(name, value)
    faults.choose = lambda: None
    faults.seen.clear()
    faults.puts.clear()
    yield faults
    faults.choose = lambda: None


@pytest.fixture
def bucket(faults: Faults, request: pytest.FixtureRequest) -> str:
    """A folder of the bucket that this test has for itself."""
    return f"s3://{BUCKET}/{request.node.name.partition('[')[0][:60]}-{os.getpid()}"


@pytest.fixture(scope="session")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What a person sets to use Azurite, which runs meanwhile."""
    if shutil.which(os.environ.get("AZURITE", "azurite-blob")) is None:
        pytest.skip("Azurite is not installed (npm install azurite; AZURITE names its program)")
    with azurite(tmp_path_factory.mktemp("azurite")) as environment:
        yield environment


@pytest.fixture
def container(azure: dict[str, str], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A folder of a container that this test has for itself."""
    for name, value in azure.items():
        monkeypatch.setenv(name, value)
    return f"az://{BUCKET}/{request.node.name.partition('[')[0][:60]}"


@pytest.fixture(params=["file", pytest.param("s3", marks=pytest.mark.slow)])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place, as `file://` in the default tests, as `s3://` too among the slow ones."""
    if request.param == "file":
        return f"file://{tmp_path}/place"
    return str(request.getfixturevalue("bucket"))
