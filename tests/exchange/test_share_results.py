"""Push and pull of a sweep, of features of an SAE, and of an SAE's folder: byte for byte, and refused if hostile."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import steercache
from steercache import Cache
from steercache.cache.sweeps import add_answers, begin_sweep, save_choices, save_sweep
from steercache.core.errors import DamagedError, NotFoundError
from steercache.core.trials import Answer, Cell, Choice
from tests.exchange.hub_server import REPO, Hub
from tests.exchange.vector_cases import some_vector
from tests.sae.coordinates import coordinates_sae

HF = f"hf://datasets/{REPO}"
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def write_sweep(cache: Cache) -> str:
    """A small evaluation: a baseline and a cell, answers in a file and in a part, choices."""
    base = Cell(vector_id=None, layer=None, alpha=0.0, target="all", model_fingerprint="m", prompt_id="plain")
    cell = Cell(vector_id="a" * 64, layer=1, alpha=2.0, target="text", model_fingerprint="m", prompt_id="plain")
    answers = [
        Answer(cell_id=c.cell_id, sample_id=f"{i:064x}", split="search", raw=f"w{i}", parsed="A", correct=bool(i % 2))
        for c in (base, cell)
        for i in range(5)
    ]
    manifest = {"kind": "eval", "model": {"name": "m", "fingerprint": "m"}, "seed": 0}
    begin_sweep(cache.folder, "trial", manifest=manifest, cells=[base, cell])
    sweep_id = save_sweep(cache.folder, "trial", manifest=manifest, cells=[base, cell], answers=answers[:6])
    add_answers(cache.folder, sweep_id, answers[6:])
    chosen = Choice(arm="v", role="vector", cell_id=cell.cell_id, rule="single", n_cells=1, vector_id="a" * 64)
    save_choices(cache.folder, sweep_id, [chosen])
    return sweep_id


def below(folder: Path) -> dict[str, bytes]:
    """Every file of a folder but locks."""
    found = (p for p in folder.rglob("*") if p.is_file() and p.name.lower() not in ("lock",))
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in found}


@pytest.mark.parametrize("place", ["folder", "hub"])
def test_a_sweep_is_pulled_as_it_was_pushed(cache: Cache, hub: Hub, place: str, tmp_path: Path) -> None:
    sweep_id, target = write_sweep(cache), HF if place == "hub" else str(tmp_path / "shared")
    (item,) = cache.push("trial", target).items
    assert (item.kind, item.id, item.name) == ("sweep", sweep_id, "trial")
    other = steercache.open(tmp_path / "other", create=True)
    other.pull(target, "trial")
    assert below(other.root / "sweeps") == below(cache.root / "sweeps")
    sql = "SELECT cell_id, sample_id, raw, correct FROM answers ORDER BY ALL"
    assert other.sql(sql).fetchall() == cache.sql(sql).fetchall()
    assert not other.verify().findings
    if place == "folder":
        remote = steercache.open(f"file://{target}", mirror=tmp_path / "mirror")
        assert remote.sql(sql).fetchall() == cache.sql(sql).fetchall()
        assert not remote.verify().findings
    assert cache.push("trial", target).n_files == 0
    assert other.pull(target).n_files == 0


@pytest.mark.parametrize("place", ["folder", "hub"])
def test_features_and_their_sae_are_pulled_and_are_used(cache: Cache, hub: Hub, place: str, tmp_path: Path) -> None:
    d = cache.select("all_rows", run="small").gather(1).shape[1]
    folder = coordinates_sae(tmp_path / "saes" / "mine", d, layer=1, model="small")
    with pytest.warns(steercache.core.errors.SteercacheWarning):
        encoded = cache.encode(folder, run="small", allow_foreign=True, progress=False)
    (folder / "notes.txt").write_text("stays here")
    target = HF if place == "hub" else str(tmp_path / "shared")
    pushed = cache.push(["small", f"features:{encoded.sae.sae_id}", str(folder)], target)
    assert sorted(item.kind for item in pushed.items) == ["features", "run", "sae"]
    other = steercache.open(tmp_path / "other", create=True)
    pulled = {item.kind: item for item in other.pull(target).items}
    sql = "SELECT feature, row_idx, value FROM feature_acts ORDER BY ALL"
    assert other.sql(sql).fetchall() == cache.sql(sql).fetchall() != []
    mine = other.root / "sae" / "folders" / pulled["sae"].id
    assert below(mine) == {name: data for name, data in below(folder).items() if name != "notes.txt"}
    loaded = steercache.load_sae(mine)
    assert loaded.spec.sae_id == encoded.sae.sae_id
    np.testing.assert_array_equal(loaded.decoder, steercache.load_sae(folder).decoder)
    assert not other.verify().findings
    if place == "folder":
        remote = steercache.open(f"file://{target}", mirror=tmp_path / "mirror")
        assert remote.sql(sql).fetchall() == cache.sql(sql).fetchall()
        assert not remote.verify().findings
    assert cache.push([str(folder)], target).n_files == 0
    (again,) = other.push(f"sae:{pulled['sae'].id}", tmp_path / "third").items  # what was pulled goes on
    assert again.id == pulled["sae"].id


def test_a_folder_that_is_no_sae_or_is_forged_is_refused(cache: Cache, tmp_path: Path) -> None:
    d = cache.select("all_rows", run="small").gather(1).shape[1]
    folder = coordinates_sae(tmp_path / "mine", d, layer=1, model="small")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFoundError, match="nothing is named"):
        cache.push(str(tmp_path / "empty"), tmp_path / "shared")
    configuration = (folder / "cfg.json").read_text()
    (folder / "cfg.json").write_text("[" * 100_000)
    with pytest.raises(DamagedError, match="not the document"):
        cache.push(str(folder), tmp_path / "shared")
    (folder / "cfg.json").write_text(configuration)
    cache.push(str(folder), tmp_path / "shared")
    listing = tmp_path / "shared" / "steercache.json"
    good, other = listing.read_text(), steercache.open(tmp_path / "other", create=True)
    said = json.loads(good)
    said["items"][0]["files"][0]["sha256"] = hashlib.sha256(b"other weights").hexdigest()
    listing.write_text(json.dumps(said))
    with pytest.raises(DamagedError, match="no files of a cache"):
        other.pull(tmp_path / "shared")
    assert not (other.root / "sae").exists()
    said = json.loads(good)
    said["items"][0]["files"].append({"path": "sae/folders/x.py", "n_bytes": 1, "sha256": "0" * 64})
    listing.write_text(json.dumps(said))
    with pytest.raises(DamagedError, match="no files of a cache"):
        other.pull(tmp_path / "shared")


def test_documents_of_another_sweep_are_refused(cache: Cache, tmp_path: Path) -> None:
    sweep_id = write_sweep(cache)
    cache.push("trial", tmp_path / "shared")
    path = tmp_path / "shared" / "sweeps" / sweep_id / "manifest.json"
    listing = tmp_path / "shared" / "steercache.json"
    for forged in (json.dumps({"sweep_id": "0" * 64, "name": "x"}), "[]", "{" * 9_999):
        said: dict[str, Any] = json.loads(listing.read_text())
        entry = next(f for f in said["items"][0]["files"] if f["path"].endswith("/manifest.json"))
        path.write_text(forged)
        entry |= {"n_bytes": len(forged), "sha256": hashlib.sha256(forged.encode()).hexdigest()}
        listing.write_text(json.dumps(said))
        other = steercache.open(tmp_path / f"other-{len(forged)}", create=True)
        with pytest.raises(DamagedError, match=r"another sweep|not a JSON"):
            other.pull(tmp_path / "shared")
        assert not list(other.root.rglob("manifest.json"))


def test_a_sweep_that_no_query_could_read_is_taken_out_again(cache: Cache, tmp_path: Path) -> None:
    """Its files are what the listing says; one number that is none would be in the way of every query of the cache."""
    sweep_id = write_sweep(cache)
    cache.push(["trial", "small"], tmp_path / "shared")
    path = tmp_path / "shared" / "sweeps" / sweep_id / "manifest.json"
    listing = tmp_path / "shared" / "steercache.json"
    said, document = json.loads(listing.read_text()), json.loads(path.read_text())
    document["cells"][1]["alpha"] = {"a": 1}
    path.write_text(forged := json.dumps(document))
    entry = next(f for item in said["items"] for f in item["files"] if f["path"].endswith("/manifest.json"))
    entry |= {"n_bytes": len(forged), "sha256": hashlib.sha256(forged.encode()).hexdigest()}
    listing.write_text(json.dumps(said))
    other = steercache.open(tmp_path / "other", create=True)
    own = some_vector()
    other.save(own)
    before = below(other.root / "vectors")
    with pytest.raises(DamagedError, match="what came cannot be read, and is not kept"):
        other.pull(tmp_path / "shared")
    assert below(other.root / "vectors") == before
    assert not below(other.root / "sweeps")
    assert not below(other.root / "runs")
    assert other.sql("SELECT count(DISTINCT vector_id) FROM vectors").fetchall() == [(1,)]
    assert other.pull(tmp_path / "shared", "small").n_files > 0  # the rest is as it was
    assert other.sql("SELECT count(*) FROM runs").fetchall() == [(1,)]
