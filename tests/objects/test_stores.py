"""Conditional writes and range reads: the same from a folder, from an S3 server and from an Azure one."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import google_crc32c
import pytest

from steercache.core.errors import DamagedError, NotFoundError, UsageError
from steercache.objects.addresses import is_address, parse_address
from steercache.objects.catalogue import add_items, read_catalogue
from steercache.objects.interface import NotChangedError, ObjectChangedError, ObjectStore, Sums
from steercache.objects.listing import FORMAT, Item, ListedFile, Listing, from_json, to_json
from steercache.objects.opening import open_store
from tests.exchange.stores import Faults

SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("s3", "az")]


@pytest.fixture(params=["file", *SLOW])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place: a folder, and among the slow tests a bucket and a container."""
    fixture = {"s3": "bucket", "az": "container"}.get(request.param)
    return f"file://{tmp_path}/place" if fixture is None else str(request.getfixturevalue(fixture))


@pytest.fixture
def store(address: str) -> ObjectStore:
    return open_store(address)


def content(store: ObjectStore, path: str) -> bytes | None:
    found = store.get(path, most=10**6)
    return None if found is None else bytes(found.data)


def test_an_object_is_put_once_and_what_another_put_there_stays(store: ObjectStore) -> None:
    assert store.head("a/b") is None
    assert content(store, "a/b") is None
    tag = store.put_new("a/b", b"first")
    assert tag is not None
    assert store.put_new("a/b", b"other") is None
    assert store.put_new("a/b", b"first") == tag  # an answer that was lost: it is ours
    assert content(store, "a/b") == b"first"


def test_an_object_is_replaced_only_where_it_is_the_one_that_was_read(store: ObjectStore) -> None:
    first = store.swap("x", b"1", tag=None)
    with pytest.raises(ObjectChangedError):
        store.swap("x", b"2", tag=None)
    second = store.swap("x", b"2", tag=first)
    with pytest.raises(ObjectChangedError):
        store.swap("x", b"3", tag=first)
    assert store.swap("x", b"2", tag=first) == second  # of the same bytes: ours
    assert content(store, "x") == b"2"
    with pytest.raises(NotChangedError):
        store.get("x", most=10, unless=second)
    fetched = store.get("x", most=10, unless=first)
    assert fetched is not None
    assert bytes(fetched.data) == b"2"


def test_of_many_writers_at_once_one_puts_and_each_swap_counts_once(address: str) -> None:
    open_store(address).put("n", b"0")
    winners: list[int] = []

    def work(number: int) -> None:
        mine = open_store(address)
        if mine.put_new("once", f"of {number}".encode()) is not None:
            winners.append(number)
        for _ in range(3):
            while True:
                found = mine.get("n", most=100)
                assert found is not None
                try:  # each writes other bytes than all others, so that no two can be taken for one
                    n = int(bytes(found.data).split()[0])
                    mine.swap("n", f"{n + 1} {number}".encode(), tag=found.info.tag)
                    break
                except ObjectChangedError:
                    continue

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(winners) == 1
    assert content(open_store(address), "once") == f"of {winners[0]}".encode()
    assert (content(open_store(address), "n") or b"").split()[0] == b"12"


def test_ranges_streams_and_sizes(store: ObjectStore, tmp_path: Path) -> None:
    data = bytes(range(256)) * 40
    source = tmp_path / "source"
    source.write_bytes(data)
    sums = Sums(sha256=hashlib.sha256(data).hexdigest(), crc32c=google_crc32c.value(data))
    tag = store.put("big", source, sums=sums)
    info = store.head("big")
    assert info is not None
    assert (info.n_bytes, info.tag) == (len(data), tag)
    assert not sums.contradicts(info.sums)
    part = store.get_range("big", 300, 500, tag=tag)
    assert bytes(part.data) == data[300:800]
    assert part.info == info
    with pytest.raises(ObjectChangedError):
        store.get_range("big", len(data) - 10, 20)  # it ends before
    assert b"".join(store.pieces("big", first=1000)) == data[1000:]
    assert b"".join(store.pieces("big", first=len(data))) == b""
    with pytest.raises(DamagedError, match="larger than"):
        store.get("big", most=100)
    store.put("big", b"another")
    with pytest.raises(ObjectChangedError):
        store.get_range("big", 0, 5, tag=tag)
    store.delete("big")
    store.delete("big")
    assert store.head("big") is None
    for read in (lambda: store.get_range("big", 0, 1), lambda: list(store.pieces("big"))):
        with pytest.raises(NotFoundError):
            read()


@pytest.mark.slow
def test_a_file_in_parts_arrives_whole_with_its_checksums(bucket: str, tmp_path: Path) -> None:
    data = bytes(range(251)) * 140_000  # 35 MB: three parts
    (tmp_path / "source").write_bytes(data)
    sums = Sums(sha256=hashlib.sha256(data).hexdigest(), crc32c=google_crc32c.value(data))
    store = open_store(bucket)
    store.put("big", tmp_path / "source", sums=sums)
    found = store.head("big")
    assert found is not None
    assert (found.n_bytes, found.sums) == (len(data), sums)
    assert sums.confirms(found.sums)
    assert b"".join(store.pieces("big")) == data


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["error", "slow-down", "cut"])
def test_what_fails_at_first_is_done_again(fault: str, bucket: str, faults: Faults) -> None:
    store = open_store(bucket)
    data = bytes(range(256)) * 4096
    tag = store.put("x", data)
    left = [fault, fault]
    faults.choose = lambda: left.pop() if left else None
    assert bytes(store.get_range("x", 1000, 500_000, tag=tag).data) == data[1000:501_000]
    assert faults.seen[fault] == 2
    left += [fault]
    assert store.put_new(f"new-{fault}", b"once") is not None
    left += [fault]
    assert store.swap("x", b"next", tag=tag)
    left += [fault]
    assert b"".join(store.pieces("x")) == b"next"


@pytest.mark.slow
def test_expired_credentials_are_told_and_not_shown(bucket: str, faults: Faults) -> None:
    store = open_store(bucket)
    faults.choose = lambda: "expired"
    for call in (
        lambda: store.head("x"),
        lambda: store.get("x", most=1),
        lambda: store.get_range("x", 0, 1),
        lambda: store.put_new("x", b""),
        lambda: store.swap("x", b"", tag=None),
    ):
        with pytest.raises(UsageError, match="the store refuses") as refused:
            call()
        assert "somebody" not in str(refused.value)


def _item(name: str) -> Item:
    item_id = hashlib.sha256(name.encode()).hexdigest()
    file = ListedFile(path=f"vectors/{item_id}.safetensors", n_bytes=1, sha256="0" * 64)
    return Item(kind="vector", id=item_id, name=name, about={}, files=(file,))


def test_without_credentials_the_machines_own_are_asked_for_and_their_lack_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Refuses(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.send_error(403)

        def do_GET(self) -> None:
            self.send_error(403)

        def log_message(self, *_: object) -> None:
            return None

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    with HTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(UsageError, match="no credentials were found") as refused:
            open_store("s3://some-bucket/x").head("a")
        server.shutdown()
    assert "AWS_ACCESS_KEY_ID" in str(refused.value.hint)


def test_items_that_several_add_at_once_are_all_in_the_catalogue(address: str) -> None:
    assert read_catalogue(open_store(address)) is not None
    names = [f"{writer}-{n}" for writer in range(3) for n in range(3)]

    def work(writer: int) -> None:
        for n in range(3):
            add_items(open_store(address), [_item(f"{writer}-{n}")])

    threads = [threading.Thread(target=work, args=(writer,)) for writer in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = read_catalogue(open_store(address))
    assert found is not None
    assert sorted(item.name for item in found.listing.items) == names
    assert read_catalogue(open_store(address), unless=found.tag) is None


def test_a_run_by_records_makes_a_listing_of_the_second_format_and_lists_no_files() -> None:
    run = Item(kind="run", id="a" * 64, name="r", about={}, files=(), by_records=True)
    data = to_json(Listing(items=(run,)))
    assert from_json(data, place="x").items == (run,)
    assert from_json(data, place="x").format == FORMAT == 2
    plain = to_json(Listing(items=(_item("v"),)))
    assert b"by_records" not in plain
    assert from_json(plain, place="x").format == 1
    with pytest.raises(DamagedError):
        from_json(data.replace(b'"run"', b'"vector"'), place="x")


@pytest.mark.parametrize(
    "text",
    [
        "s3://k:secret@bucket/x",
        "az://box/x?sig=secret",
        "s3://",
        "s3://b/../x",
        "file://host/x",
        "file://relative",
        "x://y/z",
    ],
)
def test_what_is_no_address_is_refused_and_credentials_are_not_repeated(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_address(text)
    assert "secret" not in str(refused.value)


def test_addresses_keep_their_form() -> None:
    assert parse_address("file:///some/a%20folder/").text == "file:///some/a%20folder"
    assert str(parse_address("file:///some/a%20folder/").folder) == "/some/a folder"
    assert parse_address("gs://bucket").prefix == ""
    assert not is_address("/some/folder")


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    (tmp_path / "secret").write_bytes(b"x")
    (tmp_path / "place" / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(DamagedError, match="leads out"):
        open_store(f"file://{tmp_path}/place").get("link", most=10)


def test_nothing_is_written_through_a_link_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "place" / "out").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "place" / "circle").symlink_to(tmp_path / "place" / "circle")
    store = open_store(f"file://{tmp_path}/place")
    for path in ("out/x", "circle/x"):
        with pytest.raises(DamagedError, match="link"):
            store.put(path, b"x")
        with pytest.raises(DamagedError, match="link"):
            store.put_new(path, b"x")
        with pytest.raises(DamagedError, match="link"):
            store.swap(path, b"x", tag=None)
    assert not list((tmp_path / "elsewhere").iterdir())
