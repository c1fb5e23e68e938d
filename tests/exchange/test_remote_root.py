"""A cache that is elsewhere, opened by its address: the same answers as the cache it was pushed from."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

import steercache
from steercache import Cache
from steercache.cache.mirror import STATE
from steercache.core.errors import BudgetError, DamagedError, NotFoundError, UsageError
from steercache.objects.catalogue import add_items
from steercache.objects.listing import NAME, Item
from steercache.objects.opening import open_store
from tests.exchange.conftest import Engine
from tests.exchange.stores import SECRET, Faults, at_random
from tests.objects.conftest import address, bucket, faults, moto_port, proxied

__all__ = ["address", "bucket", "faults", "moto_port", "proxied"]  # fixtures
SQL = "select t.row_idx, t.token_id, s.text from tokens t join samples s using (run_id, sample_idx) order by 1"


@pytest.fixture(autouse=True)
def mirrors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("STEERCACHE_MIRRORS", str(tmp_path / "mirrors"))
    return tmp_path / "mirrors"


@pytest.fixture(scope="module")
def full(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """The run, and a vector fitted on it; for all tests of the module."""
    root = tmp_path_factory.mktemp("full") / "root"
    shutil.copytree(engine.root, root)
    cache = steercache.open(root)
    cache.fit("mean_shift", concept="order")
    return cache


def arrays_in(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("c.*") if p.is_file() and "layer" not in p.parent.name]


def pushed(cache: Cache, address: str) -> Cache:
    cache.push(["run:small", "order"], address)
    return steercache.open(address)


def test_a_pushed_cache_opened_by_its_address_answers_as_the_original(full: Cache, address: str, mirrors: Path) -> None:
    remote = pushed(full, address)
    assert remote.root.is_relative_to(mirrors)
    assert remote.sql(SQL).fetchall() == full.sql(SQL).fetchall()
    assert not arrays_in(remote.root)
    picked = [cache.select("anchor_vs_control", concept="order", run="small") for cache in (remote, full)]
    for layer in (0, 2):
        mine, theirs = (one.gather(layer=layer) for one in picked)
        assert mine.tobytes() == theirs.tobytes()
    fitted = [cache.fit("mean_shift", concept="order", layers=[0, 2], name="v")[0] for cache in (remote, full)]
    assert fitted[0].vector_id == fitted[1].vector_id
    assert np.array_equal(fitted[0].values, fitted[1].values)
    assert not remote.verify().findings
    assert not arrays_in(remote.root)
    status = remote.status()
    assert status.remote is not None
    assert status.remote.address == address
    assert status.remote.n_bytes_read_cache > 0
    again = steercache.open(address)
    assert again.root == remote.root
    assert again.vector("order").vector_id == full.vector("order").vector_id


def test_a_compacted_run_is_read_from_elsewhere(cache: Cache, address: str) -> None:
    cache.compact("small", codec="pcodec")
    cache.push("small", address)
    remote = steercache.open(address)
    picked = [one.select("anchor_vs_control", concept="order", run="small") for one in (remote, cache)]
    assert picked[0].gather(layer=1).tobytes() == picked[1].gather(layer=1).tobytes()
    assert not remote.verify().findings


def test_what_is_pushed_later_is_seen_and_what_is_gone_is_gone(full: Cache, address: str, tmp_path: Path) -> None:
    remote = pushed(full, address)
    full.fit("mean_shift", concept="order", layers=[1], name="later")
    full.push(["later"], address)
    remote = steercache.open(address)
    assert {s.vector.name for s in remote.stored_vectors()} >= {"later"}
    assert remote.sql("select count(*) from vectors where name = 'later'").fetchall() == [(1,)]
    store = open_store(address)
    listing = store.get(NAME, most=10**6)
    assert listing is not None
    said = json.loads(bytes(listing.data))
    said["items"] = [item for item in said["items"] if item["name"] != "later"]
    store.swap(NAME, json.dumps(said).encode(), tag=listing.info.tag)
    assert "later" not in {s.vector.name for s in steercache.open(address).stored_vectors()}
    said["items"] = [item for item in said["items"] if item["kind"] != "run"]
    store.put(NAME, json.dumps(said).encode())
    assert steercache.open(address).runs().fetchall() == []


def test_a_vector_saved_in_a_cache_elsewhere_is_there_for_others(full: Cache, address: str, tmp_path: Path) -> None:
    remote = pushed(full, address)
    vector = remote.fit("mean_shift", concept="order", layers=[1], name="mine")[0]
    other = steercache.open(address, mirror=tmp_path / "another")
    assert other.vector("mine").vector_id == vector.vector_id
    assert other.root == tmp_path / "another"
    assert other.vector("mine").values.tobytes() == vector.values.tobytes()


def test_a_run_that_is_found_by_its_records_grows_as_they_come(full: Cache, address: str, tmp_path: Path) -> None:
    """As a build at the place itself makes it: no file of it is listed."""
    folder = full.folder.paths.all_runs()[0].folder
    store, run_id = open_store(address), folder.name
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "LOCK")
    records = [p for p in files if p.parent.parent.name == "shards"]
    assert len(records) > 2

    def put(path: Path) -> None:
        store.put(path.relative_to(full.root).as_posix(), path)

    add_items(store, [Item(kind="run", id=run_id, name="small", about={}, files=(), by_records=True)])
    assert steercache.open(address).runs().fetchall() == []  # listed, and nothing of it is there
    for path in files:
        if path not in records:
            put(path)
    for path in (full.root / "annotations").rglob("*.parquet"):
        put(path)
    assert steercache.open(address).status().runs[0].n_shards_committed == 0
    damaged = records[1].relative_to(full.root).as_posix()
    store.put(damaged, b'{"shard_idx": 1')
    with pytest.raises(DamagedError) as refused:
        steercache.open(address)
    assert refused.value.place == f"{address.rstrip('/')}/{damaged}"
    put(records[1])
    remote = steercache.open(address)
    assert not list(remote.root.rglob("*.new"))
    assert remote.status().runs[0].n_shards_committed == 1
    (n,) = remote.sql("select count(*) from tokens").fetchall()[0]
    assert 0 < n < full.sql("select count(*) from tokens").fetchall()[0][0]
    for path in records:
        put(path)
    remote = steercache.open(address)
    assert remote.sql(SQL).fetchall() == full.sql(SQL).fetchall()
    picked = [cache.select("anchor_vs_control", concept="order", run="small") for cache in (remote, full)]
    assert picked[0].gather(layer=2).tobytes() == picked[1].gather(layer=2).tobytes()
    assert not remote.verify().findings
    state = json.loads((remote.root / STATE).read_text())
    assert state["by_records"] == [run_id]
    copy = steercache.open(tmp_path / "copy", create=True)
    done = copy.pull(address)
    assert [item.name for item in done.items] == ["small"]
    assert files_of(copy.root / "runs") == files_of(full.root / "runs")
    assert copy.sql(SQL).fetchall() == full.sql(SQL).fetchall()
    assert not copy.verify().findings
    assert copy.pull(address).n_files == 0
    store.delete(records[1].relative_to(full.root).as_posix())  # removed there, as damaged shards are
    group = folder / "g0001" / "zarr.json"
    said = json.loads(group.read_text())
    said["attributes"]["complete"] = False
    store.put(group.relative_to(full.root).as_posix(), json.dumps(said).encode())
    assert steercache.open(address).status().runs[0].n_shards_committed == len(records) - 1
    with pytest.raises(UsageError, match="not complete"):
        steercache.open(tmp_path / "other", create=True).pull(address)


def test_chosen_layers_are_pulled_as_a_part(full: Cache, address: str, tmp_path: Path) -> None:
    full.push(["run:small", "order"], address)
    cache = steercache.open(tmp_path / "cache", create=True)
    done = cache.pull(address, "small", layers=[1])
    assert [(item.kind, item.name) for item in done.items] == [("run", "small")]
    picked = [one.select("anchor_vs_control", concept="order", run="small") for one in (cache, full)]
    assert picked[0].gather(layer=1).tobytes() == picked[1].gather(layer=1).tobytes()
    assert not cache.verify().findings
    assert not [path for path in cache.root.iterdir() if path.name.startswith(".pull-")]
    with pytest.raises(BudgetError, match="budget"):
        cache.pull(address, "small", layers=[0], budget_gb=1e-6)
    with pytest.raises(UsageError, match="only runs have layers: order"):
        cache.pull(address, "order", layers=[0])
    with pytest.raises(UsageError, match="not in the run"):
        cache.pull(address, "small", layers=[77])


def files_of(folder: Path) -> dict[str, bytes]:
    found = [p for p in folder.rglob("*") if p.is_file() and p.name != "LOCK"]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in found}


def test_what_cannot_be_done_elsewhere_is_refused_with_a_way_out(full: Cache, address: str, tmp_path: Path) -> None:
    remote = pushed(full, address)
    for call in (
        lambda: remote.compact("small", codec="pcodec"),
        lambda: remote.remove("small"),
        lambda: remote.remove("small", damaged_shards_only=True),
    ):
        with pytest.raises(UsageError, match="elsewhere") as refused:
            call()
        assert refused.value.place == address
        assert refused.value.hint
    assert not steercache.open(address).verify().findings
    with pytest.raises(NotFoundError, match="no cache there"):
        steercache.open(f"{address}-nothing")
    (tmp_path / "something").mkdir()
    (tmp_path / "something" / "x").write_text("")
    with pytest.raises(UsageError, match="something else"):
        steercache.open(address, mirror=tmp_path / "something")
    with pytest.raises(UsageError, match="only an address"):
        steercache.open(full.root, mirror=tmp_path / "m")


def test_a_damaged_object_is_named_by_verify(full: Cache, address: str) -> None:
    remote = pushed(full, address)
    path = arrays_in(full.root / "runs")[0]
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    inside = path.relative_to(full.root).as_posix()
    open_store(address).put(inside, bytes(data))
    findings = remote.verify().findings
    assert len(findings) == 1
    assert inside.split("/", 2)[2] in findings[0].place
    store = open_store(address)
    store.delete(inside)
    assert "missing" in remote.verify().findings[0].message


def test_a_changed_document_is_refused(full: Cache, address: str) -> None:
    full.push(["small"], address)
    store = open_store(address)
    table = next(p for p in (full.root / "runs").rglob("rows/*.parquet"))
    store.put(table.relative_to(full.root).as_posix(), table.read_bytes()[:-1] + b"x")
    with pytest.raises(DamagedError, match="SHA-256"):
        steercache.open(address)
    store.put(table.relative_to(full.root).as_posix(), table)
    assert steercache.open(address).sql(SQL).fetchall() == full.sql(SQL).fetchall()


def test_the_root_may_be_an_address_in_the_environment_and_a_lost_mirror_is_made_again(
    full: Cache, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    full.push(["run:small", "order"], address)
    monkeypatch.setenv("STEERCACHE_ROOT", address)
    remote = steercache.open()
    shutil.rmtree(remote.root)
    assert steercache.open().sql(SQL).fetchall() == full.sql(SQL).fetchall()


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [("latency", "error", "slow-down"), ("cut",)], ids=["refused", "cut"])
def test_a_network_that_fails_at_every_third_request_changes_nothing(
    kinds: tuple[str, ...], full: Cache, bucket: str, faults: Faults
) -> None:
    full.push(["small"], bucket)
    faults.choose = at_random(1, 1 / 3, *kinds)
    remote = steercache.open(bucket)
    picked = [cache.select("anchor_vs_control", concept="order", run="small") for cache in (remote, full)]
    for layer in (0, 1, 2):
        assert picked[0].gather(layer=layer).tobytes() == picked[1].gather(layer=layer).tobytes()
    assert sum(faults.seen.values()) > 3


@pytest.mark.slow
def test_credentials_are_in_no_file_log_or_error(
    full: Cache, bucket: str, faults: Faults, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    remote = pushed(full, bucket)
    selection = remote.select("anchor_vs_control", concept="order", run="small")
    selection.gather(layer=0)
    faults.choose = lambda: "expired"
    said = caplog.text
    for call in (
        lambda: steercache.open(bucket),
        remote.verify,
        lambda: remote.fit("mean_shift", concept="order", name="x"),
    ):
        with pytest.raises(UsageError, match="the store refuses") as refused:
            call()
        said += f"{refused.value}{refused.value!r}{caplog.text}"
    assert SECRET not in said
    assert "somebody" not in said
    assert not [p for p in remote.root.rglob("*") if p.is_file() and SECRET.encode() in p.read_bytes()]


@pytest.mark.slow
def test_only_the_bytes_of_the_asked_rows_are_read(full: Cache, bucket: str, faults: Faults) -> None:
    remote = pushed(full, bucket)
    selection = remote.select("anchor_vs_control", concept="order", run="small")
    seen = len(faults.got)
    selection.gather(layer=0)
    first = len(faults.got) - seen
    assert 0 < first <= len(list((full.root / "runs").rglob("shards/*/*.json")))
    selection.gather(layer=0)
    assert len(faults.got) == seen + first


@pytest.mark.slow
def test_zarr_xarray_and_tensorstore_read_the_same_address(
    full: Cache, bucket: str, proxied: tuple[int, Faults]
) -> None:
    import tensorstore
    import xarray
    import zarr
    from obstore.store import S3Store
    from zarr.storage import ObjectStore as ZarrStore

    pushed(full, bucket)
    run_id = full.run("small").run_id
    source = full.folder.source(run_id)
    layout = source.document.layout
    site, rows = layout.sites[0], np.array([0, 1, 70, 3])
    expected = source.gather(site.site, site.layers[1], rows)
    name, _, prefix = bucket.removeprefix("s3://").partition("/")
    folder = f"{prefix}/runs/{run_id}/g0001"
    options = {"allow_http": True}
    store = ZarrStore(S3Store(name, prefix=folder, client_options=options), read_only=True)
    group = zarr.open_group(store, mode="r")
    assert np.array_equal(group[site.site].oindex[1, rows], expected)  # type: ignore[union-attr]
    opened = xarray.open_zarr(store, consolidated=False, zarr_format=3, chunks=None)
    assert np.array_equal(opened[site.site].values[1, rows], expected)
    spec = {
        "driver": "zarr3",
        "kvstore": {
            "driver": "s3",
            "bucket": name,
            "path": f"{folder}/{site.site}",
            "endpoint": f"http://127.0.0.1:{proxied[0]}",
            "aws_region": "us-east-1",
        },
    }
    stored = tensorstore.open(spec, open=True).result()
    assert np.array_equal(stored[1, rows].read().result(), expected)
