"""The SAE that ships: it loads by name, fits SmolLM2's runs, and its card's figures are found again on held-out text."""

import json
from pathlib import Path

import pytest
import torch

import steercache
from bench.zoo.sae_card import card
from steercache.api.saes import list_saes
from steercache.api.shipped import build_model, model_card, shipped_saes
from steercache.core.errors import NotFoundError, UsageError
from steercache.manifests.sae import SaeManifest, ShippedSae
from steercache.sae.again import load_recorded
from steercache.sae.loading import load_sae
from steercache.zoo.saes import sae_folder, sae_health, sae_names
from tests.docs.blocks import REPOSITORY

NAME = "smollm2-135m-l15"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_it_loads_by_name_and_says_what_it_is() -> None:
    assert sae_names() == (NAME,)
    sae = load_sae(NAME)
    spec = sae.spec
    assert (spec.model_name, spec.site, spec.layer) == ("smollm2-135m", "resid_post", 15)
    assert (spec.d_in, spec.d_sae, spec.architecture) == (576, 4608, "jumprelu")
    assert spec.prepend_bos is None  # texts with and without a chat template
    assert spec.sae_id == sae_health(NAME)["sae_id"]
    assert sae.decoder.shape == (4608, 576)
    features = sae.encode(torch.zeros(2, 576))
    assert features.shape == (2, 4608)
    assert load_recorded(spec.record()).spec == spec
    (named,) = [one for one in list_saes() if one.name == NAME]
    assert named.model == "smollm2-135m"


def test_its_folder_is_small_and_holds_no_code_and_no_path() -> None:
    folder = sae_folder(NAME)
    assert {path.name for path in folder.iterdir()} == {"card.md", "cfg.json", "health.json", "sae_weights.safetensors"}
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 40 * 10**6
    for path in folder.glob("*.json"):
        assert "/work" not in path.read_text()
        assert "/tmp" not in path.read_text()


def test_its_card_shows_what_was_measured() -> None:
    health = sae_health(NAME)
    assert model_card(NAME) == card(NAME, health)
    assert f"{health['held_out']['text']['explained_variance']:.3f}" in model_card(NAME)
    (ships,) = shipped_saes()
    assert ships.explained_variance == health["held_out"]["text"]["explained_variance"] > 0.5


def test_it_is_copied_whole_and_never_over_something_else(tmp_path: Path) -> None:
    copied = build_model(NAME, tmp_path / "sae")
    assert load_sae(copied).spec.sae_id == load_sae(NAME).spec.sae_id
    assert build_model(NAME, tmp_path / "sae") == copied
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError):
        build_model(NAME, tmp_path / "other")
    manifest = SaeManifest(kind="sae", version=1, name="x", source=ShippedSae(type="zoo", name="no-such-sae"))
    with pytest.raises(NotFoundError, match=NAME):
        load_sae(manifest)


@pytest.mark.slow
def test_the_figures_of_the_card_are_found_again_on_held_out_text(tmp_path: Path) -> None:
    texts = REPOSITORY / "bench" / "zoo" / "held_out"
    cache = steercache.open(tmp_path / "cache", create=True)
    run = cache.build(texts / "trace.yaml", device="cpu", dtype="bfloat16", progress=False)
    health = cache.sae_health(NAME, run=run, model="smollm2-135m", device="cpu", n_texts=20)  # fits: it is not refused
    written = json.loads((sae_folder(NAME) / "health.json").read_text())
    for kind in ("all", "text"):
        found, said = health.of(kind), written["held_out"][kind]
        assert found.n_rows == said["n_rows"]
        assert found.explained_variance == pytest.approx(said["explained_variance"], abs=0.01)
        assert found.cosine == pytest.approx(said["cosine"], abs=0.01)
        assert found.l0_mean == pytest.approx(said["l0_mean"], rel=0.03)
    assert health.loss is not None
    assert health.loss.recovered == pytest.approx(written["loss"]["recovered"], abs=0.05)
