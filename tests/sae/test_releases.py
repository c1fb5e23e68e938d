"""Published releases from a hub cache folder, offline: the layouts of their authors, with random weights of a tiny width.

sae-lens takes the width of Gemma Scope from the names of repository and folder; its own `config_overrides` make it tiny here.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sae_lens import SAE
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

from steercache.manifests.sae import LayerSae, ReleaseSae, SaeManifest
from steercache.sae.hooks import site_of
from steercache.sae.loading import load_sae
from tests.sae import formulas
from tests.sae.folders import rows
from tests.sae.hub import COMMIT, as_json, npz, put, random, safetensors_bytes, torch_bytes
from tests.sae.releases import D, S, check, double, manifest, narrow


def test_gemma_scope_by_its_folder_and_by_the_canonical_id(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = random(D, S)
    folder = get_pretrained_saes_directory()["gemma-scope-2b-pt-res-canonical"].saes_map["layer_12/width_16k/canonical"]
    assert folder.startswith("layer_12/width_16k/average_l0_")
    put(hub, "google/gemma-scope-2b-pt-res", {f"{folder}/params.npz": npz(**weights)})
    expected = formulas.jumprelu(rows().double().numpy(), double(weights))
    rebuilt = formulas.decode(expected, double(weights))
    ids = []
    for release, sae_id in (
        ("gemma-scope-2b-pt-res-canonical", "layer_12/width_16k/canonical"),
        ("gemma-scope-2b-pt-res", folder),
    ):
        narrow(monkeypatch, release)
        sae = load_sae(manifest(release, sae_id))
        check(sae, expected, rebuilt, SAE.from_pretrained(release, sae_id))
        spec = sae.spec
        assert (spec.architecture, spec.model_name, spec.site, spec.layer) == (
            "jumprelu",
            "gemma-2-2b",
            "resid_post",
            12,
        )
        assert (spec.prepend_bos, spec.context_size) == (True, 1024)
        assert spec.source["revision"] == COMMIT
        assert spec.source["repository"] == "google/gemma-scope-2b-pt-res"
        ids.append(spec.sae_id)
    assert ids[0] == ids[1]
    assert sae.spec.neuronpedia_id is None or "gemma-2-2b" in sae.spec.neuronpedia_id


def test_the_shipped_manifest_of_gemma_scope_loads_a_layer_by_its_name(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = "gemma-scope-2b-pt-res-canonical"
    narrow(monkeypatch, release)
    for layer in (5, 6):
        folder = get_pretrained_saes_directory()[release].saes_map[f"layer_{layer}/width_16k/canonical"]
        put(hub, "google/gemma-scope-2b-pt-res", {f"{folder}/params.npz": npz(**random(D, S, seed=layer))})
    spec = load_sae(f"{release}-l6").spec
    assert (spec.name, spec.layer, spec.neuronpedia_id) == (f"{release}-l6", 6, "gemma-2-2b/6-gemmascope-res-16k")
    assert spec.source["model"] == "gemma-2-2b"
    assert load_sae(release, layer=6).spec == spec
    assert load_sae(release, layer=5).spec.sae_id != spec.sae_id


@pytest.mark.parametrize("with_config", [True, False])
def test_gemma_scope_2(with_config: bool, hub: Path) -> None:
    release, sae_id = "gemma-scope-2-4b-pt-res", "layer_9_width_16k_l0_medium"
    weights = random(D, S)
    published = {name.lower(): torch.from_numpy(value) for name, value in weights.items()}
    files = {f"resid_post/{sae_id}/params.safetensors": safetensors_bytes(published)}
    if with_config:
        said = {
            "architecture": "jump_relu",
            "model_name": "gemma-v3-4b-pt",
            "hf_hook_point_in": "model.layers.9.output",
        }
        files[f"resid_post/{sae_id}/config.json"] = as_json(said)
    put(hub, "google/gemma-scope-2-4b-pt", files)
    expected = formulas.jumprelu(rows().double().numpy(), double(weights))
    sae = load_sae(release, layer=9)
    check(sae, expected, formulas.decode(expected, double(weights)), None)
    assert (sae.spec.model_name, sae.spec.site, sae.spec.layer) == ("google/gemma-3-4b-pt", "resid_post", 9)
    assert sae.spec.prepend_bos is True


@pytest.mark.parametrize("normalised", [False, True])
def test_sparsify_from_the_hub_and_from_a_folder(normalised: bool, hub: Path) -> None:
    """Names, shapes and encoding as in sparsify's `SparseCoder`: `W_dec` (features, width), `b_dec` always subtracted."""
    repository, k = "EleutherAI/sae-tiny", 6
    weights = random(D, S)
    tensors = {
        "encoder.weight": torch.from_numpy(weights["W_enc"].T.copy()),
        "encoder.bias": torch.from_numpy(weights["b_enc"]),
        "W_dec": torch.from_numpy(weights["W_dec"]),
        "b_dec": torch.from_numpy(weights["b_dec"]),
    }
    snapshot = put(
        hub,
        repository,
        {
            "config.json": as_json({"model": "EleutherAI/tiny", "ctx_len": 128}),
            "layers.4/cfg.json": as_json(
                {"d_in": D, "num_latents": S, "k": k, "expansion_factor": 32, "normalize_decoder": normalised}
            ),
            "layers.4/sae.safetensors": safetensors_bytes(tensors),
        },
    )
    expected = formulas.topk(rows().double().numpy(), double(weights), k)
    sae = load_sae(manifest(repository, "layers.4", format="sparsify"))
    check(sae, expected, formulas.decode(expected, double(weights)), None)
    assert (sae.spec.architecture, sae.spec.site, sae.spec.layer) == ("topk", "resid_post", 4)
    assert sae.spec.context_size is None or sae.spec.context_size == 128
    (snapshot.parent / "mine.yaml").write_text(
        f"kind: sae\nversion: 1\nname: mine\nsource: {{type: folder, folder: {snapshot.name}, format: sparsify}}\n"
        "saes: [{layer: 4, sae: layers.4}]\n"
    )
    assert load_sae(snapshot.parent / "mine.yaml", layer=4).spec.sae_id == sae.spec.sae_id


DICTIONARIES: dict[str, tuple[dict[str, str], Any]] = {
    "AutoEncoder": (
        {"encoder.weight": "W_enc.T", "encoder.bias": "b_enc", "decoder.weight": "W_dec.T", "bias": "b_dec"},
        formulas.standard,
    ),
    "AutoEncoderTopK": (
        {"encoder.weight": "W_enc.T", "encoder.bias": "b_enc", "decoder.weight": "W_dec.T", "b_dec": "b_dec"},
        lambda x, w: formulas.topk(x, w, 7),
    ),
    "BatchTopKSAE": (
        {"encoder.weight": "W_enc.T", "encoder.bias": "b_enc", "decoder.weight": "W_dec.T", "b_dec": "b_dec"},
        lambda x, w: formulas.jumprelu(x, {**w, "threshold": np.full(S, 0.25)}, subtract=True),
    ),
    "JumpReluAutoEncoder": (
        {"W_enc": "W_enc", "b_enc": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec", "threshold": "threshold"},
        formulas.jumprelu,
    ),
    "GatedAutoEncoder": (
        {
            "encoder.weight": "W_enc.T",
            "decoder.weight": "W_dec.T",
            "decoder_bias": "b_dec",
            "gate_bias": "b_enc",
            "mag_bias": "threshold",
            "r_mag": "r_mag",
        },
        lambda x, w: formulas.gated(x, {**w, "b_gate": w["b_enc"], "b_mag": w["threshold"]}),
    ),
}


def dictionary(weights: dict[str, np.ndarray], names: dict[str, str]) -> dict[str, torch.Tensor]:
    values = {theirs: weights[ours.removesuffix(".T")] for theirs, ours in names.items()}
    return {
        theirs: torch.from_numpy((values[theirs].T if ours.endswith(".T") else values[theirs]).copy())
        for theirs, ours in names.items()
    }


@pytest.mark.parametrize("kind", DICTIONARIES)
def test_dictionary_learning(kind: str, hub: Path) -> None:
    names, formula = DICTIONARIES[kind]
    release = next(
        r for r, e in get_pretrained_saes_directory().items() if e.conversion_func == "dictionary_learning_1"
    )
    entry = get_pretrained_saes_directory()[release]
    sae_id, folder = next(iter(entry.saes_map.items()))
    weights = {**random(D, S), "r_mag": (np.random.default_rng(9).standard_normal(S) * 0.1).astype(np.float32)}
    tensors = dictionary(weights, names)
    if kind == "BatchTopKSAE":
        tensors["threshold"] = torch.tensor(0.25)
    trainer = {
        "dict_class": kind,
        "activation_dim": D,
        "dict_size": S,
        "layer": 2,
        "k": 7,
        "lm_name": "EleutherAI/tiny",
    }
    config = as_json({"trainer": trainer, "buffer": {"ctx_len": 256}})
    put(hub, entry.repo_id, {f"{folder}/config.json": config, f"{folder}/ae.pt": torch_bytes(tensors)})
    expected = formula(rows().double().numpy(), double(weights))
    sae = load_sae(manifest(release, sae_id))
    check(sae, expected, formulas.decode(expected, double(weights)), SAE.from_pretrained(release, sae_id))
    assert (sae.spec.site, sae.spec.layer, sae.spec.context_size) == ("resid_post", 2, 256)


def test_a_release_in_the_layout_of_sae_lens_and_a_repository_that_it_does_not_list(hub: Path, tmp_path: Path) -> None:
    from tests.sae.folders import inference, saved

    made = inference("topk", k=4)
    folder = saved(made, tmp_path / "made")
    files = {f"blocks.1/{path.name}": path.read_bytes() for path in folder.iterdir()}
    put(hub, "someone/saes", files)
    sae = load_sae(manifest("someone/saes", "blocks.1"))
    assert sae.spec.sae_id == load_sae(folder).spec.sae_id
    with torch.no_grad():
        assert torch.equal(sae.encode(rows()), made.encode(rows()))


def test_a_revision_is_read_at_that_commit(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    narrow(monkeypatch, "gemma-scope-2b-pt-res")
    folder = "layer_12/width_16k/average_l0_82"
    older = "f" * 40
    put(hub, "google/gemma-scope-2b-pt-res", {f"{folder}/params.npz": npz(**random(D, S, seed=1))}, commit=older)
    put(hub, "google/gemma-scope-2b-pt-res", {f"{folder}/params.npz": npz(**random(D, S, seed=2))})
    new = load_sae(manifest("gemma-scope-2b-pt-res", folder)).spec
    old = load_sae(manifest("gemma-scope-2b-pt-res", folder, revision=older)).spec
    assert (new.source["revision"], old.source["revision"]) == (COMMIT, older)
    assert new.sae_id != old.sae_id


@pytest.mark.slow
def test_gemma_scope_at_its_real_width(hub: Path) -> None:
    """2,304 x 16,384 as sae-lens expects it of the names alone; mostly zeros, compressed on disk."""
    weights = random(2304, 16)
    wide = {
        "W_enc": np.zeros((2304, 16384), np.float32),
        "W_dec": np.zeros((16384, 2304), np.float32),
        "b_enc": np.zeros(16384, np.float32),
        "b_dec": weights["b_dec"],
        "threshold": np.full(16384, 0.01, np.float32),
    }
    for name, cut in (
        ("W_enc", np.s_[:, :16]),
        ("W_dec", np.s_[:16]),
        ("b_enc", np.s_[:16]),
        ("threshold", np.s_[:16]),
    ):
        wide[name][cut] = weights[name]
    folder = get_pretrained_saes_directory()["gemma-scope-2b-pt-res-canonical"].saes_map["layer_20/width_16k/canonical"]
    put(hub, "google/gemma-scope-2b-pt-res", {f"{folder}/params.npz": npz(**wide)})
    sae = load_sae("gemma-scope-2b-pt-res-canonical-l20")
    x = rows(8, d=2304)
    expected = formulas.jumprelu(x.double().numpy(), double(weights))
    assert (sae.spec.d_in, sae.spec.d_sae) == (2304, 16384)
    np.testing.assert_allclose(sae.encode(x).numpy()[:, :16], expected, atol=1e-3)
    assert not sae.encode(x)[:, 16:].any()


def test_every_gemma_scope_of_the_list_is_placed_where_its_folder_says() -> None:
    """Of all releases in this layout: residual SAEs at the output of their block, the others at no site of the stream."""
    from sae_lens.loading.pretrained_sae_loaders import get_gemma_2_config_from_hf

    n_placed = 0
    for release, entry in get_pretrained_saes_directory().items():
        for folder in entry.saes_map.values() if entry.conversion_func == "gemma_2" else ():
            config = get_gemma_2_config_from_hf(entry.repo_id, folder, "cpu")
            site, layer = site_of(config["hook_name"])
            if "-res" in release and "embedding" not in folder:
                assert (site, layer) == ("resid_post", int(folder.split("/")[0].removeprefix("layer_")))
                n_placed += 1
            else:
                assert layer is None
    assert n_placed > 500


def test_every_shipped_manifest_names_what_sae_lens_lists_and_at_the_layer_that_it_says() -> None:
    from steercache.core.shipped import shipped_folder
    from steercache.manifests.load import read_manifest

    names = {"gemma-scope-2b-pt-res-canonical", "gemma-scope-9b-pt-res-canonical"}
    names |= {"llama_scope_lxr_8x", "gemma-scope-2-4b-pt-res"}
    found = {path.stem: read_manifest(path) for path in (shipped_folder("manifests") / "saes").glob("*.yaml")}
    assert names <= set(found)
    for name in names:
        one = found[name]
        assert isinstance(one, SaeManifest)
        assert isinstance(one.source, ReleaseSae)
        listed = get_pretrained_saes_directory()[one.source.release]
        assert one.model is not None
        assert one.model.lower() == listed.model.split("/")[-1].lower()
        for sae in one.saes:
            assert isinstance(sae, LayerSae)
            assert listed.saes_map[sae.sae]
            digits = {
                int(part)
                for part in listed.saes_map[sae.sae].replace("R-", "_").replace("-L", "_").split("_")
                if part.isdigit()
            }
            assert sae.layer in digits or f"layer_{sae.layer}/" in listed.saes_map[sae.sae]
    assert found["gemma-scope-2b-pt-res-canonical"].layers == tuple(range(26))
