"""A build in a network of its own, cut off from the store in the middle of it: it waits, or another takes the run over."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import obstore
import pytest
from obstore.store import from_url

from steercache.core.errors import BusyError
from steercache.runs.engine import BuildResult
from tests.cache.contents import tables_of
from tests.exchange.stores import BUCKET, environment, moto
from tests.objects.recorded import comparable, objects_of
from tests.remote_builds import build_at, objects_in_bucket
from tests.tracing import SmallTrace, write_small_trace

pytestmark = pytest.mark.slow
HERE, THERE = "10.203.17.1", "10.203.17.2"
BUILD = """
import sys
from pathlib import Path
from steercache.objects import lease
from tests.remote_builds import build_at
from tests.tracing import SmallTrace
folder, address, mirror, lasts_s = sys.argv[1:]
lease.LEASE_S = float(lasts_s)
build_at(address, SmallTrace(folder=Path(folder)), Path(mirror))
"""


@dataclass(frozen=True)
class Network:
    """A namespace whose one wire leads to this machine, and the port of a store that listens at the end of it."""

    name: str
    port: int

    def cut(self, *, off: bool) -> None:
        """Take the wire out, or put it back; nobody is told."""
        _ip("link", "set", f"{self.name}-a", "down" if off else "up")

    def start(self, trace: SmallTrace, address: str, mirror: Path, *, lasts_s: float = 60.0) -> subprocess.Popen[str]:
        """A build inside."""
        command = ["ip", "netns", "exec", self.name, sys.executable, "-c", BUILD]
        command += [str(trace.folder), address, str(mirror), str(lasts_s)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Network]:
    name = f"sc{os.getpid() % 100_000}"
    if os.geteuid() or subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
        pytest.skip("network namespaces need root")
    monkeypatch.setenv("STEERCACHE_SCRATCH", str(tmp_path / "scratch"))
    try:
        _ip("link", "add", f"{name}-a", "type", "veth", "peer", "name", f"{name}-b", "netns", name)
        _ip("addr", "add", f"{HERE}/30", "dev", f"{name}-a")
        _ip("link", "set", f"{name}-a", "up")
        _ip("-n", name, "addr", "add", f"{THERE}/30", "dev", f"{name}-b")
        _ip("-n", name, "link", "set", f"{name}-b", "up")
        with moto(HERE) as port:
            for variable, value in environment(port, HERE).items():
                monkeypatch.setenv(variable, value)
            yield Network(name, port)
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


@contextmanager
def _ended(process: subprocess.Popen[str]) -> Iterator[None]:
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _wait_for(condition: Callable[[], bool], *, wait_s: float = 60.0) -> None:
    end = time.monotonic() + wait_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def _records(address: str) -> dict[str, tuple[str | None, object]]:
    """Tags of the records in the store, and when each was put."""
    found = [meta for page in obstore.list(from_url(address)) for meta in page]
    return {meta["path"]: (meta["e_tag"], meta["last_modified"]) for meta in found if "/shards/" in meta["path"]}


def _built_unless_busy(address: str, trace: SmallTrace, mirror: Path) -> BuildResult | None:
    try:
        return build_at(address, trace, mirror)
    except BusyError:
        return None


def test_a_build_that_is_cut_off_for_a_while_waits_and_goes_on(network: Network, tmp_path: Path) -> None:
    trace = write_small_trace(tmp_path / "t", n=120)
    trace.build(tmp_path / "undisturbed")
    address = f"s3://{BUCKET}/waits"
    process = network.start(trace, address, tmp_path / "mirror")
    with _ended(process):
        _wait_for(lambda: len(_records(address)) >= 2)
        network.cut(off=True)
        before = _records(address)
        time.sleep(3.0)
        assert process.poll() is None, process.communicate()[0]
        assert _records(address).keys() - before.keys() == set(), "what is put arrives nowhere"
        network.cut(off=False)
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0, said
    after = _records(address)
    assert {path: after[path] for path in before} == before, "nothing was put twice"
    assert comparable(objects_in_bucket(address)) == comparable(objects_of(tmp_path / "undisturbed"))
    assert tables_of(tmp_path / "mirror") == tables_of(tmp_path / "undisturbed")


def test_a_run_whose_coordinator_is_cut_off_is_taken_over_and_that_one_commits_nothing_more(
    network: Network, tmp_path: Path
) -> None:
    trace = write_small_trace(tmp_path / "t", n=120)
    trace.build(tmp_path / "undisturbed")
    address = f"s3://{BUCKET}/taken"
    process = network.start(trace, address, tmp_path / "mirror", lasts_s=2.0)
    with _ended(process):
        _wait_for(lambda: len(_records(address)) >= 2)
        network.cut(off=True)
        n_refused = 0
        while (result := _built_unless_busy(address, trace, tmp_path / "second")) is None:
            n_refused += 1
            time.sleep(0.3)
        assert n_refused > 0, "the lease of a process that lives is waited for"
        assert result.n_shards_built > 0 < result.n_shards_kept
        before = _records(address)
        assert comparable(objects_in_bucket(address)) == comparable(objects_of(tmp_path / "undisturbed"))
        network.cut(off=False)
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "nothing more is committed" in said
    assert _records(address) == before
    assert comparable(objects_in_bucket(address)) == comparable(objects_of(tmp_path / "undisturbed"))
