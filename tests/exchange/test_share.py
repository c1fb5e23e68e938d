"""Push, kill, push again, pull: byte for byte the original; nothing names the machine; hostile places are refused."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import steercache
from steercache import Cache
from steercache.core.errors import BudgetError, DamagedError, NotFoundError, UsageError
from tests.exchange.hub_server import REPO, Hub

HF = f"hf://datasets/{REPO}"
# huggingface_hub 2.4 hands its HTTP client a file in a way that the client calls outdated
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def full(cache: Cache) -> Cache:
    """The run, and a vector fitted on it."""
    cache.save(cache.fit("mean_shift", concept="order")[0])
    return cache


def files_of(folder: Path) -> dict[str, bytes]:
    """Everything that is not derived, and no lock."""
    skipped = ("index.duckdb", "LOCK", "README.md", "steercache.json", "calibration.json")
    paths = [p for top in ("runs", "annotations", "vectors") for p in (folder / top).rglob("*") if p.is_file()]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in paths if p.name not in skipped}


def differing(one: dict[str, bytes], other: dict[str, bytes]) -> set[str]:
    return {name.rpartition("/")[2] for name in one.keys() | other.keys() if one.get(name) != other.get(name)}


def test_a_folder_that_was_pushed_to_is_a_cache_and_what_is_pulled_is_the_original(full: Cache, tmp_path: Path) -> None:
    vector = full.stored_vectors()[0].vector
    pushed = full.push(["small", vector.name], tmp_path / "shared")
    assert {item.kind for item in pushed.items} == {"run", "vector"}
    assert not steercache.open(tmp_path / "shared").verify().findings
    other = steercache.open(tmp_path / "other", create=True)
    other.pull(tmp_path / "shared")
    original, copy = files_of(full.root), files_of(other.root)
    assert differing(original, copy) == {"run.json"}  # which named the folder of the model on this machine
    name = next(n for n in copy if n.endswith("run.json"))
    said, sent = json.loads(original[name]), json.loads(copy[name])
    assert {key for key in said if said[key] != sent[key]} == {"model_source"}
    assert copy[name] == (tmp_path / "shared" / name).read_bytes()
    assert not other.verify().findings
    assert other.vector(vector.name).vector_id == vector.vector_id
    assert other.pull(tmp_path / "shared").n_files == 0
    assert full.push(["small"], tmp_path / "shared").n_files == 0
    assert [i.name for i in full.pull(tmp_path / "shared", "small").already] == ["small"]  # our own stays as it is


def test_nothing_that_is_pushed_names_the_machine(full: Cache, tmp_path: Path) -> None:
    full.push(["small", full.stored_vectors()[0].vector.name], tmp_path / "shared", layers=None)
    traces = [str(tmp_path), str(Path.home()) + "/", socket.gethostname(), str(full.root.parent), os.getcwd()]
    traces += [
        json.loads((p / "run.json").read_bytes())["model_source"]["folder"] for p in (full.root / "runs").iterdir()
    ]
    for path in (tmp_path / "shared").rglob("*"):
        if path.is_file() and path.name != "index.duckdb":
            data = path.read_bytes()
            if path.suffix == ".parquet":
                data += str(pq.read_table(path).to_pylist()).encode() + str(pq.read_schema(path).metadata).encode()
            assert [one for one in traces if len(one) > 5 and one.encode() in data] == [], path
    assert not list((tmp_path / "shared").rglob("LOCK"))


def test_the_hub_gets_a_card_and_gives_back_the_same_bytes(full: Cache, hub: Hub, tmp_path: Path) -> None:
    vector = full.stored_vectors()[0].vector.name
    full.push(["small", vector], HF)
    assert hub.private is True
    assert hub.commits[-1] == ["README.md", "steercache.json"]
    card = hub.content("README.md").decode()
    assert card.startswith("---\n")
    assert f"steercache pull {HF}" in card
    assert "| small |" in card
    full.push(["small"], tmp_path / "shared")
    other = steercache.open(tmp_path / "other", create=True)
    other.pull(HF, "small")
    assert files_of(other.root) == files_of(tmp_path / "shared")
    n = len(hub.uploads)
    assert full.push(["small", vector], HF).n_files == 0
    assert len(hub.uploads) == n
    other.pull(HF)
    assert other.vector(vector).name == vector


def test_chosen_layers_are_pushed_as_a_part(full: Cache, hub: Hub, tmp_path: Path) -> None:
    full.push(["small"], HF, layers=[1])
    other = steercache.open(tmp_path / "other", create=True)
    (item,) = other.pull(HF).items
    run = other.run(item.id)
    assert run.sites == {"resid_post": (1,)}
    assert item.about["part of"] == full.run("small").run_id[:12]
    rows = "SELECT run_id, row_idx FROM tokens WHERE row_idx IS NOT NULL"
    assert (other.select(rows).gather(1) == full.select(rows).gather(1)).all()


def test_a_push_that_was_killed_goes_on_and_sends_nothing_twice(full: Cache, hub: Hub, tmp_path: Path) -> None:
    third, go_on = threading.Event(), threading.Event()

    def stall() -> None:
        if len(hub.uploads) >= 3:
            third.set()
            go_on.wait(20)

    hub.on_upload = stall
    away = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0"}
    words = ["push", "small", HF, "--root", str(full.root)]
    code = f"from steercache.cli.main import run; run({words!r})"
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, **away}, stderr=subprocess.DEVNULL)
    assert third.wait(60)
    process.send_signal(signal.SIGKILL)
    process.wait()
    go_on.set()
    hub.on_upload = lambda: None
    assert "steercache.json" not in hub.files  # the place does not say that it has what it has not
    with pytest.raises(NotFoundError, match="nothing was pushed"):
        steercache.open(tmp_path / "early", create=True).pull(HF)
    full.push(["small"], HF)
    assert len(hub.uploads) == len({*hub.uploads})
    full.push(["small"], tmp_path / "shared")
    other = steercache.open(tmp_path / "other", create=True)
    other.pull(HF)
    assert files_of(other.root) == files_of(tmp_path / "shared")
    assert differing(files_of(full.root), files_of(other.root)) <= {"run.json"} | {
        Path(n).name for n in files_of(full.root) if n.startswith("vectors/")
    }


def test_a_pull_that_broke_off_goes_on_behind_the_last_byte(
    full: Cache, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from steercache.exchange.hub import pull as module

    full.push(["small"], HF)
    other = steercache.open(tmp_path / "other", create=True)
    receive, calls = module._receive, []

    def until_the_tenth(place, file, target, item, on_bytes):  # type: ignore[no-untyped-def]
        calls.append(file.path)
        if len(calls) == 10:
            part = target.with_name(f".{target.name}.{file.sha256[:16]}.part")
            target.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(hub.content(file.path)[: file.n_bytes // 2])
            raise KeyboardInterrupt
        return receive(place, file, target, item, on_bytes)

    monkeypatch.setattr(module, "_receive", until_the_tenth)
    with pytest.raises(KeyboardInterrupt):
        other.pull(HF)
    assert other.runs().df()["complete"].tolist() == [False]  # others see a run that is being filled
    monkeypatch.setattr(module, "_receive", receive)
    received = other.pull(HF)
    assert received.n_files == len(received.items[0].files) - 9
    full.push(["small"], tmp_path / "shared")
    assert files_of(other.root) == files_of(tmp_path / "shared")
    assert not other.verify().findings


def listing(hub: Hub) -> dict[str, list[dict[str, object]]]:
    found: dict[str, list[dict[str, object]]] = json.loads(hub.content("steercache.json"))
    return found


WRONG_PATHS = (
    *("../outside", "/etc/passwd", "runs/../../outside", "index.duckdb", "runs/{id}/LOCK", "runs/{id}/g0001/.hidden"),
    *("runs/{id}/g0001/../../../x", "vectors/{other}.safetensors", "runs/{other}/run.json", "manifests/m.yaml"),
)


def test_a_listing_with_a_path_that_is_no_file_of_its_item_is_refused(full: Cache, tmp_path: Path) -> None:
    full.push(["small"], tmp_path / "shared")
    path = tmp_path / "shared" / "steercache.json"
    good = path.read_bytes()
    other = steercache.open(tmp_path / "other", create=True)
    for wrong in WRONG_PATHS:
        said = json.loads(good)
        item = said["items"][0]
        item["files"][0]["path"] = wrong.format(id=item["id"], other="0" * 64)
        path.write_text(json.dumps(said))
        with pytest.raises(DamagedError, match="no files of a cache"):
            other.pull(tmp_path / "shared")
    assert not files_of(other.root)
    assert not (tmp_path / "outside").exists()
    path.write_bytes(good)
    assert other.pull(tmp_path / "shared").n_files > 0


def test_files_that_are_not_what_is_listed_are_refused_and_leave_nothing(full: Cache, hub: Hub, tmp_path: Path) -> None:
    full.push(["small"], HF)
    path = next(p for p in hub.files if p.endswith("resid_post/c.0.0.0"))
    good = hub.content(path)
    for wrong, message in ((good[:-1] + b"x", "SHA-256"), (good + b"more", "larger than"), (good[:-7], "bytes came")):
        hub.files[path] = wrong
        other = steercache.open(tmp_path / message.replace(" ", "-"), create=True)
        with pytest.raises(DamagedError, match=message):
            other.pull(HF)
        assert not list(other.root.rglob("c.0.0.0"))
    hub.files[path] = good
    with pytest.raises(BudgetError, match="the budget is"):
        other.pull(HF, budget_gb=1e-6)
    hub.files["steercache.json"] = b"[" * 100_000
    with pytest.raises(DamagedError, match="not a listing"):
        other.pull(HF)


def test_a_document_of_another_run_is_refused(full: Cache, hub: Hub, tmp_path: Path) -> None:
    import hashlib

    full.push(["small"], HF)
    said = listing(hub)
    files = said["items"][0]["files"]
    assert isinstance(files, list)
    entry = next(f for f in files if f["path"].endswith("run.json"))
    document = json.loads(hub.content(entry["path"]))
    document["identity"]["model"]["fingerprint"] = "0" * 64
    forged = json.dumps(document).encode()
    hub.files[entry["path"]] = forged
    entry |= {"n_bytes": len(forged), "sha256": hashlib.sha256(forged).hexdigest()}
    hub.files["steercache.json"] = json.dumps(said).encode()
    other = steercache.open(tmp_path / "other", create=True)
    with pytest.raises(DamagedError, match="does not match its identity"):
        other.pull(HF)
    assert not list(other.root.rglob("run.json"))


def test_a_link_out_of_a_folder_is_not_followed(full: Cache, tmp_path: Path) -> None:
    full.push(["small"], tmp_path / "shared")
    secret = tmp_path / "secret"
    path = next((tmp_path / "shared").rglob("c.0.0.0"))
    secret.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(secret)
    with pytest.raises(DamagedError, match="leads out of the folder"):
        steercache.open(tmp_path / "other", create=True).pull(tmp_path / "shared")


def test_names_and_addresses_that_mean_nothing_are_said(full: Cache, hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nothing is named 'smal1'"):
        full.push(["smal1"], tmp_path / "shared")
    with pytest.raises(UsageError, match="no address"):
        full.push(["small"], "ftp://host/x")
    with pytest.raises(UsageError, match="no address"):
        full.push(["small"], "hf://datasets/../x")
    with pytest.raises(UsageError, match="the cache itself"):
        full.push(["small"], full.root / "runs")
    with pytest.raises(NotFoundError):
        steercache.open(tmp_path / "other", create=True).pull(HF)
