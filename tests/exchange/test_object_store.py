"""Push to and pull from buckets on real servers, also through a proxy that loses, delays and refuses: the original, whole."""

import logging
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import obstore
import pytest
from obstore.store import S3Store

import steercache
from steercache import Cache
from steercache.core.errors import DamagedError, MissingExtraError, NotFoundError, UsageError
from steercache.exchange.hub import object_store
from tests.exchange.stores import BUCKET, KEY, SECRET, Faults, at_random, azurite, environment, moto, proxy
from tests.exchange.test_share import differing, files_of, full

__all__ = ["full"]  # a fixture
pytestmark = pytest.mark.slow
TARGET = f"s3://{BUCKET}/shared"


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    with moto() as port:
        yield port


@pytest.fixture
def faults(server: int, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Faults]:
    """The proxy's, with the environment set so that it is used; each test has a folder of the bucket for itself."""
    with proxy(server) as (port, faults):
        for name, value in environment(port).items():
            monkeypatch.setenv(name, value)
        yield faults


@pytest.fixture
def target(faults: Faults, request: pytest.FixtureRequest) -> str:
    return f"{TARGET}/{request.node.name.partition('[')[0][:40]}"


def bucket(port_url: str) -> S3Store:
    return S3Store(BUCKET, endpoint=port_url, client_options={"allow_http": True})


def test_what_is_pulled_from_a_bucket_is_the_original_and_nothing_is_sent_twice(
    full: Cache, target: str, tmp_path: Path, faults: Faults
) -> None:
    vector = full.stored_vectors()[0].vector
    pushed = full.push(["small", vector.name], target)
    assert pushed.n_files == len(set(faults.puts)) - 2 == len(faults.puts) - 2  # the listing and the card
    again = full.push(["small", vector.name], target)
    assert (again.n_files, again.n_kept) == (0, pushed.n_files)
    other = steercache.open(tmp_path / "other", create=True)
    other.pull(target)
    assert differing(files_of(other.root), files_of(full.root)) == {"run.json"}  # it names no machine's folders
    assert not other.verify().findings
    with pytest.raises(NotFoundError, match="nothing is named"):
        other.pull(target, ["what is not there"])


@pytest.mark.parametrize("kinds", [("latency", "error", "slow-down"), ("cut",)], ids=["refused", "cut"])
def test_a_network_that_fails_at_every_third_request_changes_nothing(
    kinds: tuple[str, ...], full: Cache, target: str, tmp_path: Path, faults: Faults
) -> None:
    faults.choose = at_random(1, 1 / 3, *kinds)
    vector = full.stored_vectors()[0].vector
    place = f"{target}-{kinds[0]}"
    for attempt in range(6):  # a cut answer to a put may come through as an error: the same call goes on
        try:
            full.push(["small", vector.name], place)
            break
        except UsageError:
            assert attempt < 5
    other = steercache.open(tmp_path / "other", create=True)
    for attempt in range(6):
        try:
            other.pull(place)
            break
        except (UsageError, DamagedError):
            assert attempt < 5
    assert differing(files_of(other.root), files_of(full.root)) == {"run.json"}  # it names no machine's folders
    assert sum(faults.seen.values()) > 5


def test_two_pushes_at_once_both_stay_in_the_listing(full: Cache, target: str, tmp_path: Path) -> None:
    vector = full.stored_vectors()[0].vector
    threads = [threading.Thread(target=full.push, args=([name], target)) for name in ("small", vector.name)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other = steercache.open(tmp_path / "other", create=True)
    assert {item.kind for item in other.pull(target).items} == {"run", "vector"}


def test_a_listing_that_another_push_has_written_meanwhile_is_read_again(full: Cache, target: str) -> None:
    mine, theirs = object_store.StorePlace(target), object_store.StorePlace(target)
    for place in (mine, theirs):
        assert place.read("steercache.json", most=100) is None
    theirs.finish({"README.md": b"", "steercache.json": b"theirs"})
    with pytest.raises(object_store.ListingChangedError):
        mine.finish({"README.md": b"", "steercache.json": b"mine"})
    assert mine.read("steercache.json", most=100) == b"theirs"
    mine.finish({"README.md": b"", "steercache.json": b"both"})
    with pytest.raises(object_store.ListingChangedError):
        theirs.finish({"README.md": b"", "steercache.json": b"theirs again"})


def test_a_push_that_was_cut_off_sends_what_is_lacking_and_a_changed_object_is_sent_again(
    full: Cache, target: str, server: int
) -> None:
    pushed = full.push(["small"], target)
    store = bucket(f"http://127.0.0.1:{server}")
    prefix = target.partition(f"{BUCKET}/")[2]
    paths = sorted(meta["path"] for page in obstore.list(store, prefix) for meta in page)
    obstore.delete(store, next(path for path in paths if path.endswith(".parquet")))
    obstore.put(store, next(path for path in paths if "/c.0." in path), b"something else")
    again = full.push(["small"], target)
    assert (again.n_files, again.n_kept) == (2, pushed.n_files - 2)


def test_an_object_that_is_not_what_the_listing_says_is_refused_and_nothing_of_it_stays(
    full: Cache, target: str, server: int, tmp_path: Path
) -> None:
    full.push(["small"], target)
    store = bucket(f"http://127.0.0.1:{server}")
    path = next(
        m["path"]
        for page in obstore.list(store, target.partition(f"{BUCKET}/")[2])
        for m in page
        if "/c.0." in m["path"]
    )
    data = bytes(obstore.get(store, path).bytes())
    obstore.put(store, path, data[:-1] + bytes([data[-1] ^ 1]))
    other = steercache.open(tmp_path / "other", create=True)
    with pytest.raises(DamagedError, match="SHA-256"):
        other.pull(target)


def test_credentials_are_in_no_file_log_or_error(
    full: Cache, target: str, faults: Faults, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    full.push(["small"], target)
    faults.choose = lambda: "expired"
    with pytest.raises(UsageError, match="the store refuses") as refused:
        full.push(["small"], target)
    other = steercache.open(tmp_path / "other", create=True)
    with pytest.raises(UsageError, match="the store refuses"):
        other.pull(target)
    said = "".join((str(refused.value), repr(refused.value), caplog.text))
    assert SECRET not in said
    assert "somebody" not in said
    assert not [p for p in full.root.rglob("*") if p.is_file() and SECRET.encode() in p.read_bytes()]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("s3://key:secret@bucket/x", "holds no credentials"),
        ("az://container/x?sv=1&sig=abc", "holds no credentials"),
        ("s3://", "is no address"),
        ("s3://bucket/../x y//", "is no address"),
        ("ftp://host/x", "is no address"),
    ],
)
def test_other_addresses_are_refused(address: str, said: str, full: Cache) -> None:
    with pytest.raises(UsageError, match=said) as found:
        full.push(["small"], address)
    assert "abc" not in str(found.value)
    assert "key:secret" not in str(found.value)


@pytest.mark.usefixtures("faults")
def test_a_bucket_that_is_not_there_and_obstore_that_is_not_installed_are_told(
    full: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="no such bucket"):
        full.pull("s3://nothing-of-this-name/x")
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(MissingExtraError, match="obstore"):
        full.pull(TARGET)


def test_azure_takes_and_gives_the_same(full: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which(os.environ.get("AZURITE", "azurite-blob")) is None:
        pytest.skip("Azurite is not installed (npm install azurite; AZURITE names its program)")
    with azurite(tmp_path) as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        target = f"az://{BUCKET}/shared"
        names = ["small", full.stored_vectors()[0].vector.name]
        pushed = full.push(names, target)
        assert full.push(names, target).n_kept == pushed.n_files
        mine, theirs = object_store.StorePlace(target), object_store.StorePlace(target)
        assert mine.read("steercache.json", most=10**6) == theirs.read("steercache.json", most=10**6)
        theirs.finish({"README.md": b"", "steercache.json": theirs.read("steercache.json", most=10**6) or b""})
        with pytest.raises(object_store.ListingChangedError):
            mine.finish({"README.md": b"", "steercache.json": b"mine"})
        other = steercache.open(tmp_path / "other", create=True)
        other.pull(target)
        assert differing(files_of(other.root), files_of(full.root)) == {"run.json"}
        with pytest.raises(UsageError, match="no such bucket") as refused:
            full.pull("az://nothing-of-this-name/x")
    assert KEY not in str(refused.value)
